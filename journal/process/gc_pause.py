"""Python's garbage collector, put to rest while much is built that stays.

It would walk every new entry of an index again and again: of 10,000 jobs with 100
checkpoints each, folding took nearly twice as long.
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
    """Who wants the collector to rest: it is one for the whole process."""

    def __init__(self) -> None:
        self._guard = Mutex()
        self._sleepers: set[object] = set()

    def begin(self, sleeper: object) -> None:
        """Switch it off, unless somebody else has, for reasons of their own."""
        if self._sleepers or gc.isenabled():
            self._sleepers.add(sleeper)
            gc.disable()

    def end(self, sleeper: object) -> None:
        """Switch it on again, if this was the last; idempotent."""
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
        """See `forks`: nobody but the thread that forked is still at work."""
        self._guard = Mutex()
        if self._sleepers:
            self._sleepers = set()
            gc.enable()


_rest = _Rest()
forks.watch(_rest)


def at_rest(work: Callable[[], _T]) -> _T:
    """Return what `work` does; the collector rests until the last such work is done.

    If somebody else has switched it off, it stays off.
    """
    return _rest.during(work)
