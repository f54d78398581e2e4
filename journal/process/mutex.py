"""A lock that its holder gives back whatever interrupts it.

A signal handler, or a library that ends a thread's work, can raise an exception between
any two steps.  Each lock is therefore given back twice: by `with`, and by a `finally`
around it that asks the lock itself whether this thread still has it.  One exception can
strike only one of the two (docs/adr/0026).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Mutex:
    """A lock that knows which thread has it; that thread may take it again."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @property
    def is_mine(self) -> bool:
        """Whether this thread has it."""
        # What `threading.Condition` asks, too.
        return bool(self._lock._is_owned())  # type: ignore[attr-defined] # noqa: SLF001

    def hold(self, work: Callable[[], _T]) -> _T:
        """Return what `work` does, done while this thread has the lock."""
        is_nested = self._lock._is_owned()  # type: ignore[attr-defined] # noqa: SLF001
        try:
            with self._lock:
                return work()
        finally:
            if not is_nested:
                self.release()

    def try_hold(self, work: Callable[[], object]) -> bool:
        """Do `work` while this thread has the lock; False if another one has it."""
        try:
            if not self._lock.acquire(blocking=False):
                return False
            self._work(work)
        finally:
            self.release()
        return True

    def _work(self, work: Callable[[], object]) -> None:
        # Not within `try_hold`: an inner `try` is no part of the outer one (CPython
        # 3.11), so an exception just there would meet neither.
        try:
            work()
        finally:
            self.release()

    def acquire(self, timeout: float) -> bool:
        """Take it, within `timeout` seconds; the caller must `release` it."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Give it back, however often this thread took it; nothing if it has it not."""
        while self._lock._is_owned():  # type: ignore[attr-defined] # noqa: SLF001
            self._lock.release()
