"""A disk in memory that forgets whatever was not synced.

For each file and folder it keeps what programs see, what is on the medium, and the
changes in between.  `power_cuts` yields every disk that a power cut could leave behind:
weaker than any real file system, so what survives here survives there.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.disk.disk import PRIVATE_FOLDER, Mode, Stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

SECTOR_BYTES = 512
_EVERY_BYTE = 600  # a write up to this size is torn at every byte
_NEAR = 12  # a longer one at so many bytes around its ends
_ALL_SUBSETS = 4  # of unsynced changes to one file
_ALL_NAME_SUBSETS = 6  # of unsynced changes to names
_ROOT = 1

_PERIOD = 4096
_JUNK = bytes((i * 197 + i // 7 + 131) % 256 for i in range(_PERIOD))
# No quote and no backslash: inside a JSON string it parses, so only a checksum tells.
_STALE = (b"stale text of a file that was here before, " * 100)[:_PERIOD]
_STALE_LINES = (b'{"stale":"line of another file"}\n' * 128)[:_PERIOD]


class SimPath(str):
    """As much of a `pathlib.Path` as the storage asks for, at a tenth of the cost."""

    __slots__ = ()

    def __truediv__(self, name: str) -> SimPath:
        return SimPath(f"{self}/{name}")

    @property
    def parent(self) -> SimPath:
        """The folder."""
        return SimPath(self.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part."""
        return self.rpartition("/")[2]

    @property
    def parents(self) -> list[SimPath]:
        """Every folder that it is in."""
        above = self.parent
        return [above, *above.parents] if above else []

    def absolute(self) -> SimPath:
        """The same path."""
        return self

    def with_suffix(self, suffix: str) -> SimPath:
        """The same path with another ending."""
        return SimPath(self.rpartition(".")[0] + suffix)


class Write(NamedTuple):
    """Bytes that went to a place in a file."""

    offset: int
    data: bytes


class Cut(NamedTuple):
    """A truncation."""

    size: int


class Content(NamedTuple):
    """One file: on the medium, on the way there, and as programs see it."""

    durable: bytes = b""
    changes: tuple[Write | Cut, ...] = ()
    seen: bytes = b""


class Naming(NamedTuple):
    """One change to a folder: a name that comes, and one that goes."""

    name: str | None
    inode: int
    gone: str | None = None


class Folder(NamedTuple):
    """One folder: names on the medium, changes on the way there, names as seen."""

    durable: Mapping[str, int]
    changes: tuple[Naming, ...]
    seen: Mapping[str, int]


_EMPTY_FOLDER = Folder({}, (), {})


class Fault(NamedTuple):
    """What goes wrong once, the next time that `kind` is done to a matching path.

    Attributes:
        kind: the operation: sync, append, pwrite, truncate …
        name: how the path ends.
        code: the errno; 0 for a write that is only short.
        taken: how many bytes a write takes before it fails; negative: from the end.
        arrived: what a failed sync leaves on the medium: nothing, zeros, half, all.
    """

    kind: str
    name: str
    code: int = errno.EIO
    taken: int = 0
    arrived: str = "nothing"


