"""The head of one job as a file: what is acknowledged, and what writers lock."""

from __future__ import annotations

import errno
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from journal import entropy
from journal import head as head_codec
from journal.errors import LockTimeout
from journal.head import Head
from journal.journal_copy import JournalCopy
from journal.storage import Busy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from journal.disk import Disk, File


class MayCreate(Protocol):
    """Decides whether a missing head may be made."""

    def __call__(self, *, wait: bool) -> bool:
        """Tell; `wait`: its caller will write."""


_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.0002, 0.01


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


class HeadFile:
    """The head file of one job, opened when first needed.

    Attributes:
        head: what was last read or written here.
        raw: the bytes of it; equal bytes mean that nobody else wrote since.
        is_new: this process made the file, and nobody wrote a slot before.
        is_writable: this user may write to it.
    """

    def __init__(self, disk: Disk, path: Path, lock_timeout_seconds: float) -> None:
        self._disk = disk
        self._path = path
        self._lock_timeout_seconds = lock_timeout_seconds
        self._opening = threading.RLock()  # a reader and a writer may both come first
        self._file: File | None = None
        self._inode = 0  # of what is open
        self.head = Head()
        self.raw = b""
        self.is_new = False
        self.is_writable = True
        self._slots: list[Head] = []  # those that were valid when it was last read

    @property
    def is_open(self) -> bool:
        """Whether a descriptor is held."""
        return self._file is not None

    def peek(self) -> bytes:
        """Return the file's bytes without taking them over; none if there is no file.

        Raises:
            OSError: it cannot be opened or read.
        """
        with self._opening:  # or it may be closed for want of room meanwhile
            if self._file is not None:
                found = self._disk.stat(self._path)
                if found is None or found.inode != self._inode:
                    self.close()  # its folder was removed, and perhaps made again
            try:
                file = self._open(lambda: False)
            except Busy:
                return b""
            return file.read(0, head_codec.READ_BYTES)

    def read(self) -> bytes:
        """Return the file's bytes; only under the lock."""
        assert self._file is not None, "only under the lock"
        return self._file.read(0, head_codec.READ_BYTES)

    def lock(self, *, wait: bool, may_create: MayCreate) -> None:
        """Take the lock that excludes every other writer of the job.

        Args:
            wait: for up to the lock timeout; else raise at once.
            may_create: asked if there is no file; told whether to `wait`.

        Raises:
            Busy: it is held, or there is no file and none may be made.
            LockTimeout: it was held for too long.
            OSError: the file cannot be opened or made.
        """
        if wait and not self.is_writable:
            self.close()  # perhaps this user may write by now
        deadline = 0.0
        pause = _FIRST_WAIT_SECONDS
        while True:
            file = self._file or self._open(partial(may_create, wait=wait))
            if file.try_lock():
                found = self._disk.stat(self._path)
                if found is not None and found.inode == self._inode:
                    if found.links > 1 and self.is_writable:
                        self._unshare(file)
                    return
                # Another head was put in its place: this lock excludes nobody.
                self.close()
                continue
            if not wait:
                raise Busy
            now = time.monotonic()
            deadline = deadline or now + self._lock_timeout_seconds
            if now > deadline:
                raise self.late()
            # flock has no deadline of its own and no queue; the jitter keeps waiting
            # processes from marching in step.
            time.sleep(pause * (0.5 + entropy.draw(1)[0] / 256))
            pause = min(pause * 1.5, _LONGEST_WAIT_SECONDS)

    def late(self) -> LockTimeout:
        """Return the error that says that the lock was held for too long."""
        return LockTimeout(
            f"{self._path} stayed locked by another writer for "
            f"{self._lock_timeout_seconds:g} s",
            hint="try again; if it stays so, look for a stopped process",
        )

    def unlock(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.unlock()

    def _open(self, may_create: Callable[[], bool]) -> File:
        with self._opening:
            if self._file is None:
                try:
                    self._file, self.is_writable = open_either(
                        self._disk, self._path, "update"
                    )
                except FileNotFoundError:
                    if not may_create():
                        raise Busy from None
                    self._file = self._create()
                self._inode = self._file.stat().inode
            return self._file

    def _create(self) -> File:
        self._disk.make_folder(self._path.parent)
        try:
            file = self._disk.open(self._path, "update", create=True)
        except FileExistsError:
            return self._disk.open(self._path, "update")
        self.is_new = True
        return file

    def _unshare(self, shared: File) -> File:
        """Put a locked copy in the place of a head that has other names; return it.

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
            copy.write(shared.read(0, head_codec.READ_BYTES))
            placed = copy.place()
        finally:
            copy.discard()
        # Before anything is written to it: the old one may be brought back no more.
        self._disk.sync_folder(self._path.parent)
        with self._opening:
            shared.close()
            self._file, self._inode = placed, placed.stat().inode
        return placed

    def allocate(self) -> None:
        """Give the file its full length; under the lock, before the journal is made.

        Its blocks exist from then on, so that moving it never meets a full disk, and a
        head that is shorter is known for damaged.

        Raises:
            OSError: there is no room, or it cannot be synced.
        """
        assert self._file is not None, "only under the lock"
        size = self._file.stat().size
        if size < head_codec.FILE_BYTES and self.is_writable:
            # Only what is missing: a slot may be there already.
            self._file.pwrite(bytes(head_codec.FILE_BYTES - size), size)
            self._file.sync(metadata=True)

    def take_over(self, raw: bytes) -> bool:
        """Make `raw`, which `peek` returned, what is known here; False if no head."""
        self.raw = raw
        self._slots = head_codec.decode_all(raw)
        self.head = max(self._slots, default=Head())
        return bool(self._slots)

    def secure(self) -> None:
        """Let the next write overwrite nothing but what another slot has, durably.

        Right after `take_over`: one slot may be torn, or about a journal that was
        replaced, and the other not be synced yet, whoever wrote it being dead.

        Raises:
            OSError: it cannot be synced.
        """
        is_torn = len(self._slots) == 1
        is_mixed = any(head.inode != self.head.inode for head in self._slots)
        if (is_torn or is_mixed) and self.is_writable:
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
        assert self._file is not None, "only under the lock"
        self.head = head
        offset = head_codec.slot_offset(head.writing)
        self._file.pwrite(slot, offset)
        raw = self.raw.ljust(head_codec.FILE_BYTES, b"\0")
        self.raw = b"%b%b%b" % (raw[:offset], slot, raw[offset + len(slot) :])

    def sync(self) -> None:
        """Return once it is on the medium.

        Raises:
            OSError: it cannot be synced.
        """
        if self._file is not None:
            self._file.sync(metadata=True)

    def remove(self) -> None:
        """Take back a file that this process has just made and not written to."""
        self._disk.unlink(self._path)
        self.close()

    def after_fork(self) -> None:
        """Close it, without the lock that a thread of the parent may have held."""
        if self._file is not None:
            self._file.close()

    def close(self) -> None:
        """Close it; a lock that a parent process holds stays held."""
        with self._opening:
            if self._file is not None:
                self._file.close()
                self._file = None
            self.is_new = False
            self.is_writable = True
