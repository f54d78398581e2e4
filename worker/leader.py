"""Leader election among the workers of a store, by a lock on `<root>/worker/lock`.

The kernel releases the lock when its process ends, so another worker takes over without
a timeout.  Two leaders would not harm the journal (I8); they would repeat work.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from milepost.journal.disk import whole_file
from milepost.journal.disk.disk import PosixDisk, PosixFile, make_folder_like

if TYPE_CHECKING:
    from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create the worker's folder in an existing store.

    Raises:
        OSError: the folder cannot be created, or the store does not exist.  A store
            whose disk was unmounted is not recreated on the disk below.
    """
    folder.parent.stat()
    make_folder_like(PosixDisk(), folder, folder.parent / "journals")


class LeaderLock:
    """The lock of the leader; `path` is None for a store in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._disk = PosixDisk()
        self._file: PosixFile | None = None

    def take(self) -> bool:
        """Try to take the lock without waiting; return whether this process has it.

        Raises:
            OSError: the lock file can't be created, or the store's folder is missing.
        """
        if self._path is None or self._file is not None:
            return True
        make_folder(self._path.parent)
        file = self._open(self._path)
        try:
            if not file.try_lock():
                file.close()
                return False
            if file.stat().links > 1:
                # A copy of the store made of hard links shares this file; writing to
                # it would change the copy.
                self._disk.unlink(self._path)
                file.close()
                return self.take()
            file.truncate(0)
            file.pwrite(b"%d\n" % os.getpid(), 0)
        except BaseException:
            file.close()
            raise
        self._file = file
        if not self.is_held():  # the file was replaced while we opened it
            self.release()
            return False
        return True

    def is_held(self) -> bool:
        """Return whether the locked file is still the one at `path`.

        If the store's folder was removed and created again, a lock on the old file
        excludes no other process.
        """
        if self._path is None:
            return True
        if self._file is None:
            return False
        ours = self._file.status()
        try:
            found = self._path.stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)

    def holder(self) -> str:
        """Return the leader as written in the lock file; for log lines only."""
        pid = self._written_pid()
        return "another process" if pid is None else f"process {pid}"

    def leader(self) -> int | None:
        """Return the process id of the leader, None if there is none.

        Tests the lock, not the process table: process ids are reused, and differ
        between containers.
        """
        if self._path is None or self._file is not None:
            return os.getpid() if self._file is not None else None
        try:
            file = self._disk.open(self._path, "read")
        except OSError:
            return None  # no worker has led this store
        try:
            # Takes the lock for a moment; a worker that fails to get it retries soon.
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._written_pid()
        finally:
            file.close()
        return None

    def _open(self, path: Path) -> PosixFile:
        try:
            return self._disk.open(path, "update")
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                return self._disk.open(path, "update", create=True)
            return self._disk.open(path, "update")

    def _written_pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            if self._path is not None:
                return int(whole_file.read(self._disk, self._path, 20))
        return None

    def release(self) -> None:
        """Release the lock, so that another process can lead."""
        if self._file is not None:
            self._file.close()
            self._file = None
