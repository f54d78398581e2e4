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

if TYPE_CHECKING:
    from pathlib import Path


class LeaderLock:
    """The right to do a store's background work; `path` None is a store in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Return whether this process leads now; never waits.

        Raises:
            OSError: the lock file can't be made, or the store's folder is gone.
        """
        if self._path is None or self._descriptor is not None:
            return True
        # Without `parents`: a store whose disk was unmounted must not come back as a
        # folder on the disk below.
        self._path.parent.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
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
        if self._descriptor is None:
            return False
        ours = os.fstat(self._descriptor)
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
        if self._path is None or self._descriptor is not None:
            return os.getpid() if self._descriptor is not None else None
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # nobody ever led
        try:
            # For a moment it is ours; whoever wants to lead then asks again soon.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._written_pid()
        finally:
            os.close(descriptor)
        return None

    def _written_pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            if self._path is not None:
                return int(self._path.read_bytes()[:20])
        return None

    def release(self) -> None:
        """Let another process lead."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