class World:
    """The machine: its medium, its page cache and its locks.

    Attributes:
        observer: called after each operation that changes anything, with what it was.
        announce: called with path, whole content and what comes, before bytes are
            appended; with None for the content before another file takes the path.
        faults: what will go wrong.
        is_cache_sticky: the kernel ignores the advice to drop its cache.
    """

    def __init__(self) -> None:
        self.files: dict[int, Content] = {}
        self.folders: dict[int, Folder] = {_ROOT: _EMPTY_FOLDER}
        self.next_inode = _ROOT + 1
        self.locks: dict[int, object] = {}
        self.faults: list[Fault] = []
        self.paths: dict[str, int] | None = None
        self.renamed: dict[int, str] = {}
        self.is_cache_sticky = False
        self.observer: Callable[[str, str], None] | None = None
        self.announce: Callable[[str, bytes | None, bytes], None] | None = None

    def copy(self, *, keep_locks: bool = False) -> World:
        """Return the same machine; without its locks: all its processes were killed."""
        new = World.__new__(World)
        new.files = self.files.copy()
        new.folders = self.folders.copy()
        new.next_inode = self.next_inode
        new.locks = self.locks.copy() if keep_locks else {}
        new.faults = []
        new.paths = self.paths
        new.renamed = self.renamed.copy()
        new.is_cache_sticky = self.is_cache_sticky
        new.observer = None
        new.announce = None
        return new

    def settle(self) -> None:
        """Let everything reach the medium, as after a quiet minute."""
        for inode, file in self.files.items():
            self.files[inode] = Content(file.seen, (), file.seen)
        for inode, folder in self.folders.items():
            self.folders[inode] = Folder(folder.seen, (), folder.seen)

    def find(self, path: str) -> int | None:
        """Return the inode that `path` names, as programs see it."""
        if self.paths is None:
            self.paths = self._walk()
        return self.paths.get(path)

    def _walk(self) -> dict[str, int]:
        found = {"": _ROOT}
        todo = [("", _ROOT)]
        for path, inode in todo:
            for name, child in self.folders[inode].seen.items():
                found[f"{path}/{name}"] = child
                if child in self.folders:
                    todo.append((f"{path}/{name}", child))
        return found

    def contents(self) -> dict[str, tuple[int, bytes]]:
        """Return inode and seen bytes of every file that has a name, by path."""
        self.find("")
        return {
            path: (inode, self.files[inode].seen)
            for path, inode in (self.paths or {}).items()
            if inode in self.files
        }

    def fingerprint(self) -> int:
        """Return a number that is equal for equal disks; all must be durable."""
        self.find("")
        assert self.paths is not None
        files = self.files
        return hash(
            tuple(
                [
                    (path, inode, files[inode].seen if inode in files else None)
                    for path, inode in sorted(self.paths.items())
                ]
            )
        )

    def lies(self) -> bool:
        """Tell whether programs see what is neither on the medium nor on its way."""
        return any(
            file.seen is not file.durable and file.seen != after(file)
            for file in self.files.values()
        )

    def dirt(self) -> int:
        """Return a number that is equal if as much is synced."""
        return hash(
            (
                *((inode, f.durable, f.changes) for inode, f in self.files.items()),
                *(folder.changes for folder in self.folders.values()),
            )
        )

    def happened(self, kind: str, path: str) -> None:
        """Tell the observer that something has changed."""
        if self.observer is not None:
            self.observer(kind, path)

    def fault(self, kind: str, path: str) -> Fault | None:
        """Return the fault that strikes now, and forget it."""
        for fault in self.faults:
            if fault.kind == kind and path.endswith(fault.name):
                self.faults.remove(fault)
                return fault
        return None


def change(data: bytes, by: Write | Cut) -> bytes:
    """Return `data` after one change."""
    if isinstance(by, Cut):
        return data[: by.size].ljust(by.size, b"\0")
    offset, new = by
    if offset > len(data):
        data = data.ljust(offset, b"\0")
    return data[:offset] + new + data[offset + len(new) :]


