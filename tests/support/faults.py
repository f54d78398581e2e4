"""A disk on which one thing goes wrong, once; and processes that die in the middle."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal import ids
from milepost.journal.disk.disk import PRIVATE_FOLDER, Mode, PosixDisk, PosixFile, Stat
from milepost.journal.storage.files.recovery import head as head_codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.storage.files.recovery.head import Head

    Tell = Callable[[Any], None]
    Work = Callable[[Tell], object]


class Call(NamedTuple):
    """One operation of the disk, and on what: a path within the store."""

    operation: str
    path: str


@dataclass
class Fault:
    """What happens at the `nth` call of `operation` on a path that holds `on`: once.

    Attributes:
        operation: any, if it is empty.
        taken: how many bytes of a write land.
        action: called then, before the call is carried out or fails.
        error: the errno that the call fails with; None: it goes on.
        loses: a sync that fails loses what was written since the last one, and as on a
            real disk only a reader that bypasses the cache can tell.
    """

    operation: str
    nth: int = 1
    on: str = ""
    taken: int | None = None
    action: Callable[[], object] | None = None
    error: int | None = None
    loses: bool = False
    has_fired: bool = False

    def strikes(self, call: Call) -> bool:
        """Tell whether this is the call; never again afterwards."""
        if self.operation not in ("", call.operation) or self.on not in call.path:
            return False
        self.nth -= 1
        self.has_fired |= self.nth == 0
        return self.nth == 0


class Medium:
    """What lies beneath the cache of a machine: by inode, how much, and what is gone.

    All processes of the machine share it.  A sync by one is a sync for all, and what a
    failed one lost, no other finds.
    """

    def __init__(self) -> None:
        self._clean: dict[int, int] = {}  # up to where the kernel has nothing to write
        self._lost: dict[int, list[tuple[int, int]]] = {}  # from, to

    def made(self, file: Stat) -> None:
        """Forget the file that had this inode before."""
        self._clean[file.inode], self._lost[file.inode] = 0, []

    def cut(self, file: Stat) -> None:
        """Note a truncation, which may reach the medium without a sync."""
        self._clean[file.inode] = min(self._clean.get(file.inode, 0), file.size)
        lost = self._lost.get(file.inode, [])
        self._lost[file.inode] = [(start, min(end, file.size)) for start, end in lost]

    def sync(self, file: Stat) -> None:
        """Note that what the kernel had to write has arrived."""
        self._clean[file.inode] = file.size

    def lose(self, file: Stat) -> None:
        """Note that it has not, and that the kernel will not try again."""
        unsynced = self._clean.get(file.inode, 0), file.size
        self._lost.setdefault(file.inode, []).append(unsynced)
        self._clean[file.inode] = file.size

    def show(self, path: Path) -> None:
        """Let programs see of a file what the medium has: zeros for what was lost."""
        for start, end in self._lost.pop(path.stat().st_ino, []):
            overwrite(path, start, bytes(max(end - start, 0)))


class FaultyDisk:
    """The real disk, but it writes down every call, and faults can be set on it.

    Args:
        root: the store's folder.
        syncs: whether a sync is carried out.  Where nothing but processes die, nobody
            can tell, and thousands of cases take seconds.
        medium: shared by the disks of all processes of one machine.
    """

    def __init__(
        self, root: Path, *, syncs: bool = True, medium: Medium | None = None
    ) -> None:
        self.calls: list[Call] = []
        self.read_bytes = self.longest_read = 0
        self.syncs = syncs
        self.medium = medium or Medium()
        self._inside = f"{root}/"
        self._real = PosixDisk()
        self._faults: list[Fault] = []

    def fail(
        self, operation: str, nth: int = 1, *, on: str = "", error: int = errno.EIO
    ) -> Fault:
        """Let the `nth` such call from now fail."""
        return self.set(Fault(operation, nth, on, error=error))

    def set(self, fault: Fault) -> Fault:
        """Wait for the call that `fault` strikes."""
        self._faults.append(fault)
        return fault

    def meet(self, operation: str, path: Path | str) -> Fault | None:
        """Write the call down; return the fault that cuts it short, if any does."""
        call = Call(operation, str(path).removeprefix(self._inside))
        self.calls.append(call)
        fault = next((fault for fault in self._faults if fault.strikes(call)), None)
        if fault is None or fault.taken is not None or fault.loses:
            return fault
        carry_out(fault)
        return None

    def of(self, *operations: str) -> list[Call]:
        """Return the calls of these operations, in order."""
        return [call for call in self.calls if call.operation in operations]

    # -- Disk --------------------------------------------------------------------

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> FaultyFile:
        self.meet("create" if create else f"open:{mode}", path)
        file = self._real.open(path, mode, create=create, like=like)
        if create:
            self.medium.made(file.stat())
        return FaultyFile(self, path, file)

    def stat(self, path: Path | str) -> Stat | None:
        self.meet("stat", path)
        return self._real.stat(path)

    def names(self, folder: Path) -> list[str]:
        self.meet("names", folder)
        return self._real.names(folder)

    def stat_folder(self, folder: Path) -> Stat | None:
        self.meet("stat_folder", folder)
        return self._real.stat_folder(folder)

    def make_folder(self, folder: Path, *, mode: int = PRIVATE_FOLDER) -> None:
        self.meet("make_folder", folder)
        self._real.make_folder(folder, mode=mode)

    def rename(self, source: Path, target: Path) -> None:
        self.meet("rename", target)
        self._real.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self.meet("link", target)
        self._real.link(source, target)

    def unlink(self, path: Path) -> None:
        self.meet("unlink", path)
        self._real.unlink(path)

    def sync_folder(self, folder: Path) -> None:
        self.meet("sync_folder", folder)
        if self.syncs:
            self._real.sync_folder(folder)

    def check_supported(self, folder: Path) -> None:
        self.meet("check_supported", folder)
        self._real.check_supported(folder)


class FaultyFile:
    """A file of a `FaultyDisk`."""

    def __init__(self, disk: FaultyDisk, path: Path, real: PosixFile) -> None:
        self._disk = disk
        self._path = path
        self._real = real

    def stat(self) -> Stat:
        self._disk.meet("fstat", self._path)
        return self._real.stat()

    def read(self, offset: int, size: int) -> bytes:
        self._disk.meet("read", self._path)
        found = self._real.read(offset, size)
        self._disk.read_bytes += len(found)
        self._disk.longest_read = max(self._disk.longest_read, len(found))
        return found

    def append(self, data: bytes) -> int:
        fault = self._disk.meet("append", self._path)
        if fault is None:
            return self._real.append(data)
        taken = self._real.append(data[: fault.taken])
        carry_out(fault)
        return taken

    def pwrite(self, data: bytes, offset: int) -> int:
        fault = self._disk.meet("pwrite", self._path)
        if fault is None:
            return self._real.pwrite(data, offset)
        taken = self._real.pwrite(data[: fault.taken], offset)
        carry_out(fault)
        return taken

    def truncate(self, size: int) -> None:
        self._disk.meet("truncate", self._path)
        self._real.truncate(size)
        self._disk.medium.cut(self._real.stat())

    def sync(self, *, metadata: bool = False) -> None:
        fault = self._disk.meet("sync", self._path)
        found, medium = self._real.stat(), self._disk.medium
        if fault is not None:
            medium.lose(found)
            carry_out(fault)
        if self._disk.syncs:
            self._real.sync(metadata=metadata)
        medium.sync(found)

    def drop_cache(self) -> None:
        self._disk.meet("drop_cache", self._path)
        # By its descriptor: a compaction gave it another name since it was opened.
        self._disk.medium.show(Path(f"/proc/self/fd/{self._real._fd}"))
        self._real.drop_cache()

    def try_lock(self, *, shared: bool = False) -> bool:
        self._disk.meet("lock", self._path)
        return self._real.try_lock(shared=shared)

    def unlock(self) -> None:
        self._disk.meet("unlock", self._path)
        self._real.unlock()

    def queue_up(self, at: int) -> None:
        self._real.queue_up(at)
        self._disk.meet("queue", self._path)

    def queued(self, start: int, end: int | None = None) -> int | None:
        return self._real.queued(start, end)

    def leave_queue(self) -> None:
        self._real.leave_queue()

    def close(self) -> None:
        self._real.close()


def carry_out(fault: Fault) -> None:
    """Do what `fault` says."""
    if fault.action is not None:
        fault.action()
    if fault.error is not None:
        raise OSError(fault.error, os.strerror(fault.error))


# -- files ---------------------------------------------------------------------------


def journal_of(root: Path, job_id: str) -> Path:
    """Return the path of a job's journal."""
    return root / "journals" / f"{ids.file_name(job_id)}.jsonl"


