"""The head file of one job: it records the acknowledged extent, and writers lock it."""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from milepost.journal.disk.copy_file import JournalCopy
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import LockTimeout, NestedCall
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File


class MayCreate(Protocol):
    """Decides whether a missing head may be created."""

    def __call__(self, *, wait: bool) -> bool:
        """Return whether it may; `wait`: the caller is a writer."""


# Pauses between two attempts at a lock: the first, early ones, later ones.
_FIRST_WAIT_SECONDS, _SHORT_WAIT_SECONDS, _LONG_WAIT_SECONDS = 0.0002, 0.002, 0.01
_EARLY_SECONDS = 0.5
# How long a free lock is left to the first waiter.  Longer than any pause between two
# attempts, so that only a stopped process is passed over.
_GRACE_SECONDS = 0.05


def open_either(
    disk: Disk, path: Path, mode: Literal["append", "update"]
) -> tuple[File, bool]:
    """Open a file for writing if this user may, else for reading.

    Returns:
        The file, and whether it is writable.

    Raises:
        OSError: it cannot be opened either way.
    """
    try:
        return disk.open(path, mode), True
    except OSError as exc:
        if exc.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        return disk.open(path, "read"), False


class OpenFile(NamedTuple):
    """An open file; closed when it is unreferenced.

    Attributes:
        inode: of the file, even if its path names another one now.
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
    """The head file of one job, opened on first use.

    Attributes:
        head: as last read or written by this process.
        raw: its bytes; equal bytes mean that no other process wrote since.
        is_spent: its job was removed, so it goes with its lock.
    """

    _alive: ClassVar[weakref.WeakSet[HeadFile]] = weakref.WeakSet()

    def __init__(self, disk: Disk, path: Path, lock_timeout_seconds: float) -> None:
        self._disk = disk
        self._path = path
        self._name = str(path)  # quicker to ask for
        self._lock_timeout_seconds = lock_timeout_seconds
        # Each thread keeps a reference to the file that it uses, so that another thread
        # may replace or drop this one at any time.
        self._opened: OpenFile | None = None
        self._locked: OpenFile | None = None  # the file that has or gets the lock
        self._is_queued = False
        self._passed: set[int] = set()  # places of waiters that were passed over
        self._holder = 0  # the thread that has or takes the lock
        self.head = Head()
        self.raw = b""
        self.is_spent = False
        self._made: OpenFile | None = None  # the file, if this process created it
        self._slots: list[Head] = []  # the valid ones of the last read
        self._alive.add(self)

    @property
    def is_new(self) -> bool:
        """Whether the file was created for its lock, and has no content yet."""
        return self._made is not None and self._made is self._locked

    def begin(self) -> None:
        """Mark the file as no longer new: it has content."""
        self._made = None

    @property
    def is_writable(self) -> bool:
        """Whether this user may write to it; True if it was not opened yet."""
        opened = self._locked or self._opened
        return opened is None or opened.is_writable

    def peek(self) -> bytes:
        """Return the file's bytes without changing `head`; none if there is no file.

        Raises:
            OSError: it cannot be opened or read.
        """
        opened = self._opened
        if opened is not None:
            found = self._disk.stat(self._name)
            if found is None or found.inode != opened.inode:
                opened = None  # the file was replaced, or its folder removed
        if opened is None:
            try:
                opened = self._open()
            except FileNotFoundError:
                return b""
        return opened.file.read(0, head_codec.READ_BYTES)

    def read(self, size: int = head_codec.READ_BYTES) -> bytes:
        """Return up to `size` bytes of the file; requires the lock."""
        assert self._locked is not None, "only under the lock"
        return self._locked.file.read(0, size)

    def try_lock(self) -> bool:
        """Take the lock if nothing stands in the way; return whether it was taken.

        Raises:
            OSError: the file cannot be locked.
        """
        opened = self._opened
        if opened is None or self._passed or self.is_spent:
            return False
        self._holder = threading.get_ident()
        self._locked = opened
        # No overtaking of waiters.
        if opened.file.queued(0) is not None or not opened.file.try_lock():
            return False
        found = self._disk.stat(self._name)
        return found is not None and found.inode == opened.inode and found.links == 1

    def lock(self, *, wait: bool, may_create: MayCreate) -> None:
        """Take the lock that excludes every other writer of the job.

        Waiters are served in the order of arrival, across processes.

        Args:
            wait: for up to the lock timeout; else raise at once.
            may_create: called with `wait` if there is no file.

        Raises:
            Busy: it is locked, or the file is missing and may not be created.
            LockTimeout: it stayed locked for too long.
            NestedCall: this thread has it locked.
            OSError: the file cannot be opened or created.
        """
        if wait and not self.is_writable:
            self._opened = None  # permissions may have changed
        self._holder = threading.get_ident()
        while True:
            opened = self._opened or self._open_or_create(
                partial(may_create, wait=wait)
            )
            # Set before the lock is taken, so that `unlock` releases it even if an
            # exception arrives in between.
            self._locked = opened
            self._acquire(opened, wait=wait)
            found = self._disk.stat(self._name)
            if found is not None and found.inode == opened.inode:
                if found.links > 1 and opened.is_writable:
                    self._unshare(opened)
                return
            # The file was replaced meanwhile, so this lock excludes no writer.
            self.unlock()
            self._opened = None

    def _acquire(self, opened: OpenFile, *, wait: bool) -> None:
        file = opened.file
        is_turn = not wait or self._ahead(file) is None  # no overtaking of waiters
        if is_turn and file.try_lock():
            return
        if not wait:
            raise Busy
        self._refuse_nested(opened)
        self._queue_up(file)

    def _queue_up(self, file: File) -> None:
        """Wait for the lock, behind all earlier waiters.

        `flock` has neither deadline nor order, so it is polled.  A stopped process,
        which does not take the free lock in its turn, is passed over (docs/adr/0027).
        """
        began = time.monotonic_ns()
        deadline = began / 1e9 + self._lock_timeout_seconds
        # The first waiter, how long it left the lock free, and the last look at that.
        # Writes of others in between do not count, nor a pause of this process.
        first, idle, looked = -1, 0.0, 0.0
        pause = _FIRST_WAIT_SECONDS
        self._is_queued = True
        file.queue_up(began)
        while True:
            ahead = self._ahead(file, before=began)
            now = time.monotonic()
            # A shared lock, because a test must not look like a lock holder to others.
            if file.try_lock(shared=ahead is not None):
                if ahead is None:
                    break
                if first != ahead:
                    first, idle = ahead, 0.0
                elif idle > _GRACE_SECONDS:
                    self._pass_over(file, ahead)
                else:
                    idle += min(now - looked, 2 * _LONG_WAIT_SECONDS)
                file.unlock()
            elif ahead is None:  # the next in turn polls more often
                pause = min(pause, _SHORT_WAIT_SECONDS / 2)
            looked = now
            if now > deadline:
                raise self.late()
            # Jitter keeps waiters from polling at the same moments.
            time.sleep(pause * (0.5 + os.urandom(1)[0] / 256))
            is_early = now < began / 1e9 + _EARLY_SECONDS
            pause *= 1.5
            pause = min(pause, _SHORT_WAIT_SECONDS if is_early else _LONG_WAIT_SECONDS)
        self._leave_queue(file)

    def _ahead(self, file: File, before: int | None = None) -> int | None:
        """Return the place of an earlier waiter, None if there is none."""
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
        """Refuse to wait for a lock that this thread has taken.

        Raises:
            NestedCall: this thread has the lock through another manager.
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
        """Return the error for a lock that was not released in time."""
        return LockTimeout(
            f"{self._path} stayed locked by another writer for "
            f"{self._lock_timeout_seconds:g} s",
            hint="try again; if it stays locked, look for a stopped process",
        )

    def unlock(self) -> None:
        """Release the lock and leave the queue; idempotent."""
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
        """Replace a head that has several hard links by a locked copy.

        A copy of the store by hard links (``cp -al``) shares the file, and a slot
        written in place would change both (docs/adr/0030).  Waiters for the old file
        notice, once they get its lock, that it was replaced, and wait for the new one.

        Raises:
            OSError: it cannot be copied; the old file is still in place.
        """
        copy = JournalCopy(
            self._disk, self._path.parent / f"{self._path.name}.tmp", self._path
        )
        try:
            copy.write(shared.file.read(0, head_codec.READ_BYTES))
            placed = copy.place()
        finally:
            copy.discard()
        # Before the first write to it, so that no crash brings the old file back.
        self._disk.sync_folder(self._path.parent)
        own = OpenFile(placed, placed.stat().inode, is_writable=True)
        self._opened = self._locked = own
        shared.file.unlock()

    def allocate(self) -> None:
        """Extend the file to its full length, under the lock, before the first journal.

        Its blocks are allocated, so that a later write of a slot cannot fail on a full
        disk, and a shorter head is recognised as damaged.

        Raises:
            OSError: the disk is full, or the sync failed.
        """
        assert self._locked is not None, "only under the lock"
        file = self._locked.file
        size = file.stat().size
        if size < head_codec.FILE_BYTES and self.is_writable:
            # Only the missing bytes: a slot may exist already.
            file.pwrite(bytes(head_codec.FILE_BYTES - size), size)
            file.sync(metadata=True)

    def take_over(self, raw: bytes) -> bool:
        """Adopt the bytes `raw` of the file; return whether they have a valid slot."""
        self.raw = raw
        self._slots = head_codec.decode_all(raw)
        self.head = max(self._slots, default=Head())
        return bool(self._slots)

    def secure(self) -> None:
        """Ensure that the next write overwrites a slot whose successor is durable.

        To be called right after `take_over`.  One slot may be torn, or refer to a
        replaced journal, and the other unsynced, because its writer crashed.  The first
        two slots may both be unsynced (docs/adr/0019).

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
        """Write both slots durably with nothing acknowledged.

        Both, so that the poison mark of an earlier journal cannot come back.

        Raises:
            OSError: they cannot be written or synced.
        """
        for _ in range(head_codec.SLOTS):
            self.write(Head(writing=self.head.writing + 1))
            self.sync()

    def write(self, head: Head) -> None:
        """Write `head` to the slot given by its number, without a sync.

        Raises:
            OSError: it cannot be written.
        """
        self.put(head, head_codec.encode(head))

    def put(self, head: Head, slot: bytes) -> None:
        """As `write`, for a head that is already encoded.

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
        """Sync the file to the medium.

        Raises:
            OSError: it cannot be synced.
        """
        opened = self._locked or self._opened
        if opened is not None:
            opened.file.sync(metadata=True)

    def remove(self) -> None:
        """Remove a file that acknowledges nothing, under its lock."""
        self._disk.unlink(self._path)
        self._opened = None
        self.head, self.raw, self.is_spent = Head(), b"", False

    def after_fork(self) -> None:
        """Close the file in a forked child, even if a parent's thread was using it."""
        for opened in (self._opened, self._locked):
            if opened is not None:
                opened.file.close()
        self._opened = self._locked = None

    def close(self) -> None:
        """Close the file once no thread reads it; a lock of the parent is kept."""
        self._opened = None
