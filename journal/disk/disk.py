"""All file operations of the file store, behind the protocols `Disk` and `File`.

Tests replace `PosixDisk` by a simulated disk that loses unsynced data, so the store
must use no other file operation.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar

from milepost.journal.disk import ownership
from milepost.journal.errors import StorageFailed, UnsupportedFolder

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Busy(Exception):
    """The file is locked and the caller did not want to wait."""


# "append" and "update" differ because Linux ignores pwrite's offset under O_APPEND.
Mode = Literal["append", "update", "read"]
_FLAGS: dict[Mode, int] = {
    "append": os.O_RDWR | os.O_APPEND,
    "update": os.O_RDWR,
    "read": os.O_RDONLY,
}


_PAUSE_SECONDS = 0.005
PRIVATE_FOLDER, SHARED_FOLDER = 0o700, 0o2770

# Byte offset of the first place in a queue, far behind all content.
_QUEUE = 1 << 62
_LOCK = struct.Struct("hhqqi4x")  # C's `struct flock`, with 64 bits
_HAS_QUEUES = hasattr(fcntl, "F_OFD_GETLK") and sys.maxsize > 1 << 32


class Stat(NamedTuple):
    """The identity, size and permissions of a file.

    Attributes:
        links: number of hard links; a second one may belong to a snapshot.
        mode: its permissions.
        changed_ns: its ctime, by the clock of its file system; None if unknown.
        device: of its file system.
    """

    inode: int
    size: int
    links: int = 1
    mode: int = 0o600
    changed_ns: int | None = None
    device: int = 0


class File(Protocol):
    """An open file.  Every method may raise `OSError`."""

    def stat(self) -> Stat:
        """Return the status of the open file, even if its path names another one."""

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end of the file."""

    def append(self, data: bytes) -> int:
        """Write `data` at the end with one call; return the bytes written."""

    def pwrite(self, data: bytes, offset: int) -> int:
        """Write `data` at `offset` with one call; return the bytes written."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self, *, metadata: bool = False) -> None:
        """Return once the content is on the medium (`metadata`: the inode too)."""

    def drop_cache(self) -> None:
        """Drop the file's pages, so that the next read comes from the medium."""

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the file's exclusive lock if it is free.

        Args:
            shared: take the shared lock instead, to test for an exclusive lock holder
                without looking like one.
        """

    def unlock(self) -> None:
        """Release the lock."""

    def queue_up(self, at: int) -> None:
        """Enter the file's queue, behind all waiters that arrived before time `at`."""

    def queued(self, start: int, end: int | None = None) -> int | None:
        """Return the arrival time of another waiter in `[start, end)`, or None."""

    def leave_queue(self) -> None:
        """Leave the queue; does nothing if this file never entered it."""

    def close(self) -> None:
        """Close it."""


