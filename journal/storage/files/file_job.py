"""One job in a folder: reading, which takes no lock, and the scopes of its lock.

Reading changes no event.  Readers show acknowledged events only; other events in the
journal are first recovered under the lock.
"""

from __future__ import annotations

import logging
import sys
import weakref
from array import array
from bisect import bisect_right
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from milepost.journal.disk import copy_file
from milepost.journal.disk.copy_file import JournalCopy
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import MilepostError, UnreadableState
from milepost.journal.events.codec import CorruptLine, Mark
from milepost.journal.storage.contract import Position, Version, during
from milepost.journal.storage.files import recovering
from milepost.journal.storage.files.failures import fail, failure
from milepost.journal.storage.files.held_job import HeldFileJob
from milepost.journal.storage.files.job_files import JobFiles
from milepost.journal.storage.files.job_lock import JobLock, JobLockScope
from milepost.journal.storage.files.places import Known
from milepost.journal.storage.files.recovering import Memory
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.head import Extent
from milepost.journal.storage.files.recovery.judgement import judge, problem_of
from milepost.journal.storage.files.recovery.passage import walk
from milepost.journal.storage.files.rewriting import JournalRewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.disk.disk import Stat
    from milepost.journal.errors import DamagedJournal
    from milepost.journal.events.codec import Located, Stored
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.storage.contract import LockScope, OnPiece, Snapshot
    from milepost.journal.storage.files.folders import Place
    from milepost.journal.storage.files.head_file import OpenFile
    from milepost.journal.storage.files.places import Places
    from milepost.journal.storage.files.recovery.head import Head
    from milepost.journal.storage.files.recovery.judgement import Facts

_log = logging.getLogger("milepost.journal")

# An event line ends in `<64 hex>"}\n`.
HASH_BYTES, HASH_END_BYTES = 64, 67


