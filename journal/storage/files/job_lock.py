"""The lock of one job: it excludes all other writers, in this process and in others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from milepost.journal.disk.disk import Busy
from milepost.journal.errors import MilepostError, NestedCall
from milepost.journal.process.mutex import Mutex
from milepost.journal.storage.files.failures import failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.storage.files.head_file import MayCreate
    from milepost.journal.storage.files.job_files import JobFiles

_H = TypeVar("_H")

# A write is prepared in 0.1 ms.  If the turn does not come within this time, some write
# waits for a disk that hangs, and must not keep the other jobs from theirs.
_TURN_SECONDS = 0.05


class JobLock:
    """A mutex for the threads of this process, and the lock of the head file.

    Args:
        files: those of the job.
        timeout_seconds: how long to wait for another writer.

    Attributes:
        mutex: excludes the other threads.
        is_repair: taken for a repair, without recovery.
    """

    def __init__(self, files: JobFiles, timeout_seconds: float) -> None:
        self.files = files
        self.mutex = Mutex()
        self.is_repair = False
        self._timeout_seconds = min(timeout_seconds, threading.TIMEOUT_MAX)

    def take(self, *, wait: bool, may_create: MayCreate) -> None:
        """Take both locks.

        Args:
            wait: for up to the lock timeout; else raise at once.
            may_create: decides whether a missing head may be created.

        Raises:
            Busy: it is locked, and `wait` is false.
            LockTimeout: it stayed locked for too long.
            OSError: the head cannot be opened or created.
        """
        if not self.mutex.acquire(self._timeout_seconds if wait else 0):
            raise self.files.head.late() if wait else Busy
        self.files.count_as_open()
        self.files.head.lock(wait=wait, may_create=may_create)

    def try_take(self) -> bool:
        """Take both locks if nothing stands in the way; return whether it has them.

        The writers of a store take turns to prepare a write, up to its sync, so that
        they do not compete for the interpreter at each system call (docs/adr/0090).
        Nothing depends on that, so a turn that does not end soon is not waited for.

        The caller calls `release` in any case.
        """
        if not self.mutex.acquire(0):
            return False
        self.files.preparing.acquire(_TURN_SECONDS)
        try:
            return self.files.head.try_lock()
        except OSError:
            return False

    def refuse_nested(self) -> None:
        """Refuse to wait for a lock that this thread has taken.

        Raises:
            NestedCall: this thread has the job locked.
        """
        if self.mutex.is_mine:
            raise NestedCall.inside()

    def release(self) -> None:
        """Release the locks of this thread, and end its turn; idempotent."""
        if not self.mutex.is_mine:
            return
        try:
            if self.is_repair:
                self.is_repair = False
                if self.files.head.is_new:  # it would look like an interrupted creation
                    self.files.head.remove()
            if self.files.head.is_spent:
                self.files.remove_head()
        finally:
            self.files.head.unlock()
            self.files.preparing.release()
            self.mutex.release()


class JobLockScope(Generic[_H]):
    """The scope of a job's lock, as a context manager; see `LockScope`.

    Args:
        lock: the lock.
        take: takes the lock, and returns the job under it.
        what: names the operation in errors.
    """

    __slots__ = ("_is_mine", "_lock", "_take", "_what")

    def __init__(self, lock: JobLock, take: Callable[[], _H], what: str) -> None:
        self._lock = lock
        self._take = take
        self._what = what
        self._is_mine = False

    def __enter__(self) -> _H:
        self._lock.refuse_nested()
        self._is_mine = True
        try:
            return self._take()
        except BaseException as exc:
            self.__exit__(type(exc), exc, None)
            raise

    def release(self) -> None:
        """See `LockScope.release`."""
        if self._is_mine:
            self._lock.release()

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self.release()
        if isinstance(exc, OSError) and not isinstance(exc, MilepostError):
            raise failure(exc, f"{self._what} {self._lock.files.path}") from exc
