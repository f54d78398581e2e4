"""A lock that is released even if an exception interrupts its release.

A signal handler, or a library that ends a thread's work, can raise an exception
between any two steps.  Each lock is therefore released twice: by `with`, and by a
`finally` around it that checks whether this thread still owns the lock.  One
exception can skip only one of the two (docs/adr/0026).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Mutex:
    """A reentrant lock that knows its owner thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @property
    def is_mine(self) -> bool:
        """Whether this thread owns the lock."""
        # `threading.Condition` calls the same method.
        return bool(self._lock._is_owned())  # type: ignore[attr-defined] # noqa: SLF001

    def hold(self, work: Callable[[], _T]) -> _T:
        """Run `work` under the lock and return its result."""
        is_nested = self._lock._is_owned()  # type: ignore[attr-defined] # noqa: SLF001
        try:
            with self._lock:
                return work()
        finally:
            if not is_nested:
                self.release()

    def try_hold(self, work: Callable[[], object]) -> bool:
        """Run `work` under the lock; return False if another thread has the lock."""
        try:
            if not self._lock.acquire(blocking=False):
                return False
            self._work(work)
        finally:
            self.release()
        return True

    def _work(self, work: Callable[[], object]) -> None:
        # Separate from `try_hold`: CPython 3.11 does not count an inner `try` as part
        # of the outer one, so an exception between them would skip both.
        try:
            work()
        finally:
            self.release()

    def acquire(self, timeout: float) -> bool:
        """Acquire the lock within `timeout` seconds; the caller must `release` it."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Release the lock completely; do nothing if this thread does not own it."""
        while self._lock._is_owned():  # type: ignore[attr-defined] # noqa: SLF001
            self._lock.release()
