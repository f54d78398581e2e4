"""The locked file of a lease, and the right to replace or remove it.

    <name>.lock       locked with flock by the holder
    <name>.lock.tmp   locked by the process that replaces or removes it, for a moment

The kernel releases a lock when its process ends, so another process follows at once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from milepost.journal.storage.files.failures import fail
from milepost.journal.storage.files.record_file import make_records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File
    from milepost.journal.storage.files.folders import Folders

# Bounds loops that other processes would have to disturb at each turn.
_MOST_TURNS = 100


class LeaseLock:
    """The files of one lock in the folder `records` of a store.

    Args:
        disk: the file operations.
        folders: those of the store.
        name: of the lease.
    """

    def __init__(self, disk: Disk, folders: Folders, name: str) -> None:
        self._disk = disk
        self._folders = folders
        self.path = folders.records / f"{name}.lock"

    @property
    def _draft_path(self) -> Path:
        return self._folders.records / f"{self.path.name}.tmp"

    def take(self) -> File | None:
        """Lock the file, created if missing; None if another process has it locked.

        Raises:
            OSError: it cannot be opened, or the store does not exist.
        """
        return self._take(self.path, self._remove)

    def take_draft(self) -> File | None:
        """Lock the draft: the right to replace or remove the file.

        None if another process has it.

        Raises:
            OSError: as `take`.
        """
        return self._take(
            self._draft_path, lambda _draft: self._disk.unlink(self._draft_path)
        )

    def _take(self, path: Path, remove: Callable[[File], None]) -> File | None:
        for _ in range(_MOST_TURNS):
            file = self._open(path)
            if file is None:
                continue
            is_taken = False
            try:
                if not file.try_lock():
                    return None
                links = self._links(path, file)
                is_taken = links == 1
                if is_taken:
                    return file
                if links > 1:
                    # A copy of the store made of hard links shares this file, and with
                    # it the lock.
                    remove(file)
            finally:
                if not is_taken:
                    file.close()
        return None

    def _open(self, path: Path) -> File | None:
        """Open or create a file; None if another process did the same meanwhile."""
        with suppress(FileNotFoundError):
            return self._disk.open(path, "update")
        if self._disk.stat(self._folders.records) is None:
            make_records(self._disk, self._folders)
        with suppress(FileExistsError):
            return self._disk.open(path, "update", create=True)
        return None

    def look(self, *, even_free: bool = False) -> File | None:
        """Open the file to read it; None if it is missing or not locked.

        Tests the lock, not the process table: process ids are reused, and differ
        between containers.

        Args:
            even_free: do not test the lock.
        """
        return self._look(self.path, even_free=even_free)

    def is_being_replaced(self) -> bool:
        """Return whether another process has the draft locked."""
        file = self._look(self._draft_path)
        if file is not None:
            file.close()
        return file is not None

    def _look(self, path: Path, *, even_free: bool = False) -> File | None:
        try:
            file = self._disk.open(path, "read")
        except OSError:
            return None  # it was never held
        is_wanted = even_free
        try:
            # Takes the lock for a moment; a contender that fails to get it retries.
            is_wanted = is_wanted or not file.try_lock(shared=True)
        finally:
            if not is_wanted:
                file.close()
        return file if is_wanted else None

    def is_named(self, file: File) -> bool:
        """Return whether `file` is still the file of the lease.

        If the store's folder was removed and created again, a lock on the old file
        excludes no other process.
        """
        return self._links(self.path, file) > 0

    def _links(self, path: Path, file: File) -> int:
        """Return how many names the file at `path` has, 0 if `file` is another one."""
        try:
            ours, found = file.stat(), self._disk.stat(path)
        except OSError:  # also if another thread has just closed it
            return 0
        if found is None or (found.device, found.inode) != (ours.device, ours.inode):
            return 0
        return found.links

    def replace(self) -> None:
        """Give the draft, which this process has locked, the name of the file."""
        self._disk.rename(self._draft_path, self.path)

    def drop_draft(self, draft: File) -> None:
        """Remove and release a draft that this process has locked.

        After an interruption it may be the file of the lease, and another the draft.
        """
        try:
            if self._links(self._draft_path, draft):
                self._disk.unlink(self._draft_path)
        finally:
            draft.close()

    def release(self, file: File, *others: Path, forget: bool) -> None:
        """Close the file, which this process has locked; see `Lease.release`.

        Args:
            file: the file.
            others: removed with it.
            forget: remove it, unless another process replaces it or has done so.

        Raises:
            StorageFailed: it is released, and cannot be removed.
        """
        try:
            if forget:
                self._remove(file, *others)
        except OSError as exc:
            fail(exc, f"cannot remove {self.path}")
        finally:
            file.close()

    def _remove(self, file: File, *others: Path) -> None:
        draft = self.take_draft()
        if draft is None:
            return
        try:
            if self.is_named(file):
                for path in (*others, self.path):
                    with suppress(FileNotFoundError):
                        self._disk.unlink(path)
        finally:
            self.drop_draft(draft)