class SimFile:
    """A `milepost.journal.disk.disk.File` on a `World`."""

    def __init__(self, disk: SimDisk, path: str, inode: int, *, writes: bool) -> None:
        self._disk = disk
        self._world = disk.world
        self._opened_as = path
        self._inode = inode
        self._writes = writes

    @property
    def _path(self) -> str:
        return self._world.renamed.get(self._inode, self._opened_as)

    def stat(self) -> Stat:
        """See `File.stat`."""
        return Stat(self._inode, len(self._world.files[self._inode].seen))

    def read(self, offset: int, size: int) -> bytes:
        """See `File.read`."""
        return self._world.files[self._inode].seen[offset : offset + size]

    def append(self, data: bytes) -> int:
        """See `File.append`."""
        seen = self._world.files[self._inode].seen
        if self._world.announce is not None:
            self._world.announce(self._path, seen, data)
        return self._write("append", Write(len(seen), data))

    def pwrite(self, data: bytes, offset: int) -> int:
        """See `File.pwrite`."""
        return self._write("pwrite", Write(offset, data))

    def _write(self, kind: str, write: Write) -> int:
        fault = self._begin(kind)
        if fault is not None:
            write = Write(write.offset, write.data[: fault.taken])
        if write.data:
            self._change(kind, write)
        if fault is not None and fault.code:
            raise OSError(fault.code, os.strerror(fault.code), self._path)
        return len(write.data)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        self._fail(self._begin("truncate"))
        self._change("truncate", Cut(size))

    def _change(self, kind: str, by: Write | Cut) -> None:
        durable, changes, seen = self._world.files[self._inode]
        self._world.files[self._inode] = Content(
            durable, (*changes, by), change(seen, by)
        )
        self._world.happened(kind, self._path)

    def sync(self, *, metadata: bool = False) -> None:
        """See `File.sync`; it never makes the file's name durable."""
        del metadata
        fault = self._world.fault("sync", self._path)
        file = self._world.files[self._inode]
        if fault is not None:
            # Pages are marked clean though the medium never got them: from here on
            # the cache lies, and the next sync has nothing to do.
            durable = _arrived(file, fault.arrived)
            self._world.files[self._inode] = Content(durable, (), file.seen)
            self._world.happened("failed sync", self._path)
            self._fail(fault)
        durable = file.durable
        for by in file.changes:
            durable = change(durable, by)
        if durable == file.seen:
            durable = file.seen
        self._world.files[self._inode] = Content(durable, (), file.seen)
        self._world.happened("sync", self._path)

    def drop_cache(self) -> None:
        """See `File.drop_cache`; what is dirty stays in memory."""
        durable, changes, seen = self._world.files[self._inode]
        if changes or durable is seen or self._world.is_cache_sticky:
            return
        self._world.files[self._inode] = Content(durable, (), durable)

    def _begin(self, kind: str) -> Fault | None:
        if not self._writes:
            raise OSError(errno.EBADF, "opened for reading", self._path)
        return self._world.fault(kind, self._path) if self._world.faults else None

    def _fail(self, fault: Fault | None) -> None:
        if fault is not None:
            raise OSError(fault.code, os.strerror(fault.code), self._path)

    def try_lock(self, *, shared: bool = False) -> bool:  # noqa: ARG002
        """See `File.try_lock`; here a shared lock excludes like any other."""
        return self._world.locks.setdefault(self._inode, self) is self

    def unlock(self) -> None:
        """See `File.unlock`."""
        if self._world.locks.get(self._inode) is self:
            del self._world.locks[self._inode]

    def queue_up(self, at: int) -> None:
        """See `File.queue_up`: nobody waits here, one handle runs at a time."""

    def queued(self, start: int, end: int | None = None) -> int | None:
        """See `File.queued`."""

    def leave_queue(self) -> None:
        """See `File.leave_queue`."""

    def close(self) -> None:
        """See `File.close`."""
        self.unlock()


