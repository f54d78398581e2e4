"""The seam: every file operation of the file store, and nothing else.

`PosixDisk` is the real one.  Whatever stands here can be replaced by a simulated disk
that forgets what was not synced, so the storage must use nothing besides.
"""

from __future__ import annotations

import contextlib
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
    """The lock is held and the caller would not wait."""


# "append" and "update" differ because Linux ignores pwrite's offset under O_APPEND.
Mode = Literal["append", "update", "read"]
_FLAGS: dict[Mode, int] = {
    "append": os.O_RDWR | os.O_APPEND,
    "update": os.O_RDWR,
    "read": os.O_RDONLY,
}


_PAUSE_SECONDS = 0.005
PRIVATE_FOLDER, SHARED_FOLDER = 0o700, 0o2770

# Places in a queue are numbers from here on.
_QUEUE = 1 << 62
_LOCK = struct.Struct("hhqqi4x")  # C's `struct flock`, with 64 bits
_HAS_QUEUES = hasattr(fcntl, "F_OFD_GETLK") and sys.maxsize > 1 << 32


class Stat(NamedTuple):
    """What tells one version of a file from another, and who else may see it.

    Attributes:
        links: how many names it has; more than one may be a snapshot's.
        mode: its permissions.
        changed_ns: when it last changed, by the clock of its file system; None if that
            is not known.
    """

    inode: int
    size: int
    links: int = 1
    mode: int = 0o600
    changed_ns: int | None = None


class File(Protocol):
    """An open file.  Every method may raise `OSError`."""

    def stat(self) -> Stat:
        """Return inode and size of what is open, whatever the path names by now."""

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end of the file."""

    def append(self, data: bytes) -> int:
        """Write `data` at the end with one call; return how much was taken."""

    def pwrite(self, data: bytes, offset: int) -> int:
        """Write `data` at `offset` with one call; return how much was taken."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self, *, metadata: bool = False) -> None:
        """Return once the content is on the medium (`metadata`: the inode too)."""

    def drop_cache(self) -> None:
        """Ask that the next read comes from the medium, not from memory."""

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the file's exclusive lock if it is free.

        Args:
            shared: take it beside others that take it so; only to learn whether an
                exclusive holder exists.
        """

    def unlock(self) -> None:
        """Give the lock back."""

    def queue_up(self, at: int) -> None:
        """Stand in the file's queue, behind all who came before time `at`."""

    def queued(self, start: int, end: int | None = None) -> int | None:
        """Return a time in `[start, end)` at which another came that still waits."""

    def leave_queue(self) -> None:
        """Stand in it no longer; nothing if this file never did."""

    def close(self) -> None:
        """Close it."""


