"""One worker at a time per store: whoever holds the lock on `<root>/worker/lock`.

The kernel drops a lock when its process ends, however it ends, so a second worker takes
over without any timeout.  Two leaders would do no harm to the journal (I8), they would
only do the work twice.
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
    """Make the folder of what a worker keeps, in a store that is there.

    Raises:
        OSError: it cannot be made, or the store is gone: a store whose disk was
            unmounted must not come back as a folder on the disk below.
    """
    folder.parent.stat()
    make_folder_like(PosixDisk(), folder, folder.parent / "journals")


class LeaderLock:
    """The right to do a store's background work; `path` None is a store in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._disk = PosixDisk()
        self._file: PosixFile | None = None

    def take(self) -> bool:
        """Return whether this process leads now; never waits.

        Raises:
            OSError: the lock file can't be made, or the store's folder is gone.
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
                # A copy by hard links shares it: that one is not ours to write to.
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
        """Return whether the lock is still the one that others would find.

        A store's folder may be removed and made again; a lock on the old file then
        keeps nobody out.
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
        """Return who leads, as far as the lock file tells: for log lines only."""
        pid = self._written_pid()
        return "another process" if pid is None else f"process {pid}"

    def leader(self) -> int | None:
        """Return the id of the process that leads now, None if none does.

        Not a look at the process table: an id is given away again, in a container it
        means another process, and the kernel drops the lock with its holder.
        """
        if self._path is None or self._file is not None:
            return os.getpid() if self._file is not None else None
        try:
            file = self._disk.open(self._path, "read")
        except OSError:
            return None  # nobody ever led
        try:
            # For a moment it is ours; whoever wants to lead then asks again soon.
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
        """Let another process lead."""
        if self._file is not None:
            self._file.close()
            self._file = None
