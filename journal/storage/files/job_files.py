"""Write access to one job's two files: the journal and its head.

A write takes the lock, recovers the job, appends with one write and one sync, moves the
head, and releases the lock.  The order is essential.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from milepost.journal.disk import copy_file
from milepost.journal.disk.copy_file import JournalCopy
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    Conflict,
    MilepostError,
    NestedCall,
    NoSpace,
    StorageFailed,
)
from milepost.journal.events.codec import Mark, has_state
from milepost.journal.process.mutex import Mutex
from milepost.journal.storage.contract import Position, Version, during
from milepost.journal.storage.files.head_file import OpenFile
from milepost.journal.storage.files.places import Places
from milepost.journal.storage.files.reading import fail, failure
from milepost.journal.storage.files.recovering import SettledJournal
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery import snapshot
from milepost.journal.storage.files.recovery.head import Extent
from milepost.journal.storage.files.recovery.judgement import judge
from milepost.journal.storage.files.recovery.passage import PIECE_BYTES, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from milepost.journal.disk.disk import File
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.storage.contract import LockScope, OnPiece, Rewrite
    from milepost.journal.storage.files.reading import Place
    from milepost.journal.storage.files.recovery.salvage import Data
    from milepost.journal.storage.files.recovery.snapshot import Evidence

_log = logging.getLogger("milepost.journal")


class LockedJournal:
    """One job's files while their lock is held; see `HeldJob`."""

    __slots__ = ("_file", "extent")

    def __init__(self, file: JournalFile, extent: Extent) -> None:
        self._file = file
        self.extent = extent

    @property
    def position(self) -> Position:
        """See `HeldJob.position`."""
        seq, hash_, size = self.extent
        version = Version(self._file.inode, size) if size else None
        return Position(Mark(seq, hash_), version)

    def append(self, expected: Mark, lines: Sequence[bytes], last: Mark) -> Position:
        """See `HeldJob.append`."""
        self.extent = self._file.append(expected, lines, last)
        return self.position

    def repairs(self) -> list[JobRepairedData]:
        """See `HeldJob.repairs`."""
        return self._file.repairs()

    def recall(self, seen: Mark) -> None:
        """See `HeldJob.recall`."""
        self._file.recall(seen)

    def finish(self, rewrite: Rewrite) -> tuple[int, int]:
        """See `HeldJob.finish`."""
        assert isinstance(rewrite, JournalRewrite)
        rewrite.copy_up_to(self.extent.size)
        return self.extent.size, rewrite.new.size

    def replace(self, rewrite: Rewrite, lines: Sequence[bytes], last: Mark) -> None:
        """See `HeldJob.replace`."""
        assert isinstance(rewrite, JournalRewrite)
        rewrite.new.write(b"".join(lines))
        self.extent = self._file.replace(rewrite.new, last)

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """See `HeldJob.remove_salvage_files`."""
        self._file.remove_salvage_files(names)

    # -- for a repair, without recovery ------------------------------------------

    def evidence(self) -> AbstractContextManager[Evidence]:
        """Return a snapshot of the job's files, read from the medium."""
        return self._file.evidence()

    def keep_aside(self, data: Data, offset: int, lost_events: int) -> str:
        """Write bytes that will be given up to a salvage file; return its name.

        Args:
            data: the bytes, or a function that returns them in pieces.
            offset: their offset in the journal.
            lost_events: number of acknowledged events that are lost with them.
        """
        return self._file.give_up(data, offset, lost_events)

    def replace_by(self, copy: JournalCopy, last: Mark) -> None:
        """Replace the journal by a copy with other events; the job is then recovered.

        Raises:
            StorageFailed: the outcome is unknown; either way nothing is lost.
        """
        self.extent = self._file.replace(copy, last)


class JournalRewrite:
    """A copy of a journal that will replace it; see `Rewrite`.

    Attributes:
        new: the new file.
    """

    def __init__(self, file: JournalFile, new: JournalCopy) -> None:
        self._file = file
        self._end = 0  # how far the old journal is copied
        self.new = new

    def copy(
        self,
        until_seq: int,
        lines_of: Callable[[int, bytes], bytes],
        on_piece: OnPiece | None = None,
    ) -> None:
        """See `Rewrite.copy`."""
        parts, size_bytes = list[bytes](), 0
        for located, data, begin in self._file.walk(Mark(), until_seq, on_piece):
            event, offset, size, _ = located
            lines = data[offset - begin : offset - begin + size]
            if has_state(event):
                lines = lines_of(event["seq"], lines)
            parts.append(lines)
            size_bytes += len(lines)
            if size_bytes >= PIECE_BYTES:
                self.new.write(b"".join(parts))
                parts, size_bytes = [], 0
            self._end = offset + size
        self.new.write(b"".join(parts))

    def follow(self) -> None:
        """See `Rewrite.follow`."""
        # Syncing a long file takes long; only the rest is synced under the lock.
        self.new.sync()
        while (end := self._file.extent().size) - self._end > PIECE_BYTES:
            self.copy_up_to(end)

    def copy_up_to(self, end: int) -> None:
        """Copy later lines as they are: none of their states needs a dropped one.

        Raises:
            Busy: the journal was replaced meanwhile.
        """
        for data in pieces(self._file.read, self._end, end):
            self.new.write(data)
            self._end += len(data)
        if self._end < end:
            raise Busy


