"""Pause the garbage collector while building long-lived objects.

The collector would traverse every new index entry repeatedly: for 10,000 jobs with
100 checkpoints each, folding took nearly twice as long.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from milepost.journal.process import forks
from milepost.journal.process.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class _Rest:
    """The pauses that are in force; the collector is one for the whole process."""

    def __init__(self) -> None:
        self._guard = Mutex()
        self._sleepers: set[object] = set()

    def begin(self, sleeper: object) -> None:
        """Disable the collector, unless other code has disabled it already."""
        if self._sleepers or gc.isenabled():
            self._sleepers.add(sleeper)
            gc.disable()

    def end(self, sleeper: object) -> None:
        """Enable the collector if this was the last pause; idempotent."""
        if self._sleepers == {sleeper}:
            gc.enable()
        self._sleepers.discard(sleeper)

    def during(self, work: Callable[[], _T]) -> _T:
        """See `at_rest`."""
        sleeper = object()
        try:
            try:
                self._guard.hold(partial(self.begin, sleeper))
                return work()
            finally:
                self._guard.hold(partial(self.end, sleeper))
        finally:
            if sleeper in self._sleepers:  # an exception came in between
                self._guard.hold(partial(self.end, sleeper))

    def after_fork(self) -> None:
        """See `forks`: only the forking thread still runs."""
        self._guard = Mutex()
        if self._sleepers:
            self._sleepers = set()
            gc.enable()


_rest = _Rest()
forks.watch(_rest)


def at_rest(work: Callable[[], _T]) -> _T:
    """Run `work` and return its result, with the collector paused.

    Pauses may overlap; the last one ends them.  A collector that other code disabled
    stays disabled.
    """
    return _rest.during(work)