class Disk(Protocol):
    """Folders and names.  Every method may raise `OSError`."""

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> File:
        """Open a regular file, never through a symbolic link.

        Args:
            path: of the file.
            mode: how it is used.
            create: create it; it must not exist.
            like: the file that a new one will replace: owner, group, permissions and
                ACL are copied from it.  If it is a folder, missing or None, they come
                from that folder, or from the one of `path`: the same access for the
                group, and the folder's owner if root creates the file.

        Raises:
            ReadOnlyStore: a new file cannot be made like `like`; nothing was created.
        """

    def stat(self, path: Path | str) -> Stat | None:
        """Return the status of `path`, None if it does not exist."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in `folder`, unordered; none if it does not exist."""

    def stat_folder(self, folder: Path) -> Stat | None:
        """Return the status of `folder`, through symbolic links; None without one.

        Its time changes when a name in it comes, goes or names another file.
        """

    def make_folder(self, folder: Path, *, mode: int = PRIVATE_FOLDER) -> None:
        """Create `folder` if it is missing, with `mode` less the umask."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file within its folder, replacing `target`."""

    def link(self, source: Path, target: Path) -> None:
        """Create a hard link; raise `FileExistsError` if `target` exists."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def sync_folder(self, folder: Path) -> None:
        """Return once the entries of `folder` are on the medium."""

    def check_supported(self, folder: Path) -> None:
        """Raise `UnsupportedFolder` if locks or syncs are not reliable there."""


def within(seconds: float, attempt: Callable[[], _T]) -> _T:
    """Call `attempt` until it returns a true value, for at most `seconds`.

    Returns:
        The last value.
    """
    deadline = time.monotonic() + seconds
    while not (found := attempt()) and time.monotonic() <= deadline:
        time.sleep(_PAUSE_SECONDS)
    return found


def make_folder_like(disk: Disk, folder: Path, sibling: Path) -> None:
    """Create `folder` with the permissions of `sibling`; private if that is missing."""
    found = disk.stat(sibling)
    disk.make_folder(folder, mode=PRIVATE_FOLDER if found is None else found.mode)


class _Descriptor(io.FileIO):
    """A descriptor that C code closes, without a warning, when it is unreferenced.

    A destructor in Python could be interrupted and leave it open.  The slot hides from
    `io.FileIO` that it runs as a destructor, which is when it would warn.
    """

    __slots__ = ("_finalizing",)


class PosixFile:
    """A `File` on a POSIX system; closed when it is unreferenced at the latest."""

    def __init__(self, descriptor: _Descriptor) -> None:
        self._descriptor = descriptor
        self._fd = descriptor.fileno()

    def stat(self) -> Stat:
        """See `File.stat`."""
        return _stat_of(os.fstat(self._fd))

    def read(self, offset: int, size: int) -> bytes:
        """See `File.read`."""
        data = os.pread(self._fd, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]  # a short read: a signal, or the kernel's limit of 2 GiB
        have = len(data)
        while have < size:
            more = os.pread(self._fd, size - have, offset + have)
            if not more:
                break
            parts.append(more)
            have += len(more)
        return b"".join(parts)

    def append(self, data: bytes) -> int:
        """See `File.append`."""
        return os.write(self._fd, data)

    def pwrite(self, data: bytes, offset: int) -> int:
        """See `File.pwrite`."""
        return os.pwrite(self._fd, data, offset)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        os.ftruncate(self._fd, size)

    def sync(self, *, metadata: bool = False) -> None:
        """See `File.sync`."""
        if metadata:
            os.fsync(self._fd)
        else:
            os.fdatasync(self._fd)

    def drop_cache(self) -> None:
        """See `File.drop_cache`."""
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def try_lock(self, *, shared: bool = False) -> bool:
        """See `File.try_lock`."""
        # flock, not lockf: a POSIX lock is silently lost when the process closes any
        # descriptor of the file, and does not exclude two opens in one process.
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """See `File.unlock`."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    def status(self) -> os.stat_result:
        """Return its full status."""
        return os.fstat(self._fd)

    def check_regular(self, path: Path) -> None:
        """Close it and raise `StorageFailed` if it is a FIFO or a folder."""
        mode = os.fstat(self._fd).st_mode
        if not stat.S_ISREG(mode):
            self.close()
            raise _no_file(path, mode)
        os.set_blocking(self._fd, True)

    def adopt(self, old: Path | None, folder: Path | None) -> None:
        """Set owner and permissions of a new file; see `Disk.open`."""
        os.set_blocking(self._fd, True)
        if old is not None:
            ownership.take_over(self._fd, old)
        elif folder is not None:
            ownership.belong_to(self._fd, folder)

    # A place in the queue is a lock on one byte, at an offset given by the arrival time
    # (docs/adr/0027).  The kernel releases it when the process dies.  Like `flock` it
    # belongs to the open file, and the two kinds of lock do not conflict.

    def queue_up(self, at: int) -> None:
        """See `File.queue_up`."""
        if _HAS_QUEUES:
            self._byte_lock(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, _QUEUE + at, 1)

    def queued(self, start: int, end: int | None = None) -> int | None:
        """See `File.queued`."""
        if not _HAS_QUEUES or (end is not None and start >= end):
            return None
        size = 0 if end is None else end - start  # 0: to the end
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _QUEUE + start, size, 0)
        found = _LOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        return None if found[0] == fcntl.F_UNLCK else found[2] - _QUEUE

    def leave_queue(self) -> None:
        """See `File.leave_queue`."""
        if _HAS_QUEUES:
            self._byte_lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, _QUEUE, 0)

    def _byte_lock(self, command: int, kind: int, start: int, size: int) -> None:
        asked = _LOCK.pack(kind, os.SEEK_SET, start, size, 0)
        fcntl.fcntl(self._fd, command, asked)

    def close(self) -> None:
        """See `File.close`."""
        self._fd = -1  # the number may be reused
        self._descriptor.close()