class _LockScope:
    """The scope of a job's lock, as a context manager.

    Args:
        file: the job's files.
        take: takes the lock.
        what: names the operation in errors.
    """

    __slots__ = ("_file", "_is_mine", "_take", "_what")

    def __init__(
        self, file: JournalFile, take: Callable[[], LockedJournal], what: str
    ) -> None:
        self._file = file
        self._take = take
        self._what = what
        self._is_mine = False

    def __enter__(self) -> LockedJournal:
        self._file.refuse_nested()
        self._is_mine = True
        try:
            return self._take()
        except BaseException as exc:
            self.__exit__(type(exc), exc, None)
            raise

    def release(self) -> None:
        """See `LockScope.release`."""
        if self._is_mine:
            self._file.release()

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self.release()
        if isinstance(exc, OSError) and not isinstance(exc, MilepostError):
            raise failure(exc, f"{self._what} {self._file.path}") from exc


class JournalFile(SettledJournal):
    """One job's files, for one writer and any number of readers.

    Safe for threads: `_mutex` excludes the other writers of this process.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._mutex = Mutex()
        self._lock_timeout_seconds = min(
            place.lock_timeout_seconds, threading.TIMEOUT_MAX
        )
        self._writes = place.writes
        self._is_repaired = False  # locked for a repair, without recovery
        self._owes_sync = False  # a write was acknowledged before its sync

    @property
    def path(self) -> Path:
        """The path of the journal."""
        return self._path

    def hold(self, *, wait: bool = True) -> LockScope[LockedJournal]:
        """See `JobStorage.hold`."""
        self._writes()
        return _LockScope(self, partial(self._settled, wait), "cannot write")

    def unsettled(self) -> LockScope[LockedJournal]:
        """Lock the job as `hold` does, but without recovery: for a repair.

        Raises:
            LockTimeout: it stayed locked for too long.
            NewerFormat: a newer version wrote its head.
            ReadOnlyStore, StorageFailed: it cannot be locked.
        """
        return _LockScope(self, self._as_it_is, "cannot repair")

    def _settled(self, wait: bool) -> LockedJournal:
        self._take(wait=wait)
        self._head.lock(wait=wait, may_create=self._may_make_head)
        return LockedJournal(self, self._settle())

    def _as_it_is(self) -> LockedJournal:
        self._take(wait=True)
        self._head.lock(wait=True, may_create=lambda **_: True)
        self._is_settled = False
        self._is_repaired = True
        self._head.take_over(self._head.read())
        return LockedJournal(self, Extent())

    def _take(self, *, wait: bool) -> None:
        """Take the lock that excludes the other threads of this process.

        Raises:
            Busy: a thread has it, and `wait` is false.
            LockTimeout: a thread had it for too long.
        """
        if not self._mutex.acquire(self._lock_timeout_seconds if wait else 0):
            raise self._head.late() if wait else Busy
        self._list()

    def refuse_nested(self) -> None:
        """Refuse to wait for a lock that this thread has taken.

        Raises:
            NestedCall: this thread has the job locked.
        """
        if self._mutex.is_mine:
            raise NestedCall.inside()

    def release(self) -> None:
        """Release the locks of this thread; idempotent."""
        if not self._mutex.is_mine:
            return
        try:
            if self._is_repaired:
                self._is_repaired = False
                if self._head.is_new:  # it would look like an interrupted creation
                    self._head.remove()
        finally:
            self._head.unlock()
            self._mutex.release()

    @contextmanager
    def evidence(self) -> Iterator[Evidence]:
        """Return a snapshot of both files; requires the lock."""
        salvage, name = self._salvage, self._name
        with snapshot.of_files(self._disk, salvage, name, is_held=True) as found:
            # A head that was created for its lock counts as missing.
            yield found._replace(head=None) if self._head.is_new else found

    def give_up(self, data: Data, offset: int, lost_events: int) -> str:
        """Keep the bytes that a repair removes; see `LockedJournal.keep_aside`."""
        return self._salvage_files.keep(data, offset, lost_events, is_damage=True)

    def _may_make_head(self, *, wait: bool) -> bool:
        """Return whether a missing head may be created, for a new or a copied job.

        Decided before it is created: an empty head of a journal with a bad tail would
        look like an interrupted creation.

        Raises:
            DamagedJournal: the journal has a bad tail and no head.
        """
        found = self._disk.stat(self._path)
        if found is None or found.size == 0:
            return wait
        facts = self._look(None, found)
        self._refuse(facts, judge(facts))
        return True

    def append(self, expected: Mark, lines: Sequence[bytes], last: Mark) -> Extent:
        """Append events durably; see `HeldJob.append`."""
        shown = self._head.head.shown
        if (shown.seq, shown.hash) != expected:
            raise Conflict(
                f"job {self._job_id!r} is at {shown.seq}, not {expected.seq}"
            )
        data = b"".join(lines)
        is_first = shown.size == 0
        try:
            file = self._create_journal() if is_first else self._private_journal()
        except OSError as exc:
            fail(exc, f"cannot write {self._path}")
        extent = Extent(last.seq, last.hash, shown.size + len(data))
        is_synced = self._durability == "always" or is_first
        self._is_settled = False  # until the end, because an exception may intervene
        # Encoded before the sync, since a thread that wakes from one is slow at first.
        head = self._next_head(extent, extent if is_synced else self._head.head.synced)
        slot = head_codec.encode(head)
        self._write(file, data, shown.size)
        if is_synced:
            self._sync(file, is_first=is_first)
        else:
            self._owes_sync = True
        try:
            self._head.put(head, slot)
            if is_first:
                self._head.write(head._replace(writing=head.writing + 1))
                self._head.sync()  # both slots: a torn write must leave a valid one
        except OSError as exc:
            # The journal has the write, so the next recovery acknowledges it.
            raise StorageFailed(
                f"wrote to {self._path}, but cannot move its head: {exc.strerror}; "
                "the write becomes visible once the disk works again",
                hint="check the disk, then read the job again before you retry",
            ) from exc
        self._pending.clear()
        self._may_owe_repairs = False
        self._is_settled = True
        if self._places.inode != self.inode:
            self._places = Places(self.inode)
        sizes = map(len, lines)
        ends = accumulate(sizes, initial=shown.size)
        self._places.learn(expected.seq, [*ends])
        self._shown = extent
        return extent

    @contextmanager
    def rewriting(self) -> Iterator[JournalRewrite]:
        """See `JobStorage.rewriting`."""
        with self.copying() as copy:
            yield JournalRewrite(self, copy)

    @contextmanager
    def copying(self) -> Iterator[JournalCopy]:
        """Begin a new journal; removed unless it replaces the old one.

        Raises:
            Busy: another one is in progress.
            NoSpace, StorageFailed: it cannot be written.
        """
        try:
            copy = JournalCopy(self._disk, self._copy_path, self._path)
            try:
                yield copy
            finally:
                copy.discard()
        except OSError as exc:
            fail(exc, f"cannot rewrite {self._path}")

    def sweep(self) -> None:
        """See `JobStorage.sweep`."""
        try:
            with suppress(Busy):
                copy_file.remove_leftover(self._disk, self._copy_path)
        except OSError as exc:
            raise failure(exc, f"cannot remove {self._copy_path}") from exc

    def replace(self, copy: JournalCopy, last: Mark) -> Extent:
        """Replace the journal by `copy` durably; return the acknowledged extent."""
        self._is_settled = False
        if not self._head.head.shown.seq:
            self._disk.sync_folder(self._folders.heads)  # as `_create_journal` does
        placed = copy.place()
        placed.unlock()  # otherwise the next rewrite would be refused as busy
        try:
            self._disk.sync_folder(self._folders.journals)
        except OSError as exc:
            raise self._poison(exc, "cannot sync the folder of") from exc
        self._opened = OpenFile(placed, placed.stat().inode, is_writable=True)
        extent = Extent(last.seq, last.hash, copy.size)
        try:
            self._move_head(extent, synced=extent)
            self._head.sync()
        except OSError as exc:
            raise StorageFailed(
                f"rewrote {self._path}, but cannot move its head: {exc.strerror}",
                hint="check the disk; nothing is lost",
            ) from exc
        self._owes_sync = self._is_poisoned = False
        self._head.begin()
        self._is_settled = True
        return extent

    def recall(self, seen: Mark) -> None:
        """Acknowledge an event again that was seen before; see `HeldJob.recall`."""
        self._is_settled = False
        if self._head.is_writable:
            # Inode 0 matches no file, so every process searches the journal for it.
            places = self._places
            size = places.ends[min(seen.seq, places.last)]
            shown = Extent(seen.seq, seen.hash, size)
            head = self._next_head(shown, shown)._replace(inode=0)
            self._head.write(head)
            self._head.sync()

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """Remove salvage files; see `HeldJob.remove_salvage_files`."""
        self._salvage_files.remove(names)

    def _create_journal(self) -> File:
        # A journal whose head lost its name in a crash could not be diagnosed, and the
        # creator of this head may have crashed before it synced the name.
        self._disk.sync_folder(self._folders.heads)
        self._disk.make_folder(self._folders.journals)
        found = self._disk.stat(self._path)
        is_left_over = found is not None  # an empty file: R2
        if found is not None and found.links > 1:
            self._disk.unlink(self._path)
            is_left_over = False
        file = self._disk.open(self._path, "append", create=not is_left_over)
        self._opened = OpenFile(file, file.stat().inode, is_writable=True)
        return file

    def _write(self, file: File, data: bytes, size: int) -> None:
        try:
            taken = file.append(data)
        except OSError as exc:
            self._roll_back(file, size)
            raise failure(exc, f"cannot append to {self._path}") from exc
        if taken != len(data):
            # A second call for the rest could leave half of the write after a crash.
            self._roll_back(file, size)
            raise NoSpace(
                f"{self._path} took {taken} of {len(data)} bytes; nothing was written",
                hint="free some space",
            )

    def _roll_back(self, file: File, size: int) -> None:
        try:
            file.truncate(size)
            file.sync(metadata=True)
            self._is_settled = True
        except OSError as exc:
            raise self._poison(exc, "cannot undo a failed write to") from exc

    def _sync(self, file: File, *, is_first: bool) -> None:
        try:
            file.sync(metadata=is_first)
            if is_first:
                # The name of a new file is in its folder.  Without this sync a crash
                # can lose the whole journal, acknowledged events included.
                self._disk.sync_folder(self._folders.journals)
        except OSError as exc:
            raise self._poison(exc, "cannot sync") from exc

    def _poison(self, exc: OSError, what: str) -> StorageFailed:
        """Set the poison mark: no process writes while the medium's content is unknown.

        A failed sync is never retried, since the kernel may have dropped the pages.
        """
        self._is_settled, self._is_poisoned = False, True
        head = self._head.head
        head = head._replace(
            writing=head.writing + 1, inode=self.inode, is_poisoned=True
        )
        try:
            self._head.write(head)
        except OSError:
            _log.exception("job %r: the poison mark itself failed", self._job_id)
        return StorageFailed(
            f"{what} {self._path}: {exc.strerror}; whether the last write is on the "
            "disk is unknown",
            hint="check the disk; the next write first rewrites the journal from "
            "the content of the disk",
        )

    def flush(self) -> None:
        """Sync the writes that this process acknowledged before their sync."""
        if not self._owes_sync:
            return
        during(self.hold(), self._flush)

    def _flush(self, held: LockedJournal) -> None:
        if self._head.head.synced != held.extent and self._opened is not None:
            self._sync(self._opened.file, is_first=False)
            self._move_head(held.extent, synced=held.extent)
        self._owes_sync = False

    def close(self) -> None:
        """Sync the head, so that it is not stale after a power cut; close both files.

        Waits for a write in progress.
        """
        self._mutex.hold(self._sync_and_forget)

    def _sync_and_forget(self) -> None:
        if self._is_settled:
            try:
                self._head.sync()
            except OSError:  # the journal itself is synced; a stale head is legal
                _log.warning("job %r: cannot sync its head", self._job_id)
        self._forget()

    def retire(self) -> bool:
        """Close both files to save descriptors; sync the journal first if needed.

        The head is not synced: a stale one is legal, and a process that visits
        thousands of jobs would sync twice for each.  A reader that still has this
        object opens the files again.

        Returns:
            Whether they were closed; False while another thread writes.
        """
        if self._mutex.is_mine:
            return False
        try:
            if self._durability == "interval":
                self.flush()
        except MilepostError as exc:  # must not fail the job that needs a descriptor
            _log.warning("job %r: not synced: %s", self._job_id, exc)
        return self._mutex.try_hold(self._forget)

    def _forget(self) -> None:
        self._head.close()
        self._opened = None
        self._is_settled = self.is_listed = False

    def after_fork(self) -> None:
        """Close descriptors without a sync or an unlock; the object is not reused."""
        if self._opened is not None:
            self._opened.file.close()
        self._head.after_fork()
