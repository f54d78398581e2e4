"""A file's successor in the making, until it takes the file's place."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from milepost.journal.disk.disk import Busy
from milepost.journal.disk.whole_file import append_all

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File


def remove_leftover(disk: Disk, path: Path) -> None:
    """Remove what somebody who died left at `path`; leave it if he is alive.

    Raises:
        Busy: somebody is writing it.
        OSError: it cannot be removed.
    """
    if disk.stat(path) is None:
        return
    try:
        file = disk.open(path, "update")
    except FileNotFoundError:
        return
    try:
        if not file.try_lock():
            raise Busy
        found = disk.stat(path)
        # Else whoever wrote it has ended meanwhile, and the name may be another's.
        if found is not None and found.inode == file.stat().inode:
            disk.unlink(path)
    finally:
        file.close()


class JournalCopy:
    """A new file beside one that it is to replace; whoever writes it holds its lock.

    Args:
        disk: the file operations.
        path: of the new file, in the same folder.
        target: whose place it is to take, if it is there.
        like: whom it is for, if not as `target` is; see `Disk.open`.

    Raises:
        Busy: another process is writing one.
        ReadOnlyStore: this user cannot make a file like `target`.
        OSError: it cannot be made.
    """

    def __init__(
        self, disk: Disk, path: Path, target: Path, *, like: Path | None = None
    ) -> None:
        self._disk = disk
        self._path = path
        self._target = target
        remove_leftover(disk, path)
        try:
            self.file: File = disk.open(
                path, "append", create=True, like=like or target
            )
        except FileExistsError:
            raise Busy from None  # another one was quicker
        self._is_placed = False
        found = disk.stat(path) if self.file.try_lock() else None
        if found is None or found.inode != self.file.stat().inode:
            self.file.close()
            raise Busy
        self.size = 0

    def write(self, data: bytes) -> None:
        """Add `data`; not synced.

        Raises:
            NoSpace: there is no room for all of it.
            OSError: it cannot be written.
        """
        append_all(self.file, data, self._target)
        self.size += len(data)

    def sync(self) -> None:
        """See `Copy.sync`.

        Raises:
            OSError: it cannot be; then `place` must not be tried.
        """
        self.file.sync(metadata=True)

    def place(self) -> File:
        """Put it, synced, in its target's place; return the open file, still locked.

        The name is not on the medium until the folder is synced.

        Raises:
            OSError: it is not in place.
        """
        self.file.sync(metadata=True)
        self._disk.rename(self._path, self._target)
        self._is_placed = True
        return self.file

    def discard(self) -> None:
        """Remove it, unless it was placed."""
        if not self._is_placed:
            with suppress(FileNotFoundError):  # a Ctrl-C struck right after the rename
                self._disk.unlink(self._path)
            self.file.close()
