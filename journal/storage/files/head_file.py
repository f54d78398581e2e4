"""The head of one job as a file: what is acknowledged, and what writers lock."""

from __future__ import annotations

import errno
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from milepost.journal.disk.copy_file import JournalCopy
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import LockTimeout, NestedCall
from milepost.journal.process import random_bytes
from milepost.journal.recovery import head as head_codec
from milepost.journal.recovery.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File


class MayCreate(Protocol):
    """Decides whether a missing head may be made."""

    def __call__(self, *, wait: bool) -> bool:
        """Tell; `wait`: its caller will write."""


# Between two looks at a lock: at first, as long as the wait is short, and later.
_FIRST_WAIT_SECONDS, _SHORT_WAIT_SECONDS, _LONG_WAIT_SECONDS = 0.0002, 0.002, 0.01
_EARLY_SECONDS = 0.5
# How long a free lock is left to the one whose turn it is.  Longer than any wait
# between two looks, so that only a stopped process is passed over.
_GRACE_SECONDS = 0.05


def open_either(
    disk: Disk, path: Path, mode: Literal["append", "update"]
) -> tuple[File, bool]:
    """Open a file for writing if this user may, else for reading; tell which.

    Raises:
        OSError: neither.
    """
    try:
        return disk.open(path, mode), True
    except OSError as exc:
        if exc.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        return disk.open(path, "read"), False


class OpenFile(NamedTuple):
    """A file that is open; closed once nobody uses it.

    Attributes:
        inode: which file, whatever its path names by now.
        is_writable: this user may write to it.
    """

    file: File
    inode: int
    is_writable: bool

    @classmethod
    def of(cls, disk: Disk, path: Path, mode: Literal["append", "update"]) -> OpenFile:
        """Open the file at `path`, as `open_either` does."""
        file, is_writable = open_either(disk, path, mode)
        return cls(file, file.stat().inode, is_writable)


