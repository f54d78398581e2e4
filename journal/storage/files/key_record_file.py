"""The file of a store's key record (`milepost.journal.crypto.key_record`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.crypto import key_record
from milepost.journal.disk import whole_file
from milepost.journal.disk.disk import within
from milepost.journal.errors import LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.crypto.key_record import KeyRecord
    from milepost.journal.disk.disk import Disk, File


class _Known(NamedTuple):
    """A record, and the file that it was read from.

    The file stays open, so that no other file can get its inode.
    """

    file: File
    inode: int
    record: KeyRecord


class RecordFile:
    """``keys.json`` of one store.  Safe for threads.

    Args:
        disk: the file operations.
        root: the store.
        lock_timeout_seconds: how long to wait for another change.
    """

    def __init__(self, disk: Disk, root: Path, lock_timeout_seconds: float) -> None:
        self._disk = disk
        self._path = root / "keys.json"
        self._temporary = root / "keys.json.tmp"
        self._lock_path = root / "store.json"  # never replaced, so it can be locked
        self._lock_timeout_seconds = lock_timeout_seconds
        self._known: _Known | None = None

    def read(self) -> KeyRecord | None:
        """Return the record; None if there is none.  Cached.

        Raises:
            NewerFormat, OSError: it cannot be read.
        """
        found = self._disk.stat(self._path)
        if found is None:
            self._known = None
            return None
        known = self._known
        if known is None or known.inode != found.inode:
            file = self._disk.open(self._path, "read")
            raw = file.read(0, key_record.MAX_BYTES)
            record = key_record.decode(raw, self._path)
            known = self._known = _Known(file, file.stat().inode, record)
        return known.record

    def change(self, change: Callable[[KeyRecord | None], KeyRecord]) -> KeyRecord:
        """Replace the record durably by the result of `change`.

        Raises:
            LockTimeout, NoSpace, ReadOnlyStore, OSError: the record is unchanged.
        """
        lock = self._disk.open(self._lock_path, "read")
        try:
            if not within(self._lock_timeout_seconds, lock.try_lock):
                raise LockTimeout(
                    f"{self._lock_path} stayed locked by a change of keys",
                    hint="try again; if it stays locked, look for a stopped process",
                )
            before = self.read()
            after = change(before)
            if after != before:
                whole_file.replace(
                    self._disk,
                    self._temporary,
                    self._path,
                    [key_record.encode(after)],
                    like=self._lock_path if before is None else self._path,
                )
            else:  # its creator may have crashed before the name was durable
                self._disk.sync_folder(self._path.parent)
        finally:
            lock.close()
        return after

    def close(self) -> None:
        """Release the file."""
        self._known = None
