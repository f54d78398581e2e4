"""Atomic replacement of whole files."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from milepost.journal.errors import NoSpace, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File


def append_all(file: File, data: bytes, path: Path) -> None:
    """Append all of `data` to a private file that will become `path`.

    Raises:
        NoSpace: the disk is full.
        OSError: it cannot be written.
    """
    while data:  # the kernel takes at most 2 GiB in one call
        taken = file.append(data)
        if taken == 0:
            raise NoSpace(f"no room for {path}; nothing was changed")
        data = data[taken:]


def read(disk: Disk, path: Path, max_bytes: int) -> bytes:
    """Return the content of a file of at most `max_bytes`.

    Raises:
        StorageFailed: it is larger, or not a regular file.
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
    """Replace a file: write a temporary one, sync, rename, sync the folder.

    Args:
        disk: the file operations.
        temporary: a name in the same folder that only the caller uses.
        path: of the file, which may be missing.
        parts: its new content.
        like: model of owner and permissions, if not `path`; see `Disk.open`.

    Raises:
        NoSpace, ReadOnlyStore: `path` is unchanged.
        OSError: it cannot be written.
    """
    write_draft(disk, temporary, path, parts, like=like)
    place(disk, temporary, path)


def write_draft(
    disk: Disk,
    temporary: Path,
    path: Path,
    parts: Iterable[bytes],
    *,
    like: Path | None = None,
) -> None:
    """Write and sync the file that `place` gives the name `path`; see `replace`."""
    if disk.stat(temporary) is not None:
        disk.unlink(temporary)
    file = disk.open(temporary, "append", create=True, like=like or path)
    try:
        for data in parts:
            append_all(file, data, path)
        file.sync(metadata=True)
    except BaseException:
        with suppress(OSError):
            disk.unlink(temporary)
        raise
    finally:
        file.close()


def place(disk: Disk, temporary: Path, path: Path) -> None:
    """Rename a draft to `path` durably, or remove it if that fails."""
    try:
        disk.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            disk.unlink(temporary)
        raise
    disk.sync_folder(path.parent)
