"""Python's garbage collector, put to rest while much is built that stays.

It would walk every new entry of an index again and again: of 10,000 jobs with 100
checkpoints each, folding took nearly twice as long.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from journal import forks

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Rest:
    """How many want the collector to rest: it is one for the whole process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._sleepers = 0

    def begin(self) -> bool:
        """Switch it off; False if somebody else has, for reasons of his own."""
        with self._guard:
            if not self._sleepers and not gc.isenabled():
                return False
            self._sleepers += 1
            gc.disable()
            return True

    def end(self) -> None:
        """Switch it on again, if this was the last."""
        with self._guard:
            self._sleepers -= 1
            if self._sleepers <= 0:
                self._sleepers = 0
                gc.enable()

    def after_fork(self) -> None:
        """See `forks`: nobody but the thread that forked is still at work."""
        self._guard = threading.Lock()
        if self._sleepers:
            self._sleepers = 0
            gc.enable()


_rest = _Rest()
forks.watch(_rest)


@contextmanager
def at_rest() -> Iterator[None]:
    """Let the collector rest until the last of those who asked for it is through.

    If somebody else has switched it off, it stays off.
    """
    is_mine = _rest.begin()
    try:
        yield
    finally:
        if is_mine:
            _rest.end()