class FileJob:
    """One job, for one writer and any number of readers; see `JobStorage`.

    Safe for threads.

    Attributes:
        files: the job's two files.
    """

    def __init__(self, place: Place) -> None:
        # A weak reference: a cycle would keep files open until a garbage collection.
        lists = partial(_list, weakref.ref(self), place.has_files_open)
        self.files = JobFiles(place, lists)
        self._lock = JobLock(self.files, place.lock_timeout_seconds)
        self._memory = Memory()
        self._known = Known()
        self._writes = place.writes

    @property
    def job_id(self) -> str:
        """The job."""
        return self.files.job_id

    def version(self) -> Version | None:
        """See `JobStorage.version`."""
        try:
            found = self.files.stat()
        except OSError as exc:
            raise failure(exc, f"cannot read {self.files.path}") from exc
        return None if found is None else self.files.version(found.inode, found.size)

    def position(self) -> Position:
        """See `JobStorage.position`."""
        found = self.version()
        shown = self.extent()
        if found is None:
            return Position(Mark(shown.seq, shown.hash))
        version = found._replace(size=shown.size)
        is_settled = found.size <= shown.size
        return Position(Mark(shown.seq, shown.hash), version, is_settled)

    def extent(self) -> Extent:
        """Return the acknowledged extent, without the lock and without any change.

        Raises:
            DamagedJournal: acknowledged events are missing.
        """
        try:
            raw = self.files.head.peek()
            head = head_codec.decode(raw)
            found = self.files.stat()
            if head is None or head.shown.seq == 0:
                return Extent()
            return self._current_extent(head, raw, found)
        except OSError as exc:
            fail(exc, f"cannot read {self.files.path}")

    def _current_extent(self, head: Head, raw: bytes, found: Stat | None) -> Extent:
        is_known = found is not None and head.inode == found.inode
        if is_known and found and found.size >= head.shown.size:
            self.files.open_journal()
            self._known.shown = head.shown
            return head.shown
        # The journal was rewritten, copied or truncated.
        facts = self.files.look(raw, found)
        ruling = judge(facts)
        # Without `shown`, a repair that gives up acknowledged events is unfinished and
        # perhaps not durable, or a power cut took unsynced events: both are refused.
        if facts.shown is None or facts.is_foreign or facts.is_altered:
            raise self.files.damaged(
                problem_of(facts, ruling) or _mismatch(facts, head.shown)
            )
        self._known.shown = facts.shown
        return facts.shown

    # -- events by seq -------------------------------------------------------------

    def events(
        self, after: Mark, until_seq: int, on_piece: OnPiece | None = None
    ) -> Iterator[Stored]:
        """See `JobStorage.events`."""
        if until_seq <= after.seq:
            return
        for found, _, _ in self.walk(after, until_seq, on_piece):
            for event, _, size, fault in found:
                yield event, size, fault

    def walk(
        self, after: Mark, until_seq: int, on_piece: OnPiece | None = None
    ) -> Iterator[tuple[list[Located], bytes, int]]:
        """Yield the same events in pieces, as `passage.walk`; learn their places.

        Raises:
            DamagedJournal, StorageFailed: as `events`.
        """
        _, places = self._opened()
        seq = min(after.seq, places.last)
        end = places.ends[seq]
        prev = after.hash if seq == after.seq else ""
        start = Extent(seq, prev or self._hash_before(end), end)
        size = self._end_of(until_seq, places)
        try:
            for found, data, begin in walk(self.files.read, start, size, on_piece):
                ends = array("Q", [offset + length for _, offset, length, _ in found])
                places.learn(found[0][0]["seq"], ends)
                wanted = self._wanted(found, after, until_seq)
                if wanted:
                    yield wanted, data, begin
                if found[-1][0]["seq"] >= until_seq and ends[-1] < size:
                    break
        except CorruptLine as exc:
            raise self.files.damaged(exc) from exc

    @staticmethod
    def _wanted(found: list[Located], after: Mark, until_seq: int) -> list[Located]:
        """Return the events after `after` up to `until_seq`.

        Raises:
            CorruptLine: the event that the caller knows is another one.
        """
        skip = max(after.seq + 1 - found[0][0]["seq"], 0)
        if 0 < skip <= len(found):
            event, offset, *_ = found[skip - 1]
            if after.hash not in ("", event["hash"]):
                expected = f"event {after.seq} with hash {after.hash}"
                raise CorruptLine(offset, expected, f"one with hash {event['hash']}")
        return found[skip : max(until_seq + 1 - found[0][0]["seq"], 0)]

    def _opened(self) -> tuple[OpenFile, Places]:
        """Return the file that is the journal now, and the places in it."""
        try:
            opened = self.files.open_journal()
        except OSError as exc:
            raise failure(exc, f"cannot read {self.files.path}") from exc
        return opened, self._known.places_of(opened.inode)

    def _hash_before(self, end: int) -> str:
        """Return the hash of the event that ends at `end`; empty at the start."""
        return self.files.read(end - HASH_END_BYTES, HASH_BYTES).decode() if end else ""

    def _end_of(self, seq: int, places: Places) -> int:
        """Return a place behind event `seq` up to which the journal can be read."""
        if seq <= places.last:
            return places.ends[seq]
        shown = self._known.shown if seq <= self._known.shown.seq else self.extent()
        return shown.size

    def lines(self, seq: int) -> tuple[bytes, bytes]:
        """See `JobStorage.lines`."""
        return _split(self.first_bytes(seq, sys.maxsize))

    def run(self, seq: int, until_seq: int, most: int) -> list[tuple[bytes, bytes]]:
        """See `JobStorage.run`."""
        opened, places = self._placed(seq, until_seq)
        start, _ = places.of(seq)
        most_ends = bisect_right(places.ends, start + most, seq + 1, until_seq + 1)
        ends = places.ends[seq:most_ends]
        found = self._read(opened, start, ends[-1] - start)
        starts = (0, *(end - start for end in ends))
        return [_split(found[begin:end]) for begin, end in pairwise(starts)]

    def first_bytes(self, seq: int, most: int) -> bytes:
        """See `JobStorage.first_bytes`."""
        opened, places = self._placed(seq, seq)
        offset, size = places.of(seq)
        return self._read(opened, offset, min(size, most))

    def _placed(self, first: int, last: int) -> tuple[OpenFile, Places]:
        """Return the journal, and the places in it, which has these events.

        Raises:
            UnreadableState: it has not.
        """
        opened, places = self._opened()
        if last > places.last:
            for _ in self.walk(Mark(places.last), last):
                pass
            opened, places = self._opened()
        if not 0 < first <= last <= places.last:
            raise UnreadableState(f"event {last} does not exist")
        return opened, places

    def _read(self, opened: OpenFile, offset: int, size: int) -> bytes:
        try:
            return opened.file.read(offset, size)
        except OSError as exc:
            raise failure(exc, f"cannot read {self.files.path}") from exc

    def damage(self, after_seq: int, expected: str, found: str) -> DamagedJournal:
        """See `JobStorage.damage`."""
        places = self._known.places
        offset = places.ends[min(after_seq, places.last)]
        return self.files.damaged(CorruptLine(offset, expected, found))

    # -- snapshots -----------------------------------------------------------------

    def snapshot(self, at: Position) -> Snapshot | None:
        """See `JobStorage.snapshot`."""
        if at.version is None:
            return None
        opened, places = self._opened()
        if not self._is_generation(opened, at.version):
            return None

        last_seq, size = at.last.seq, at.version.size

        def is_there(extent: Extent) -> bool:
            return (
                0 < extent.seq <= last_seq
                and HASH_END_BYTES < extent.size <= size
                and self._hash_before(extent.size) == extent.hash
            )

        found = self.files.snapshot.read(opened.inode, is_there)
        if found is None:
            return None
        snapshot, ends = found
        places.learn(0, ends)
        return snapshot

    def keep_snapshot(self, snapshot: Snapshot, version: Version) -> None:
        """See `JobStorage.keep_snapshot`."""
        opened, places = self._opened()
        last = snapshot.last.seq
        if not self._is_generation(opened, version) or places.last < last:
            return
        ends = places.ends[: last + 1]

        take = partial(self._lock.take, wait=False, may_create=lambda **_: False)
        lock = JobLockScope(self._lock, take, "cannot keep a snapshot of")
        try:
            copy = self.files.snapshot.draft(opened.inode, snapshot, ends)
            try:
                during(lock, lambda _: self._place(copy, snapshot.last, opened.inode))
            finally:
                copy.discard()
        except OSError as exc:
            fail(exc, f"cannot keep a snapshot of {self.files.path}")

    def _place(self, copy: JournalCopy, last: Mark, inode: int) -> None:
        """Keep a snapshot, under the lock, if it is of what the medium has."""
        head = head_codec.decode(self.files.head.read())
        # After a power cut, a state that was not synced may be lost, its event not.
        if head and head.inode == inode and head.synced.seq >= last.seq:
            copy.place()

    def drop_snapshot(self) -> None:
        """See `JobStorage.drop_snapshot`."""
        try:
            self.files.snapshot.remove()
        except OSError as exc:
            raise failure(
                exc, f"cannot remove the snapshot of {self.files.path}"
            ) from exc

    def _is_generation(self, opened: OpenFile, version: Version) -> bool:
        return self.files.version(opened.inode, 0).generation == version.generation

    # -- the lock ------------------------------------------------------------------

    def hold(self, *, wait: bool = True) -> LockScope[HeldFileJob]:
        """See `JobStorage.hold`."""
        self._writes()
        return JobLockScope(self._lock, partial(self._settled, wait), "cannot write")

    def unsettled(self) -> LockScope[HeldFileJob]:
        """Lock the job as `hold` does, but without recovery: for a repair.

        Raises:
            LockTimeout: it stayed locked for too long.
            NewerFormat: a newer version wrote its head.
            ReadOnlyStore, StorageFailed: it cannot be locked.
        """
        return JobLockScope(self._lock, self._as_it_is, "cannot repair")

    def take(self) -> HeldFileJob | None:
        """See `JobStorage.take`."""
        files, memory = self.files, self._memory
        if not (files.is_listed and self._lock.try_take()):
            return None
        try:
            # Both slots are all that counts; a read beyond the end takes two calls.
            raw, found = files.head.read(head_codec.FILE_BYTES), files.stat()
        except OSError:
            return None
        if not recovering.is_as_left(files, memory, raw, found):
            return None
        return self._held(files.head.head.shown)

    def let_go(self) -> None:
        """See `JobStorage.let_go`."""
        self._lock.release()

    def refuse_nested(self) -> None:
        """See `JobStorage.refuse_nested`."""
        self._lock.refuse_nested()

    def _settled(self, wait: bool) -> HeldFileJob:
        may_create = partial(recovering.may_make_head, self.files)
        self._lock.take(wait=wait, may_create=may_create)
        return self._held(recovering.settle(self.files, self._memory))

    def _as_it_is(self) -> HeldFileJob:
        self._lock.take(wait=True, may_create=lambda **_: True)
        self._memory.is_settled = False
        self._lock.is_repair = True
        self.files.head.take_over(self.files.head.read())
        return self._held(Extent())

    def _held(self, extent: Extent) -> HeldFileJob:
        return HeldFileJob(self.files, self._memory, self._known, extent)

    def repairs(self) -> list[JobRepairedData]:
        """See `JobStorage.repairs`."""
        return recovering.repairs(self.files, self._memory)

    # -- rewrites ------------------------------------------------------------------

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
        files = self.files
        try:
            copy = JournalCopy(files.disk, files.copy_path, files.path)
            try:
                yield copy
            finally:
                copy.discard()
        except OSError as exc:
            fail(exc, f"cannot rewrite {files.path}")

    def sweep(self) -> None:
        """See `JobStorage.sweep`."""
        files = self.files
        try:
            with suppress(Busy):
                copy_file.remove_leftover(files.disk, files.copy_path)
            files.snapshot.sweep()
        except OSError as exc:
            raise failure(exc, f"cannot remove {files.copy_path}") from exc

    # -- for the store: open files and syncs ---------------------------------------

    def flush(self) -> None:
        """Sync the writes that this process acknowledged before their sync."""
        if self._memory.owes_sync:
            during(self.hold(), HeldFileJob.flush)

    def close(self) -> None:
        """Sync the head, so that it is not stale after a power cut; close both files.

        Waits for a write in progress.
        """
        self._lock.mutex.hold(self._sync_and_forget)

    def _sync_and_forget(self) -> None:
        if self._memory.is_settled:
            try:
                self.files.head.sync()
            except OSError:  # the journal itself is synced; a stale head is legal
                _log.warning("job %r: cannot sync its head", self.job_id)
        self._forget()

    def retire(self) -> bool:
        """Close both files to save descriptors; sync the journal first if needed.

        The head is not synced: a stale one is legal, and a process that visits
        thousands of jobs would sync twice for each.  A reader that still has this
        object opens the files again.

        Returns:
            Whether they were closed; False while another thread writes.
        """
        if self._lock.mutex.is_mine:
            return False
        try:
            if self.files.durability == "interval":
                self.flush()
        except MilepostError as exc:  # must not fail the job that needs a descriptor
            _log.warning("job %r: not synced: %s", self.job_id, exc)
        return self._lock.mutex.try_hold(self._forget)

    def _forget(self) -> None:
        self._memory.is_settled = False
        self.files.close()

    def after_fork(self) -> None:
        """Close descriptors without a sync or an unlock; the object is not reused."""
        self.files.after_fork()


def _split(lines: bytes) -> tuple[bytes, bytes]:
    """Return the state line of an event, empty if it has none, and its event line."""
    state_line, _, event_line = lines.rstrip(b"\n").rpartition(b"\n")
    return state_line, event_line


def _list(job: weakref.ref[FileJob], has_files_open: Callable[[FileJob], bool]) -> bool:
    alive = job()
    return alive is not None and has_files_open(alive)


def _mismatch(facts: Facts, shown: Extent) -> CorruptLine:
    what = f"event {shown.seq} with hash {shown.hash}"
    found = f"event {facts.proven.seq} with hash {facts.proven.hash} as the last"
    return CorruptLine(facts.proven.size, what, found)
