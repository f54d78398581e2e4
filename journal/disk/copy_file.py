"""A temporary file that replaces another one once it is complete."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal.disk.disk import Busy, within
from milepost.journal.disk.whole_file import append_all

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File

# How long another process may take to look for a leftover.
_GRACE_SECONDS = 0.2


def remove_leftover(disk: Disk, path: Path) -> None:
    """Remove a temporary file left by a crashed process.

    Raises:
        Busy: a running process has it locked.
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
        # Otherwise its writer has finished meanwhile, and the name is another file's.
        if found is not None and found.inode == file.stat().inode:
            disk.unlink(path)
    finally:
        file.close()


class JournalCopy:
    """A new file that replaces `target`; its writer has it locked.

    Args:
        disk: the file operations.
        path: of the new file, in the same folder.
        target: of the file that it replaces, which may be missing.
        like: model of its owner and permissions, if not `target`; see `Disk.open`.

    Raises:
        Busy: another process is writing one.
        ReadOnlyStore: this user cannot create a file like `target`.
        OSError: it cannot be created.
    """

    def __init__(
        self, disk: Disk, path: Path, target: Path, *, like: Path | None = None
    ) -> None:
        self._disk = disk
        self._path = path
        self._target = target
        self._is_placed = False
        self.size = 0
        # A process that looks for a leftover has it locked for a moment.
        file = within(_GRACE_SECONDS, partial(self._create, like or target))
        if file is None:
            raise Busy
        self.file: File = file

    def _create(self, like: Path) -> File | None:
        """Create the file and lock it; None if another process has it locked."""
        try:
            remove_leftover(self._disk, self._path)
            file = self._disk.open(self._path, "append", create=True, like=like)
        except (Busy, FileExistsError):
            return None
        found = self._disk.stat(self._path) if file.try_lock() else None
        if found is None or found.inode != file.stat().inode:
            file.close()
            return None
        return file

    def write(self, data: bytes) -> None:
        """Append `data` without a sync.

        Raises:
            NoSpace: the disk is full.
            OSError: it cannot be written.
        """
        append_all(self.file, data, self._target)
        self.size += len(data)

    def sync(self) -> None:
        """See `Copy.sync`.

        Raises:
            OSError: it failed; then `place` must not be called.
        """
        self.file.sync(metadata=True)

    def place(self) -> File:
        """Sync the file and rename it to its target; return it open and locked.

        The name is not durable until the caller has synced the folder.

        Raises:
            OSError: it does not replace the target.
        """
        self.file.sync(metadata=True)
        self._disk.rename(self._path, self._target)
        self._is_placed = True
        return self.file

    def discard(self) -> None:
        """Remove it, unless it was placed."""
        if not self._is_placed:
            # The file is gone if a Ctrl-C arrived right after the rename.
            with suppress(FileNotFoundError):
                self._disk.unlink(self._path)
            self.file.close()