class Disk(Protocol):
    """Folders and names.  Every method may raise `OSError`."""

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> File:
        """Open a regular file, never through a symbolic link.

        Args:
            path: which.
            mode: what for.
            create: it must be new.
            like: a new file takes owner, group, permissions and ACL of this file, whose
                place it is to take.  If that is a folder, or absent, or not given, it
                is a file of that folder, or of its own: as open to the group as the
                folder is, and its owner's if root makes it.

        Raises:
            ReadOnlyStore: a new file cannot be `like`; nothing was made.
        """

    def stat(self, path: Path) -> Stat | None:
        """Return what `path` names, None if nothing."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in `folder`, in no order; none if there is no folder."""

    def make_folder(self, folder: Path, *, mode: int = PRIVATE_FOLDER) -> None:
        """Make `folder`, if it is not there, with these permissions less the umask."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in the same folder, replacing what has it."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; `FileExistsError` if that is taken."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def sync_folder(self, folder: Path) -> None:
        """Return once the names in `folder` are on the medium."""

    def check_supported(self, folder: Path) -> None:
        """Raise `UnsupportedFolder` if locks or syncs mean nothing there."""


def within(seconds: float, attempt: Callable[[], _T]) -> _T:
    """Return what `attempt` does, tried again for so long at most until it is true."""
    deadline = time.monotonic() + seconds
    while not (found := attempt()) and time.monotonic() <= deadline:
        time.sleep(_PAUSE_SECONDS)
    return found


def make_folder_like(disk: Disk, folder: Path, sibling: Path) -> None:
    """Make `folder` as open to the group as `sibling`; private if that is not there."""
    found = disk.stat(sibling)
    disk.make_folder(folder, mode=PRIVATE_FOLDER if found is None else found.mode)


class _Descriptor(io.FileIO):
    """A descriptor that C code closes, silently, once nothing refers to it.

    A destructor in Python could be interrupted and would leave it open.  The slot keeps
    Python's own from learning that it runs as a destructor, which is when it warns.
    """

    __slots__ = ("_finalizing",)


class PosixFile:
    """A `File` on a POSIX system; closed at the latest when nothing refers to it."""

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
        parts = [data]  # a signal or a limit of the kernel (2 GiB) cut it short
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
        """Return all that is known about it."""
        return os.fstat(self._fd)

    def check_regular(self, path: Path) -> None:
        """Close it and raise `StorageFailed` if it is a FIFO or a folder."""
        mode = os.fstat(self._fd).st_mode
        if not stat.S_ISREG(mode):
            self.close()
            raise _no_file(path, mode)
        os.set_blocking(self._fd, True)

    def adopt(self, old: Path | None, folder: Path | None) -> None:
        """Make a new file like `old`, or else one of `folder`; see `Disk.open`."""
        os.set_blocking(self._fd, True)
        if old is not None:
            ownership.take_over(self._fd, old)
        elif folder is not None:
            ownership.belong_to(self._fd, folder)

    # A byte lock on the place that is the time of arrival, far behind all content, is
    # a place in the queue: it goes with whoever dies.  It belongs to the open file, as
    # `flock` does, and neither knows of the other.

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
        self._fd = -1  # its number may soon be another file's
        self._descriptor.close()


class PosixDisk:
    """The real disk.

    Args:
        new_mode: the permissions of new files, less the umask; if not given, those that
            their folder suggests.
        follows_links: files that a person named may be behind symbolic links.
    """

    def __init__(
        self, *, new_mode: int | None = None, follows_links: bool = False
    ) -> None:
        self._new_mode = new_mode
        self._flags = os.O_CLOEXEC | os.O_NONBLOCK  # or opening a FIFO would wait
        if not follows_links:
            self._flags |= os.O_NOFOLLOW

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> PosixFile:
        """See `Disk.open`."""
        flags = _FLAGS[mode] | self._flags
        if create:
            return self._create(path, flags | os.O_CREAT | os.O_EXCL, like)
        if mode == "read" and path.is_dir():  # what `_open` would leave open
            raise _no_file(path, os.lstat(path).st_mode)
        try:
            file = _open(path, flags)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # which is all that is said of a socket
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

    def stat(self, path: Path) -> Stat | None:
        """See `Disk.stat`."""
        try:
            return _stat_of(os.stat(path, follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: Path) -> list[str]:
        """See `Disk.names`."""
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []

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
            if exc.errno != errno.EINVAL:  # some file systems cannot, and need not
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


def _stat_of(found: os.stat_result) -> Stat:
    mode = stat.S_IMODE(found.st_mode)
    return Stat(found.st_ino, found.st_size, found.st_nlink, mode, found.st_ctime_ns)


def _no_file(path: Path, mode: int) -> StorageFailed:
    return StorageFailed(
        f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file",
        hint="move it away, and put the file in its place",
    )


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _open(path: Path, flags: int, permissions: int = 0) -> PosixFile:
    # One call of C code: an exception from a signal handler cannot come between the
    # opening and what closes it.
    opened = map(os.open, (path,), (flags,), (permissions,))
    return PosixFile(next(map(_Descriptor, opened, ("rb+",))))


def _with_folder(folder: Path, work: Callable[[int], None]) -> None:
    """Do `work` with a descriptor of `folder`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    opened: list[int] = []
    try:
        try:
            opened.extend(map(os.open, (folder,), (flags,)))  # as in `_open`
            work(opened[0])
        finally:
            _close_last(opened)
    finally:
        _close_last(opened)  # twice, as in `milepost.journal.process.mutex`


def _close_last(opened: list[int]) -> None:
    """Take a descriptor out of the list and close it, in one call of C code."""
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
    """Return what a small file holds."""
    file = PosixDisk().open(path, "read")
    try:
        return file.read(0, _SMALL_MAX_BYTES)
    finally:
        file.close()


def replace_whole(path: Path, data: bytes) -> None:
    """Make `data` what `path` holds, durably: the old content or all of the new."""
    disk = PosixDisk()
    if disk.stat(path.parent.parent / "journals") is not None:  # only in a store
        disk.make_folder(path.parent)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(draft)
    file = disk.open(draft, "append", create=True)
    try:
        while data:
            data = data[file.append(data) :]
        file.sync(metadata=True)
    finally:
        file.close()
    disk.rename(draft, path)
    disk.sync_folder(path.parent)


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