def _arrived(file: Content, how: str) -> bytes:
    if how == "all":
        return file.seen
    old, new = len(file.durable), len(file.seen)
    if how == "zeros":
        return file.durable.ljust(new, b"\0")
    if how == "half":
        return file.seen[: (old + new) // 2]
    return file.durable


class SimDisk:
    """A `milepost.journal.disk.disk.Disk`: what one process of the machine can do.

    Args:
        world: the machine.
        is_read_only: this process may not write.
    """

    def __init__(self, world: World, *, is_read_only: bool = False) -> None:
        self.world = world
        self._is_read_only = is_read_only

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> SimFile:
        """See `Disk.open`; there is one user only."""
        del like
        if mode != "read":
            self._check_writable(path)
        inode = self.world.find(str(path))
        if create:
            if inode is not None:
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            fault = self.world.fault("create", str(path))
            if fault is not None:
                raise OSError(fault.code, os.strerror(fault.code), str(path))
            inode = self.world.next_inode
            self.world.next_inode += 1
            self.world.files[inode] = Content()
            self._name("create", path, Naming(path.name, inode))
        elif inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return SimFile(self, str(path), inode, writes=mode != "read")

    def stat(self, path: Path | str) -> Stat | None:
        """See `Disk.stat`."""
        inode = self.world.find(str(path))
        if inode is None:
            return None
        file = self.world.files.get(inode)
        assert self.world.paths is not None
        links = [*self.world.paths.values()].count(inode)
        return Stat(inode, 0 if file is None else len(file.seen), links)

    def names(self, folder: Path) -> list[str]:
        """See `Disk.names`."""
        inode = self.world.find(str(folder))
        return [] if inode is None else list(self.world.folders[inode].seen)

    def stat_folder(self, folder: Path) -> Stat | None:
        """See `Disk.stat_folder`."""
        inode = self.world.find(str(folder))
        return None if inode is None else Stat(inode, 0)

    def make_folder(self, folder: Path, *, mode: int = PRIVATE_FOLDER) -> None:
        """See `Disk.make_folder`."""
        if self.world.find(str(folder)) is not None:
            return
        self._check_writable(folder)
        if folder.parent != folder:
            self.make_folder(folder.parent, mode=mode)
        inode = self.world.next_inode
        self.world.next_inode += 1
        self.world.folders[inode] = _EMPTY_FOLDER
        self._name("make_folder", folder, Naming(folder.name, inode))

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk.rename`."""
        inode = self._must_find(source)
        if self.world.announce is not None and inode in self.world.files:
            self.world.announce(str(target), None, self.world.files[inode].seen)
        self.world.renamed[inode] = str(target)
        self._name("rename", target, Naming(target.name, inode, source.name))

    def link(self, source: Path, target: Path) -> None:
        """See `Disk.link`."""
        inode = self._must_find(source)
        if self.world.find(str(target)) is not None:
            raise FileExistsError(errno.EEXIST, "exists", str(target))
        self._name("link", target, Naming(target.name, inode))

    def unlink(self, path: Path) -> None:
        """See `Disk.unlink`."""
        self._must_find(path)
        self._name("unlink", path, Naming(None, 0, path.name))

    def sync_folder(self, folder: Path) -> None:
        """See `Disk.sync_folder`."""
        inode = self._must_find(folder)
        fault = self.world.fault("sync_folder", str(folder))
        if fault is not None:
            raise OSError(fault.code, os.strerror(fault.code), str(folder))
        seen = self.world.folders[inode].seen
        self.world.folders[inode] = Folder(seen, (), seen)
        self.world.happened("sync_folder", str(folder))

    def check_supported(self, folder: Path) -> None:
        """See `Disk.check_supported`."""

    def _must_find(self, path: Path) -> int:
        inode = self.world.find(str(path))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return inode

    def _check_writable(self, path: Path) -> None:
        if self._is_read_only:
            raise OSError(errno.EROFS, "read-only", str(path))

    def _name(self, kind: str, path: Path, naming: Naming) -> None:
        self._check_writable(path)
        parent = self._must_find(path.parent)
        durable, changes, seen = self.world.folders[parent]
        self.world.folders[parent] = Folder(
            durable, (*changes, naming), _renamed(seen, naming)
        )
        self.world.paths = None
        self.world.happened(kind, str(path))


def _renamed(names: Mapping[str, int], by: Naming) -> dict[str, int]:
    new = dict(names)
    if by.gone is not None:
        new.pop(by.gone, None)
    if by.name is not None:
        new[by.name] = by.inode
    return new


# -- what a power cut can leave ------------------------------------------------------


def power_cuts(world: World, *, is_fine: bool = True) -> Iterator[World]:
    """Yield the disks that a power cut right now could leave; some come twice.

    One file (or the names) varies fully while each of the others has all of its
    changes or none.

    Args:
        world: the machine.
        is_fine: tear at every byte; else at a few telling ones.
    """
    ends: list[tuple[int, tuple[object, ...]]] = []
    for inode, file in world.files.items():
        if file.changes:
            ends.append((inode, (file.durable, after(file))))
    is_dirty = any(folder.changes for folder in world.folders.values())
    none = {i: folder.durable for i, folder in world.folders.items()}
    every = {i: folder.seen for i, folder in world.folders.items()}
    if is_dirty:
        ends.append((0, (none, every)))
    base = _cut_base(world)
    if not ends:
        yield _cut(base, [])
    for inode, _ in ends:
        others = [(other, two) for other, two in ends if other != inode]
        variants: Iterable[object]
        if inode == 0:
            variants = _name_variants(world)
        else:
            variants = file_variants(world.files[inode], is_fine=is_fine)
        choices = [
            list(zip((other for other, _ in others), picks, strict=True))
            for picks in itertools.product(*(two for _, two in others))
        ]
        if len(others) > 2:
            choices = [choices[0], choices[-1]]
        for variant in variants:
            for choice in choices:
                yield _cut(base, [(inode, variant), *choice])


def forgetful_cut(world: World) -> World:
    """Return the disk on which nothing arrived that was not synced."""
    return _cut(_cut_base(world), [])


def _cut_base(world: World) -> World:
    base = world.copy()
    for inode, file in world.files.items():
        if file.changes or file.seen is not file.durable:
            base.files[inode] = Content(file.durable, (), file.durable)
    for inode, folder in world.folders.items():
        if folder.changes:
            base.folders[inode] = Folder(folder.durable, (), folder.durable)
            base.paths = None
    return base


def _cut(base: World, picks: Iterable[tuple[int, object]]) -> World:
    new = base.copy()
    for inode, pick in picks:
        if inode == 0:
            assert isinstance(pick, dict)
            new.paths = None
            for number, names in pick.items():
                new.folders[number] = Folder(names, (), names)
        else:
            assert isinstance(pick, bytes)
            new.files[inode] = Content(pick, (), pick)
    return new


def after(file: Content) -> bytes:
    """Return what will be on the medium once all changes have arrived."""
    data = file.durable
    for by in file.changes:
        data = change(data, by)
    return data


def _name_variants(world: World) -> Iterator[dict[int, dict[str, int]]]:
    """Yield the names in every folder, for each subset of the unsynced changes."""
    changes = [
        (inode, by) for inode, folder in world.folders.items() for by in folder.changes
    ]
    for kept in _subsets(len(changes), _ALL_NAME_SUBSETS):
        names = {i: dict(folder.durable) for i, folder in world.folders.items()}
        for index in kept:
            inode, by = changes[index]
            names[inode] = _renamed(names[inode], by)
        yield names


def _subsets(count: int, all_up_to: int) -> Iterator[tuple[int, ...]]:
    every = range(count)
    if count <= all_up_to:
        for size in range(count + 1):
            yield from itertools.combinations(every, size)
        return
    for size in range(count + 1):
        yield tuple(every[:size])
    for left_out in every:
        yield tuple(i for i in every if i != left_out)


def file_variants(file: Content, *, is_fine: bool) -> Iterator[bytes]:
    """Yield what a power cut could leave of a file with unsynced changes."""
    changes = file.changes
    for kept in _subsets(len(changes), _ALL_SUBSETS):
        data = file.durable
        for index in kept:
            data = change(data, changes[index])
        yield data
    for index, torn in enumerate(changes):
        if isinstance(torn, Cut):
            continue
        # Changes long past have been torn at every byte when they were the newest.
        fine = is_fine and index >= len(changes) - 2
        for before in dict.fromkeys(((), changes[:index])):
            data = file.durable
            for by in before:
                data = change(data, by)
            for later in dict.fromkeys(((), changes[index + 1 :])):
                for variant in _torn(data, torn, is_fine=fine):
                    whole = variant
                    for by in later:
                        whole = change(whole, by)
                    yield whole


def _torn(data: bytes, write: Write, *, is_fine: bool) -> Iterator[bytes]:
    offset, new = write
    for size in _tears(offset, new, is_fine=is_fine):
        yield change(data, Write(offset, new[:size]))
    first, last = offset // SECTOR_BYTES, (offset + len(new) - 1) // SECTOR_BYTES
    fills = (bytes(_PERIOD), _JUNK, _STALE, _STALE_LINES, (data * 2)[:_PERIOD])
    for fill in fills:
        if not fill:
            continue
        ghost = (fill * (len(new) // len(fill) + 1))[: len(new)]
        for sector in range(first, last + 1):
            start = max(sector * SECTOR_BYTES - offset, 0)
            end = min((sector + 1) * SECTOR_BYTES - offset, len(new))
            missing = new[:start] + ghost[start:end] + new[end:]
            yield change(data, Write(offset, missing))
            alone = ghost[:start] + new[start:end] + ghost[end:]
            yield change(data, Write(offset, alone))


def _tears(offset: int, new: bytes, *, is_fine: bool) -> Iterable[int]:
    size = len(new)
    if is_fine and size <= _EVERY_BYTE:
        return range(1, size)
    near = _NEAR if is_fine else 1
    edges = [0, size, *range(-offset % SECTOR_BYTES, size, SECTOR_BYTES)]
    position = new.find(b"\n")
    while position >= 0:
        edges.append(position)
        position = new.find(b"\n", position + 1)
    if not is_fine:
        edges.append(size // 2)
    tears = {e + d for e in edges for d in range(-near, near + 1)}
    return sorted(t for t in tears if 0 < t < size)
