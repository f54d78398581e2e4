"""The files of records: one each, replaced as a whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.disk import whole_file
from milepost.journal.disk.disk import make_folder_like, within
from milepost.journal.errors import LockTimeout, StorageFailed
from milepost.journal.storage.files.cached_file import CachedFile
from milepost.journal.storage.files.failures import fail
from milepost.journal.storage.records import (
    MAX_VALUE_BYTES,
    Stored,
    check_value,
    check_version,
)

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File
    from milepost.journal.storage.files.folders import Folders

# The random first line makes each file unique, so that the digest of a file is a
# version.  A file written by hand needs none.
_FIRST_LINE = re.compile(rb'\{"record":"[0-9a-f]{32}"\}\n')
_FIRST_LINE_BYTES = 48
_VERSION_DIGITS = 32


class RecordFile:
    """A `Record` in the folder `records` of a store.  Safe for threads.

    Args:
        disk: the file operations.
        folders: those of the store.
        name: of the file.
        lock_timeout_seconds: how long to wait for another write of any record.
    """

    def __init__(
        self, disk: Disk, folders: Folders, name: str, lock_timeout_seconds: float
    ) -> None:
        self._disk = disk
        self._folders = folders
        self._name = name
        self._path = folders.records / name
        self._lock_path = folders.root / "store.json"  # never replaced
        self._lock_timeout_seconds = lock_timeout_seconds
        most_bytes = _FIRST_LINE_BYTES + MAX_VALUE_BYTES + 1
        self._file = CachedFile(disk, self._path, most_bytes, self._parse)

    def get(self) -> Stored | None:
        """See `Record.get`: one `stat` while the file is the same."""
        try:
            return self._file.get()
        except OSError as exc:
            fail(exc, f"cannot read {self._path}")

    def _parse(self, raw: bytes) -> Stored:
        if len(raw) > _FIRST_LINE_BYTES + MAX_VALUE_BYTES:
            raise StorageFailed(f"{self._path} is too large for a record")
        first = _FIRST_LINE.match(raw)
        value = raw if first is None else raw[first.end() :]
        return Stored(value, _version(raw))

    def compare_and_set(self, expected: str | None, value: bytes) -> str:
        """See `Record.compare_and_set`."""
        check_value(self._name, value)
        try:
            lock = self._disk.open(self._lock_path, "read")
            try:
                return self._set(lock, expected, value)
            finally:
                lock.close()
        except OSError as exc:
            fail(exc, f"cannot write {self._path}")

    def _set(self, lock: File, expected: str | None, value: bytes) -> str:
        if not within(self._lock_timeout_seconds, lock.try_lock):
            raise LockTimeout(
                f"{self._lock_path} stayed locked by a change of a record",
                hint="try again; if it stays locked, look for a stopped process",
            )
        check_version(self._name, self.get(), expected)
        folder = make_records(self._disk, self._folders)
        raw = b'{"record":"%s"}\n' % ids.new_nonce().encode() + value
        draft = folder / f"{self._name}.tmp"  # only the owner of the lock uses it
        whole_file.replace(self._disk, draft, self._path, [raw], like=folder)
        return _version(raw)

    def close(self) -> None:
        """Release the file; the next `get` opens it again."""
        self._file.close()


def make_records(disk: Disk, folders: Folders) -> Path:
    """Create the folder of records durably; return it.

    Raises:
        OSError: it cannot be created, or the store does not exist.  A store whose disk
            was unmounted is not created again on the disk below.
    """
    if disk.stat(folders.root) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folders.root)
    make_folder_like(disk, folders.records, folders.journals)
    disk.sync_folder(folders.root)  # its creator may have crashed before
    return folders.records


def _version(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:_VERSION_DIGITS]
