"""The cache of a store: one file that may be lost or spoiled at any time.

It is replaced without a lock and without a sync.  So a reader checks its digest, and
its user checks that what it says still holds.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from milepost.journal.disk import whole_file
from milepost.journal.errors import MilepostError

if TYPE_CHECKING:
    from milepost.journal.disk.disk import Disk
    from milepost.journal.storage.files.folders import Folders

NAME = "jobs.cache"
_MAX_BYTES = 1 << 30
_DIGEST_BYTES = 64  # in hex, and a newline

_log = logging.getLogger("milepost.journal")


def load(disk: Disk, folders: Folders) -> bytes | None:
    """Return the content of the cache; None if it is missing, empty or spoiled."""
    try:
        raw = whole_file.read(disk, folders.root / NAME, _MAX_BYTES)
    except (OSError, MilepostError):
        return None
    digest, value = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES + 1 :]
    return value if value and digest == _digest(value) else None


def keep(disk: Disk, folders: Folders, value: bytes) -> None:
    """Replace the content of the cache; an error leaves an old one or none."""
    path = folders.root / NAME
    # Two processes may write to one draft; then the digest is wrong.
    draft = path.with_suffix(".tmp")
    try:
        if disk.stat(draft) is not None:
            disk.unlink(draft)
        file = disk.open(draft, "append", create=True, like=folders.journals)
        try:
            whole_file.append_all(file, _digest(value) + b"\n" + value, path)
        finally:
            file.close()
        disk.rename(draft, path)
    except (OSError, MilepostError) as exc:
        _log.debug("%s is not written: %s", path, exc)
        with suppress(OSError):
            disk.unlink(draft)


def drop(disk: Disk, folders: Folders) -> None:
    """Remove the cache durably.

    Raises:
        OSError: it cannot be removed.
    """
    path = folders.root / NAME
    if disk.stat(path) is not None:
        with suppress(FileNotFoundError):  # another process was faster
            disk.unlink(path)
        disk.sync_folder(folders.root)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).hexdigest().encode()
