"""A file that is replaced whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from milepost.journal.errors import NoSpace, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File


def append_all(file: File, data: bytes, path: Path) -> None:
    """Add all of `data` to a file of one's own, which will be `path`.

    Raises:
        NoSpace: there is no room for it.
        OSError: it cannot be written.
    """
    while data:  # the kernel takes at most 2 GiB in one call
        taken = file.append(data)
        if taken == 0:
            raise NoSpace(f"no room for {path}; nothing was changed")
        data = data[taken:]


def read(disk: Disk, path: Path, max_bytes: int) -> bytes:
    """Return the content of a small file.

    Raises:
        StorageFailed: it is larger, or no file.
        OSError: it cannot be read.
    """
    file = disk.open(path, "read")
    try:
        data = file.read(0, max_bytes + 1)
    finally:
        file.close()
    if len(data) > max_bytes:
        raise StorageFailed(f"{path} is larger than {max_bytes} bytes")
    return data


def replace(
    disk: Disk,
    temporary: Path,
    path: Path,
    parts: Iterable[bytes],
    *,
    like: Path | None = None,
) -> None:
    """Write a whole file: temporary, sync, rename, sync the folder.

    Args:
        disk: the file operations.
        temporary: a name in the same folder, the caller's alone.
        path: what is replaced, if it is there.
        parts: what it is to hold.
        like: whom the new file is for, if not as `path` is; see `Disk.open`.

    Raises:
        NoSpace, ReadOnlyStore: `path` is as it was.
        OSError: it cannot be written.
    """
    if disk.stat(temporary) is not None:
        disk.unlink(temporary)
    file = disk.open(temporary, "append", create=True, like=like or path)
    try:
        for data in parts:
            append_all(file, data, path)
        file.sync(metadata=True)
        disk.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            disk.unlink(temporary)
        raise
    finally:
        file.close()
    disk.sync_folder(path.parent)
