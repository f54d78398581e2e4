"""A lease without a ttl: a locked file, and a record of the holder beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.errors import StorageFailed
from milepost.journal.process import forks
from milepost.journal.storage.files.failures import fail
from milepost.journal.storage.files.lease_lock import LeaseLock
from milepost.journal.storage.files.record_file import RecordFile
from milepost.journal.storage.leases import Holder, decode, encode
from milepost.journal.storage.records import change

if TYPE_CHECKING:
    from milepost.journal.disk.disk import Disk, File
    from milepost.journal.storage.files.folders import Folders


class LeaseFile:
    """A `Lease` without a ttl.

    Args:
        disk: the file operations.
        folders: those of the store.
        name: of the lease.
        lock_timeout_seconds: how long to wait for a write of a record.
    """

    def __init__(
        self, disk: Disk, folders: Folders, name: str, lock_timeout_seconds: float
    ) -> None:
        self._name = name
        self._lock = LeaseLock(disk, folders, name)
        self._facts = RecordFile(disk, folders, f"{name}.lease", lock_timeout_seconds)
        self._facts_path = folders.records / f"{name}.lease"
        self._file: File | None = None
        self._fence = 0
        forks.watch(self)

    @property
    def fence(self) -> int | None:
        """See `Lease.fence`."""
        return self._fence if self.is_held() else None

    def acquire(self, who: str) -> bool:
        """See `Lease.acquire`."""
        if self.is_held():
            return True
        self.release()  # the file was replaced
        try:
            return self._acquire(who)
        except OSError as exc:
            fail(exc, f"cannot take {self._lock.path}")

    def _acquire(self, who: str) -> bool:
        file = self._lock.take()
        if file is None:
            return False
        try:
            self._fence = self._write(who)
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def _write(self, who: str) -> int:
        def next_holder(raw: bytes | None) -> bytes:
            before = None if raw is None else decode(raw, self._name)
            return encode(Holder.here(before, who))

        return decode(change(self._facts, next_holder), self._name).fence

    def renew(self) -> bool:
        """See `Lease.renew`: the lock does not expire."""
        return self.is_held()

    def is_held(self) -> bool:
        """See `Lease.is_held`."""
        return self._file is not None and self._lock.is_named(self._file)

    def holder(self) -> Holder | None:
        """See `Lease.holder`."""
        found = self._facts.get() if self.is_live() else None
        return None if found is None else decode(found.value, self._name)

    def is_live(self) -> bool:
        """See `Lease.is_live`."""
        file = self._lock.look()
        if file is not None:
            file.close()
        return file is not None

    def release(self, *, forget: bool = False) -> None:
        """See `Lease.release`."""
        file = self._file
        if file is None:
            return
        try:
            self._lock.release(file, self._facts_path, forget=forget)
        except StorageFailed:
            self._file = None  # it is released, and its files stay
            raise
        self._file = None  # after an interruption it is released again

    def after_fork(self) -> None:
        """Leave the lease to the parent: a child's copy would outlive it."""
        self.release()