def head_of(root: Path, job_id: str) -> Path:
    """Return the path of a job's head."""
    return root / "heads" / ids.file_name(job_id)


def read_head(root: Path, job_id: str) -> Head:
    """Return what a job's head says."""
    head = head_codec.decode(head_of(root, job_id).read_bytes())
    assert head is not None
    return head


def write_head(root: Path, job_id: str, head: Head) -> None:
    """Let a job's head say `head`, in the same file."""
    slot = head_codec.encode(head)
    other = bytes(head_codec.SLOT_BYTES)
    is_first = head_codec.slot_offset(head.writing) == 0
    overwrite(head_of(root, job_id), 0, slot + other if is_first else other + slot)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put `data` at `offset` without changing the file's inode or length beyond."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def put(path: Path, data: bytes) -> None:
    """Let the file hold exactly `data`, under the inode that it has."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()  # last: ext4 syncs a file that is emptied first


def replace(path: Path, data: bytes) -> None:
    """Put a new file with `data` in the place of the old one, as a rewrite does."""
    fresh = path.with_name("rewritten")
    fresh.write_bytes(data)
    fresh.rename(path)


def last_hash(journal: bytes) -> str:
    """Return the hash that the last line of `journal` ends in."""
    return journal[-67:-3].decode()


def forged(prev: str, **envelope: Any) -> bytes:
    """Return an event line that verifies behind `prev`, whatever it says."""
    about = {"v": 1, "at": "2026-11-23T05:00:00.000000Z", "actor": "forger", "data": {}}
    body = orjson.dumps({**about, **envelope})[:-1]
    digest = hashlib.sha256(prev.encode() + body).hexdigest()
    return b'%b,"hash":"%b"}\n' % (body, digest.encode())


# -- processes -----------------------------------------------------------------------


class Child:
    """A forked process: it runs `work`, which tells its parent what it likes."""

    def __init__(self, work: Work) -> None:
        reading, writing = os.pipe()
        # One page: who is not listened to waits, and runs ahead no further.
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        with warnings.catch_warnings():
            # Forking beside threads is what some of these tests are about.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            self._live(work, writing)
        os.close(writing)
        self._told = os.fdopen(reading, "rb")

    @staticmethod
    def _live(work: Work, writing: int) -> None:
        status = 1
        try:
            work(lambda value: _write_line(writing, value))
            status = 0
        except BaseException:  # noqa: BLE001 - the parent sees the status
            traceback.print_exc()
        finally:
            os._exit(status)

    def hear(self) -> Any:
        """Return what it tells next; None when it has told everything."""
        line = self._told.readline()
        return orjson.loads(line) if line.endswith(b"\n") else None

    def hear_all(self) -> list[Any]:
        """Return everything that it still tells."""
        return [*iter(self.hear, None)]

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return its exit status once it has ended, negative if a signal ended it."""
        self._told.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def _write_line(fd: int, value: object) -> None:
    os.write(fd, orjson.dumps(value) + b"\n")


@contextmanager
def children(
    *works: Work,
) -> Iterator[list[Child]]:
    """Run one process for each of `works`; none is left behind."""
    running: list[Child] = []
    try:
        for work in works:
            running.append(Child(work))  # noqa: PERF401 - those made are ended below
        yield running
    except BaseException:
        for child in running:
            child.signal()
        raise
    finally:
        statuses = [child.wait() for child in running]
    assert not any(statuses), f"exit statuses {statuses}"


def in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a process of its own."""
    with children(lambda tell: tell(work())) as (child,):
        return child.hear()


def die() -> None:
    """End this process as a power cut would: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