class HeadFile:
    """The head file of one job, opened when first needed.

    Attributes:
        head: what was last read or written here.
        raw: the bytes of it; equal bytes mean that nobody else wrote since.
    """

    _alive: ClassVar[weakref.WeakSet[HeadFile]] = weakref.WeakSet()

    def __init__(self, disk: Disk, path: Path, lock_timeout_seconds: float) -> None:
        self._disk = disk
        self._path = path
        self._lock_timeout_seconds = lock_timeout_seconds
        # A thread that uses a file has it in a variable of its own, so that another
        # may open a new one, or close this one, at any time.
        self._opened: OpenFile | None = None
        self._locked: OpenFile | None = None  # what has the lock, or is about to
        self._is_queued = False
        self._passed: set[int] = set()  # the places of those that do not come
        self._holder = 0  # the thread that locks
        self.head = Head()
        self.raw = b""
        self._made: OpenFile | None = None  # if this process made the file
        self._slots: list[Head] = []  # those that were valid when it was last read
        self._alive.add(self)

    @property
    def is_new(self) -> bool:
        """Whether the file was made to be locked, and says nothing yet."""
        return self._made is not None and self._made is self._locked

    def begin(self) -> None:
        """Note that from now on the file says something: it is not new any more."""
        self._made = None

    @property
    def is_writable(self) -> bool:
        """Whether this user may write to it, as far as is known."""
        opened = self._locked or self._opened
        return opened is None or opened.is_writable

    def peek(self) -> bytes:
        """Return the file's bytes without taking them over; none if there is no file.

        Raises:
            OSError: it cannot be opened or read.
        """
        opened = self._opened
        if opened is not None:
            found = self._disk.stat(self._path)
            if found is None or found.inode != opened.inode:
                opened = None  # its folder was removed, and perhaps made again
        if opened is None:
            try:
                opened = self._open()
            except FileNotFoundError:
                return b""
        return opened.file.read(0, head_codec.READ_BYTES)

    def read(self) -> bytes:
        """Return the file's bytes; only under the lock."""
        assert self._locked is not None, "only under the lock"
        return self._locked.file.read(0, head_codec.READ_BYTES)

    def lock(self, *, wait: bool, may_create: MayCreate) -> None:
        """Take the lock that excludes every other writer of the job.

        Who waits is served in the order of arrival, across processes.

        Args:
            wait: for up to the lock timeout; else raise at once.
            may_create: asked if there is no file; told whether to `wait`.

        Raises:
            Busy: it is held, or there is no file and none may be made.
            LockTimeout: it was held for too long.
            NestedCall: this very thread holds it.
            OSError: the file cannot be opened or made.
        """
        if wait and not self.is_writable:
            self._opened = None  # perhaps this user may write by now
        self._holder = threading.get_ident()
        while True:
            opened = self._opened or self._open_or_create(
                partial(may_create, wait=wait)
            )
            self._locked = opened  # before it is: then `unlock` is never too little
            self._acquire(opened, wait=wait)
            found = self._disk.stat(self._path)
            if found is not None and found.inode == opened.inode:
                if found.links > 1 and opened.is_writable:
                    self._unshare(opened)
                return
            # Another head was put in its place: this lock excludes nobody.
            self.unlock()
            self._opened = None

    def _acquire(self, opened: OpenFile, *, wait: bool) -> None:
        file = opened.file
        is_turn = not wait or self._ahead(file) is None  # else others came before
        if is_turn and file.try_lock():
            return
        if not wait:
            raise Busy
        self._refuse_nested(opened)
        self._queue_up(file)

    def _queue_up(self, file: File) -> None:
        """Wait for the lock, behind all who came before.

        `flock` has no deadline and its waiters no order, so it is polled.  A process
        that does not take the lock while it is free (a stopped one) is passed over.
        """
        began = time.monotonic_ns()
        deadline = began / 1e9 + self._lock_timeout_seconds
        # Who lets the lock go unused, and since when.
        idle: tuple[int, float] | None = None
        pause = _FIRST_WAIT_SECONDS
        self._is_queued = True
        file.queue_up(began)
        while True:
            ahead = self._ahead(file, before=began)
            now = time.monotonic()
            # Shared: a look must not pass for a holder, to others that look.
            if file.try_lock(shared=ahead is not None):
                if ahead is None:
                    break
                if idle is None or idle[0] != ahead:
                    idle = ahead, now
                elif now > idle[1] + _GRACE_SECONDS:
                    self._pass_over(file, ahead)
                file.unlock()
            else:
                idle = None
                if ahead is None:  # the next: it looks more often
                    pause = min(pause, _SHORT_WAIT_SECONDS / 2)
            if now > deadline:
                raise self.late()
            # The jitter keeps waiting processes from marching in step.
            time.sleep(pause * (0.5 + random_bytes.draw(1)[0] / 256))
            is_early = now < began / 1e9 + _EARLY_SECONDS
            pause *= 1.5
            pause = min(pause, _SHORT_WAIT_SECONDS if is_early else _LONG_WAIT_SECONDS)
        self._leave_queue(file)

    def _ahead(self, file: File, before: int | None = None) -> int | None:
        """Return the place of one whose turn comes first; None: of nobody."""
        start = 0
        for place in sorted(self._passed):
            end = place if before is None else min(place, before)
            found = file.queued(start, end)
            if found is not None:
                return found
            start = place + 1
        return file.queued(start, before)

    def _pass_over(self, file: File, place: int) -> None:
        still = {p for p in self._passed if file.queued(p, p + 1) is not None}
        self._passed = still | {place}

    def _leave_queue(self, file: File) -> None:
        if self._is_queued:
            file.leave_queue()
            self._is_queued = False

    def _refuse_nested(self, opened: OpenFile) -> None:
        """Refuse to wait for this very thread.

        Raises:
            NestedCall: it holds the lock through another manager.
        """
        for head in list(self._alive):
            locked = head._locked  # noqa: SLF001 - one of ours
            if (
                head is not self
                and locked is not None
                and locked.inode == opened.inode
                and head._holder == self._holder  # noqa: SLF001
            ):
                raise NestedCall.inside()

    def late(self) -> LockTimeout:
        """Return the error that says that the lock was held for too long."""
        return LockTimeout(
            f"{self._path} stayed locked by another writer for "
            f"{self._lock_timeout_seconds:g} s",
            hint="try again; if it stays so, look for a stopped process",
        )

    def unlock(self) -> None:
        """Give the lock back, and the place in the queue; idempotent."""
        locked = self._locked
        if locked is not None:
            self._leave_queue(locked.file)
            locked.file.unlock()
            self._locked = None

    def _open(self) -> OpenFile:
        self._opened = opened = OpenFile.of(self._disk, self._path, "update")
        return opened

    def _open_or_create(self, may_create: Callable[[], bool]) -> OpenFile:
        try:
            return self._open()
        except FileNotFoundError:
            if not may_create():
                raise Busy from None
        self._disk.make_folder(self._path.parent)
        try:
            file = self._disk.open(self._path, "update", create=True)
        except FileExistsError:
            return self._open()
        self._opened = self._made = made = OpenFile(file, file.stat().inode, True)
        return made

    def _unshare(self, shared: OpenFile) -> None:
        """Put a locked copy in the place of a head that has other names.

        A copy made by hard links (``cp -al``) shares the file with the store: a slot
        written in place would change both.  Whoever waits for the old file finds, once
        it gets the lock, that the name is another's, and waits for the new one.

        Raises:
            OSError: it cannot be copied; the old one is still in place.
        """
        copy = JournalCopy(
            self._disk, self._path.parent / f"{self._path.name}.tmp", self._path
        )
        try:
            copy.write(shared.file.read(0, head_codec.READ_BYTES))
            placed = copy.place()
        finally:
            copy.discard()
        # Before anything is written to it: the old one may be brought back no more.
        self._disk.sync_folder(self._path.parent)
        own = OpenFile(placed, placed.stat().inode, is_writable=True)
        self._opened = self._locked = own
        shared.file.unlock()

    def allocate(self) -> None:
        """Give the file its full length; under the lock, before the journal is made.

        Its blocks exist from then on, so that moving it never meets a full disk, and a
        head that is shorter is known for damaged.

        Raises:
            OSError: there is no room, or it cannot be synced.
        """
        assert self._locked is not None, "only under the lock"
        file = self._locked.file
        size = file.stat().size
        if size < head_codec.FILE_BYTES and self.is_writable:
            # Only what is missing: a slot may be there already.
            file.pwrite(bytes(head_codec.FILE_BYTES - size), size)
            file.sync(metadata=True)

    def take_over(self, raw: bytes) -> bool:
        """Make `raw`, which `peek` returned, what is known here; False if no head."""
        self.raw = raw
        self._slots = head_codec.decode_all(raw)
        self.head = max(self._slots, default=Head())
        return bool(self._slots)

    def secure(self) -> None:
        """Let the next write overwrite nothing but what another slot has, durably.

        Right after `take_over`: one slot may be torn, or about a journal that was
        replaced, and the other not be synced yet, whoever wrote it being dead.  Nor may
        both be, if they are the first two.

        Raises:
            OSError: it cannot be synced.
        """
        is_torn = len(self._slots) == 1
        is_mixed = any(head.inode != self.head.inode for head in self._slots)
        is_first = 0 < self.head.writing <= head_codec.SLOTS
        if (is_torn or is_mixed or is_first) and self.is_writable:
            self.sync()
            if is_torn:
                self.write(self.head._replace(writing=self.head.writing + 1))
                self.sync()

    def clear(self) -> None:
        """Let both slots say, durably, that nothing was acknowledged.

        A poison mark must not come back once the journal it is about begins anew.

        Raises:
            OSError: they cannot be written or synced.
        """
        for _ in range(head_codec.SLOTS):
            self.write(Head(writing=self.head.writing + 1))
            self.sync()

    def write(self, head: Head) -> None:
        """Write `head` to the slot whose turn it is by its number; not synced.

        Raises:
            OSError: it cannot be written.
        """
        self.put(head, head_codec.encode(head))

    def put(self, head: Head, slot: bytes) -> None:
        """As `write`, for a head that was encoded beforehand.

        Raises:
            OSError: it cannot be written.
        """
        assert self._locked is not None, "only under the lock"
        self.head = head
        offset = head_codec.slot_offset(head.writing)
        self._locked.file.pwrite(slot, offset)
        raw = self.raw.ljust(head_codec.FILE_BYTES, b"\0")
        self.raw = b"%b%b%b" % (raw[:offset], slot, raw[offset + len(slot) :])

    def sync(self) -> None:
        """Return once it is on the medium.

        Raises:
            OSError: it cannot be synced.
        """
        opened = self._locked or self._opened
        if opened is not None:
            opened.file.sync(metadata=True)

    def remove(self) -> None:
        """Take back a file that this process has just made and not written to."""
        self._disk.unlink(self._path)
        self._opened = None

    def after_fork(self) -> None:
        """Close it in a forked child, whoever still seems to use it."""
        for opened in (self._opened, self._locked):
            if opened is not None:
                opened.file.close()
        self._opened = self._locked = None

    def close(self) -> None:
        """Close it, as soon as nobody reads it; a parent's lock stays held."""
        self._opened = None