class PosixDisk:
    """The real disk.

    Args:
        new_mode: permissions of new files, less the umask; if None, derived from their
            folder.
        follows_links: follow symbolic links; for files that a person named.
    """

    def __init__(
        self, *, new_mode: int | None = None, follows_links: bool = False
    ) -> None:
        self._new_mode = new_mode
        self._flags = os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO must not block
        if not follows_links:
            self._flags |= os.O_NOFOLLOW

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> PosixFile:
        """See `Disk.open`."""
        flags = _FLAGS[mode] | self._flags
        if create:
            return self._create(path, flags | os.O_CREAT | os.O_EXCL, like)
        # `_open` would leak the descriptor of a folder.
        if mode == "read" and path.is_dir():
            raise _no_file(path, os.lstat(path).st_mode)
        try:
            file = _open(path, flags)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # the only sign of a socket
                raise _no_file(path, path.stat().st_mode) from exc
            raise
        file.check_regular(path)
        return file

    def _create(self, path: Path, flags: int, like: Path | None) -> PosixFile:
        old = None if like is None or like.is_dir() or not _is_there(like) else like
        folder = like if like is not None and like.is_dir() else path.parent
        permissions = 0o600
        if old is None and self._new_mode is not None:
            permissions = self._new_mode
        elif old is None:
            permissions = ownership.mode_in(folder)
        file = _open(path, flags, permissions)
        try:
            file.adopt(old, None if self._new_mode is not None else folder)
        except BaseException:
            file.close()
            with suppress(OSError):
                path.unlink()
            raise
        return file

    def stat(self, path: Path | str) -> Stat | None:
        """See `Disk.stat`."""
        try:
            return _stat_of(os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: Path) -> list[str]:
        """See `Disk.names`."""
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []

    def stat_folder(self, folder: Path) -> Stat | None:
        """See `Disk.stat_folder`."""
        try:
            return _stat_of(os.stat(folder))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def make_folder(self, folder: Path, *, mode: int = PRIVATE_FOLDER) -> None:
        """See `Disk.make_folder`."""
        try:
            folder.mkdir(mode=mode, parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise
            return

        def adopt(made: int) -> None:
            ownership.belong_to(made, folder.parent)
            if mode & stat.S_ISGID:  # mkdir itself ignores it
                os.fchmod(made, os.fstat(made).st_mode | stat.S_ISGID)

        _with_folder(folder, adopt)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk.rename`."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """See `Disk.link`."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """See `Disk.unlink`."""
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """See `Disk.sync_folder`."""
        try:
            _with_folder(folder, os.fsync)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # file systems without folder syncs
                raise

    def check_supported(self, folder: Path) -> None:
        """See `Disk.check_supported`."""
        kind = filesystem_of(folder)
        if kind in _REMOTE or kind.startswith("fuse"):
            raise UnsupportedFolder(
                f"{folder} is on {kind}, where file locks and syncs are not reliable",
                hint="keep the store on a local disk of the machine that writes it",
            )


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


_PERMISSIONS = 0o7777


def _stat_of(found: os.stat_result) -> Stat:
    return Stat(
        found.st_ino,
        found.st_size,
        found.st_nlink,
        found.st_mode & _PERMISSIONS,
        found.st_ctime_ns,
        found.st_dev,
    )


def _no_file(path: Path, mode: int) -> StorageFailed:
    return StorageFailed(
        f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file",
        hint="move it away, and restore the file",
    )


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _open(path: Path, flags: int, permissions: int = 0) -> PosixFile:
    # One call of C code, so that a signal handler's exception cannot strike between
    # the open and the object that closes it.
    opened = map(os.open, (path,), (flags,), (permissions,))
    return PosixFile(next(map(_Descriptor, opened, ("rb+",))))


def _with_folder(folder: Path, work: Callable[[int], None]) -> None:
    """Call `work` with a descriptor of `folder`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    opened: list[int] = []
    try:
        try:
            opened.extend(map(os.open, (folder,), (flags,)))  # as in `_open`
            work(opened[0])
        finally:
            _close_last(opened)
    finally:
        # Again, because an exception may interrupt the first one (docs/adr/0026).
        _close_last(opened)


def _close_last(opened: list[int]) -> None:
    """Remove a descriptor from the list and close it, in one call of C code."""
    if opened:
        any(map(os.close, map(opened.pop, (-1,))))


_REMOTE = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    }
)


_SMALL_MAX_BYTES = 1 << 20


def read_whole(path: Path) -> bytes:
    """Return the content of a small file."""
    file = PosixDisk().open(path, "read")
    try:
        return file.read(0, _SMALL_MAX_BYTES)
    finally:
        file.close()


def filesystem_of(folder: Path) -> str:
    """Return the type of the file system that holds `folder`; "" if unknown."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        target = folder.resolve()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        mount = fields[4].replace("\\040", " ")
        inside = target == Path(mount) or Path(mount) in target.parents
        if inside and len(mount) >= len(best):
            best, kind = mount, fields[fields.index("-") + 1]
    return kind
