"""A journal's successor in the making, until it takes the journal's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from journal.errors import NoSpace
from journal.storage import Busy

if TYPE_CHECKING:
    from pathlib import Path

    from journal.disk import Disk, File


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
    """A new file beside a journal; whoever writes it holds its lock.

    Raises:
        Busy: another process is writing one.
        OSError: it cannot be made.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        remove_leftover(disk, path)
        try:
            self.file: File = disk.open(path, "append", create=True)
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
        while data:  # the kernel takes at most 2 GiB in one call
            taken = self.file.append(data)
            if taken == 0:
                raise NoSpace(f"no room for {self._path}; nothing was changed")
            self.size += taken
            data = data[taken:]

    def sync(self) -> None:
        """See `Copy.sync`.

        Raises:
            OSError: it cannot be; then `place` must not be tried.
        """
        self.file.sync(metadata=True)

    def place(self, target: Path) -> File:
        """Put it, synced, in the place of `target`; return the open file.

        The name is not on the medium until the folder is synced.

        Raises:
            OSError: it is not in place.
        """
        self.file.sync(metadata=True)
        self._disk.rename(self._path, target)
        self._is_placed = True
        self.file.unlock()
        return self.file

    def discard(self) -> None:
        """Remove it, unless it was placed."""
        if not self._is_placed:
            self._disk.unlink(self._path)
            self.file.close()
