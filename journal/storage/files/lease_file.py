"""The files of leases: a locked file, and a record of the holder.

The kernel releases the lock when its process ends, so another process takes over
without a timeout.  Nothing is written to the locked file.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from milepost.journal.process import forks
from milepost.journal.storage.files.failures import fail
from milepost.journal.storage.files.record_file import RecordFile, make_records
from milepost.journal.storage.leases import Holder, decode, encode
from milepost.journal.storage.records import change

if TYPE_CHECKING:
    from milepost.journal.disk.disk import Disk, File
    from milepost.journal.storage.files.folders import Folders


class LeaseFile:
    """A `Lease` in the folder `records` of a store.

    Args:
        disk: the file operations.
        folders: those of the store.
        name: of the lease.
        lock_timeout_seconds: how long to wait for a write of a record.
    """

    def __init__(
        self, disk: Disk, folders: Folders, name: str, lock_timeout_seconds: float
    ) -> None:
        self._disk = disk
        self._folders = folders
        self._name = name
        self._path = folders.records / f"{name}.lock"
        self._facts = RecordFile(disk, folders, f"{name}.lease", lock_timeout_seconds)
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
            fail(exc, f"cannot take {self._path}")

    def _acquire(self, who: str) -> bool:
        make_records(self._disk, self._folders)
        file = self._open()
        try:
            if not file.try_lock():
                file.close()
                return False
            if file.stat().links > 1:
                # A copy of the store made of hard links shares this file, and with it
                # the lock.
                self._disk.unlink(self._path)
                file.close()
                return self._acquire(who)
            if not self._is_named(file):  # replaced since it was opened
                file.close()
                return False
            self._fence = self._write(who)
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def _open(self) -> File:
        with suppress(FileNotFoundError):
            return self._disk.open(self._path, "update")
        with suppress(FileExistsError):
            return self._disk.open(self._path, "update", create=True)
        return self._disk.open(self._path, "update")

    def _write(self, who: str) -> int:
        def next_holder(raw: bytes | None) -> bytes:
            before = None if raw is None else decode(raw, self._name)
            return encode(Holder.here(before, who))

        return decode(change(self._facts, next_holder), self._name).fence

    def renew(self) -> bool:
        """See `Lease.renew`: the lock does not expire."""
        return self.is_held()

    def is_held(self) -> bool:
        """See `Lease.is_held`.

        If the store's folder was removed and created again, a lock on the old file
        excludes no other process.
        """
        return self._file is not None and self._is_named(self._file)

    def _is_named(self, file: File) -> bool:
        ours = file.stat()
        try:
            found = self._disk.stat(self._path)
        except OSError:
            return False
        if found is None:
            return False
        return (found.device, found.inode) == (ours.device, ours.inode)

    def holder(self) -> Holder | None:
        """See `Lease.holder`.

        Tests the lock, not the process table: process ids are reused, and differ
        between containers.
        """
        try:
            file = self._disk.open(self._path, "read")
        except OSError:
            return None  # it was never held
        try:
            # Takes the lock for a moment; a contender that fails to get it retries.
            if file.try_lock(shared=True):
                return None
        finally:
            file.close()
        found = self._facts.get()
        return None if found is None else decode(found.value, self._name)

    def release(self) -> None:
        """See `Lease.release`."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def after_fork(self) -> None:
        """Leave the lease to the parent: a child's copy would outlive it."""
        self.release()
