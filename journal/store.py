"""The shell around the pure parts: reads the clock, calls the storage, folds.

Order: durable, then visible, then answered.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from journal import collector, event_codec, forks, ids, index
from journal.batch import Batch
from journal.compaction import Compaction, Compactor
from journal.errors import (
    DamagedJournal,
    MilepostError,
    NewerFormat,
    StorageFailed,
    UnreadableState,
)
from journal.event_codec import BadLine
from journal.head import Extent
from journal.index import Entry, JobView, Mark, Misfit
from journal.storage import Busy
from journal.write_queue import Request, Waiter, WriteQueue

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from journal.events import Event
    from journal.storage import Copy, Held, Stamp, Storage
    from journal.vault import Vault

_log = logging.getLogger("milepost.journal")

_READ_BYTES = 1024 * 1024
_ALL = sys.maxsize
# Told how many bytes were read since the last call; what it raises ends the reading.
OnPiece = Callable[[int], object]
# What folding a line can raise that has the right hash and makes no sense.
_MALFORMED = (Misfit, AttributeError, KeyError, TypeError, ValueError)
_LARGE_BYTES = 256 * 1024
_MAX_BATCH_BYTES = 8 * 1024 * 1024


class Cursor:
    """How far a reader of a job's history has come."""

    __slots__ = ("end", "hash", "job_id", "seq")

    def __init__(self, job_id: str, mark: Mark) -> None:
        self.job_id = job_id
        self.seq = mark.seq
        self.end = mark.offset
        self.hash = mark.hash


class _Job:
    """What this process holds of one job."""

    def __init__(self, view: JobView) -> None:
        self.view = view
        self.stamp: Stamp | None = None  # the journal's, when the view was folded
        self.seen = Extent()  # the last event that this process has shown
        self.store_id: str | None = None  # of the store in which it was seen
        self.inode: int | None = None  # of the file that the view's offsets are about
        self.error: MilepostError | None = None  # why it is quarantined
        self.folding = threading.RLock()
        self.queue = WriteQueue()


class Store:
    """Journals and their views, for one process.

    Args:
        storage: where the bytes are.
        clock: gives the time that events carry.
    """

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self.storage = storage
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._guard = threading.Lock()
        forks.watch(self)

    def after_fork(self) -> None:
        """Forget, in a forked child, views and queues that a thread was changing."""
        self._jobs = {}
        self._guard = threading.Lock()

    def _job(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None:
            with self._guard:
                job = self._jobs.get(job_id)
                if job is None:
                    job = self._jobs[job_id] = _Job(JobView(job_id, None))
        return job

    # -- reading -----------------------------------------------------------------

    def view(self, job_id: str) -> JobView:
        """Return the job's view, caught up with every acknowledged write.

        An unknown job has a view at seq 0.

        Raises:
            DamagedJournal: the journal is not what was written.
            StorageFailed: it cannot be read.
        """
        job = self._jobs.get(job_id)
        stamp = self.storage.stamp(job_id)
        if job is None:
            if stamp is None and self.storage.extent(job_id).seq == 0:
                return JobView(job_id, None)  # a question about it leaves no trace
            job = self._job(job_id)
        if job.error is None and stamp is not None and stamp == job.stamp:
            return job.view
        with job.folding:
            self._catch_up(job)
            return job.view

    def glance(self, job_id: str) -> JobView:
        """Return the job's view as this process last saw it, or `view` if it never did.

        For what may be out of date; nothing is looked at if it was seen before.
        """
        job = self._jobs.get(job_id)
        return self.view(job_id) if job is None or job.view.seq == 0 else job.view

    def live(self, view: JobView) -> list[Entry]:
        """Return the live checkpoints, oldest first: all of one moment.

        A view is folded in place, and one event may remove many of them.
        """
        job = self._jobs.get(view.job_id)
        if job is None:
            return [*view.checkpoints.values()]
        with job.folding:
            return [*view.checkpoints.values()]

    def readable(self, job_id: str) -> JobView:
        """Return `view`, unless a newer Milepost wrote what this one cannot fold.

        Raises:
            NewerFormat: so it is.  And as `view`.
        """
        view = self.view(job_id)
        if view.newer_seq:
            raise NewerFormat(
                f"event {view.newer_seq} of job {job_id!r} was written by a newer "
                "Milepost; this one can only show its history",
                hint="upgrade",
            )
        return view

    def _catch_up(self, job: _Job) -> None:
        job_id = job.view.job_id
        stamp = self.storage.stamp(job_id)
        if stamp is None and job.stamp is None and self.storage.extent(job_id).seq == 0:
            return
        try:
            extent = self.storage.extent(job_id)
            self._fold_to(job, extent, stamp)
            if stamp is not None and stamp.size > extent.size:
                self._settle(job, is_unknown=extent.seq == 0)
        except DamagedJournal as exc:
            if self._is_replaced(job_id, stamp):
                self._catch_up(job)  # compacted while we looked at it
                return
            # Only under the lock is it certain: without it, a power cut that took
            # unsynced events, or a rewrite in progress, looks the same.
            self._quarantine(job, exc)
            if not self._settle_again(job):
                raise
        job.error = None

    def _is_replaced(self, job_id: str, before: Stamp | None) -> bool:
        now = self.storage.stamp(job_id)
        return before is not None and now is not None and now.inode != before.inode

    def _settle_again(self, job: _Job) -> bool:
        try:
            return self._settle(job, is_unknown=False)
        except DamagedJournal as exc:
            self._quarantine(job, exc)
            raise

    def _settle(self, job: _Job, *, is_unknown: bool) -> bool:
        """Settle what somebody left behind; False if that is not ours to do now."""
        try:
            with self.storage.exclusive(job.view.job_id, wait=False) as held:
                self._fold_to(job, held.extent, held.stamp)
                batch = Batch(job.view, self._clock())
                if job.view.seq and batch.add_repairs(held.repairs()):
                    self._append(job, batch, held)
        except Busy:
            return False  # a write is on its way; its answer has not been given
        except (StorageFailed, NewerFormat) as exc:
            if is_unknown:
                raise  # its head is missing: there is nothing to go by
            _log.warning(
                "job %r: what follows is unconfirmed: %s", job.view.job_id, exc
            )
            return False
        return True

    def _fold_to(self, job: _Job, extent: Extent, stamp: Stamp | None) -> None:
        view = job.view
        is_ahead = view.seq > extent.seq
        # Compacted or replaced: same events, other offsets.
        is_other = stamp is not None and stamp.inode != job.inode
        if is_ahead or is_other or not view.seq or not self._folds_on(view, extent):
            view = self._fresh_view(job)
            self._fold(view, extent)
        if extent.seq and (view.seq, view.hash) != (extent.seq, extent.hash):
            raise self._damage(
                view.job_id,
                BadLine(
                    view.end,
                    f"event {extent.seq} with hash {extent.hash}",
                    f"event {view.seq} with hash {view.hash}",
                ),
            )
        self._check_seen(job, view)
        job.view = view
        job.inode = None if stamp is None else stamp.inode
        job.stamp = stamp if stamp is not None and stamp.size == view.end else None

    def _fresh_view(self, job: _Job) -> JobView:
        return JobView(job.view.job_id, self.storage.store_id)

    def _folds_on(self, view: JobView, extent: Extent) -> bool:
        """Fold what is new; False if `view` is of another file than it seems to be.

        A file system gives the numbers of removed files away again, so after two
        rewrites the same number may mean another file, with other offsets.
        """
        try:
            self._fold(view, extent)
        except DamagedJournal:
            return False  # told again, if a look from the start says so too
        return view.end == extent.size

    def _check_seen(self, job: _Job, view: JobView) -> None:
        """Refuse a journal that lost what this process has already shown."""
        seen = job.seen
        if view.store_id != job.store_id and view.store_id is not None:
            # The folder was removed, and another store was made in its place.
            job.store_id, seen = view.store_id, Extent()
        is_older = view.seq < seen.seq
        if is_older or (view.seq == seen.seq and (view.hash or "") != seen.hash):
            repairs = self.storage.repairs(view.job_id)
            is_owned_up_to = any(repair.get("lost_events") for repair in repairs) or (
                # A person gave it up; what says so took the place of the first lost.
                any(told_at <= seen.seq for told_at, _ in view.losses)
            )
            if not is_owned_up_to:
                problem = BadLine(
                    view.end,
                    f"event {seen.seq} with hash {seen.hash}, seen before",
                    f"event {view.seq} with hash {view.hash} as the last",
                )
                raise self._damage(view.job_id, problem)
        job.seen = Extent(view.seq, view.hash or "", view.end)

    def _fold(
        self,
        view: JobView,
        extent: Extent,
        *,
        until_seq: int = _ALL,
        on_piece: OnPiece | None = None,
    ) -> None:
        """Fold what `extent` has beyond `view`, up to event `until_seq`."""
        is_large = extent.size - view.end > _LARGE_BYTES
        with collector.at_rest() if is_large else nullcontext():
            self._fold_quietly(view, extent, until_seq, on_piece)

    def _fold_quietly(
        self, view: JobView, extent: Extent, until_seq: int, on_piece: OnPiece | None
    ) -> None:
        apply = index.apply
        for data in self._parts(view, extent, on_piece):
            try:
                for event, offset, size, fault in event_codec.scan(
                    data, seq=view.seq, prev=view.hash, offset=view.end
                ):
                    if event["seq"] > until_seq:
                        return
                    apply(view, event, offset, size, fault)
            except BadLine as exc:
                raise self._damage(view.job_id, exc) from exc
            except _MALFORMED as exc:
                problem = BadLine(view.end, "an event that follows", str(exc))
                raise self._damage(view.job_id, problem) from exc

    def _parts(
        self, at: JobView | Cursor, extent: Extent, on_piece: OnPiece | None = None
    ) -> Iterator[bytes]:
        """Yield journal bytes from `at.end` on, until `at` has moved to the end."""
        want = _READ_BYTES
        while at.end < extent.size:
            before = at.end
            data = self.storage.read(at.job_id, before, min(want, extent.size - before))
            yield data
            if on_piece is not None:
                on_piece(at.end - before)
            if at.end > before:
                continue
            if before + len(data) >= extent.size or len(data) < want:
                problem = BadLine(
                    before, f"event {at.seq + 1} of {extent.seq}", "part of a line"
                )
                raise self._damage(at.job_id, problem)
            want *= 2  # one event with its state is larger than that

    def _damage(self, job_id: str, problem: BadLine) -> DamagedJournal:
        try:
            before = self.storage.read(job_id, 0, problem.offset)
        except StorageFailed:  # the file itself is gone
            before = b""
        return DamagedJournal(
            job_id,
            line=before.count(b"\n") + 1,
            offset=problem.offset,
            expected=problem.expected,
            found=problem.found,
        )

    def _quarantine(self, job: _Job, error: DamagedJournal) -> None:
        job.view = JobView(job.view.job_id, self.storage.store_id)
        job.stamp = job.inode = None
        job.error = error

    def read_pair(self, view: JobView, seq: int) -> tuple[bytes, bytes]:
        """Return the state line and the event line of save `seq`.

        The first is empty if there is none.  What they say is the caller's to check:
        the journal may have been compacted since `view` was folded.

        Raises:
            UnreadableState: that event is no save.
            StorageFailed: the journal cannot be read.
        """
        try:
            offset, size = view.places[seq]
        except KeyError:
            raise UnreadableState(f"event {seq} is no save") from None
        lines = self.storage.read(view.job_id, offset, size)
        first, _, second = lines.rstrip(b"\n").partition(b"\n")
        return (first, second) if second else (b"", first)

    def history(
        self, view: JobView, after_seq: int, *, until_seq: int | None = None
    ) -> Iterator[Event]:
        """Read the events after `after_seq`, verified, oldest first."""
        extent = Extent(view.seq, view.hash or "", view.end)
        last = view.seq if until_seq is None else until_seq
        mark = view.marks[min(after_seq // index.MARK_EVERY, len(view.marks) - 1)]
        at = Cursor(view.job_id, mark)
        for data in self._parts(at, extent):
            try:
                for event, offset, size, _ in event_codec.scan(
                    data, seq=at.seq, prev=at.hash, offset=at.end
                ):
                    if event["seq"] > last:
                        return
                    at.seq, at.hash = event["seq"], event["hash"]
                    at.end = offset + size
                    if event["seq"] > after_seq:
                        yield event
            except BadLine as exc:
                raise self._damage(view.job_id, exc) from exc

    def newest_first(self, view: JobView, after_seq: int) -> Iterator[Event]:
        """Read the events after `after_seq`, verified, newest first."""
        bound = view.seq
        while bound > after_seq:  # in parts, so that the newest few cost little
            start = max(bound - index.MARK_EVERY, after_seq)
            yield from reversed([*self.history(view, start, until_seq=bound)])
            bound = start

    def known_then_all(self) -> Iterator[str]:
        """Yield the jobs this process knows, then those it does not know yet."""
        known = list(self._jobs)
        yield from known
        yield from set(self.storage.job_ids()) - set(known)

    def is_approved(self, policy_hash: str) -> bool:
        """Tell whether a plan of this policy was approved in a job known here."""
        jobs = list(self._jobs.values())
        return any(policy_hash in job.view.approved for job in jobs)

    def folded_seq(self, job_id: str) -> int:
        """Return how far this process has read a job, without looking again."""
        job = self._jobs.get(job_id)
        return 0 if job is None else job.view.seq

    def replay(
        self, job_id: str, *, until_seq: int, on_piece: OnPiece | None = None
    ) -> JobView:
        """Return a view of its own, folded from the start up to `until_seq`."""
        known = self.view(job_id)
        view = JobView(job_id, self.storage.store_id)
        extent = Extent(known.seq, known.hash or "", known.end)
        self._fold(view, extent, until_seq=until_seq, on_piece=on_piece)
        return view

    # -- writing -----------------------------------------------------------------

    def write(self, job_id: str, request: Request, *, is_shared: bool = False) -> Any:
        """Let `request` add events under the job's lock; return its answer.

        Args:
            job_id: which job; it is created by its first event.
            request: called once, when the view is caught up and nobody else writes.
            is_shared: it asks `Batch` for what others in the same write have done, so
                it may share one write and one sync with them.

        Raises:
            DamagedJournal, StorageFailed, and whatever `request` raises.
        """
        job = self._jobs.get(job_id)
        if job is None or job.view.seq == 0:
            if self.view(job_id).seq == 0:
                ids.check_new_job_id(job_id)
            job = self._job(job_id)
        return job.queue.submit(
            request, is_shared=is_shared, commit=partial(self._commit, job)
        )

    def _commit(self, job: _Job, waiters: deque[Waiter]) -> None:
        """Serve `waiters` from the left; each leaves the queue once it is answered."""
        if job.view.seq == 0:
            self.storage.create()
        while waiters:
            with self.storage.exclusive(job.view.job_id) as held:
                with job.folding:
                    self._prepare(job, held)
                served = self._commit_some(job, waiters, held)
            for _ in range(served):
                waiters.popleft().is_served = True

    def _prepare(self, job: _Job, held: Held) -> None:
        """Catch up under the lock; refuse what must not be written to."""
        job_id = job.view.job_id
        stamp = held.stamp
        try:
            if stamp is None or stamp != job.stamp:
                self._fold_to(job, held.extent, stamp)
        except DamagedJournal as exc:
            self._quarantine(job, exc)
            raise
        job.error = None
        view = job.view
        if view.newer_seq:
            raise NewerFormat(
                f"event {view.newer_seq} of job {job_id!r} was written by a newer "
                "Milepost; nothing was written",
                hint="upgrade",
            )
        if view.faults:
            self._refuse_faults(view)

    def _refuse_faults(self, view: JobView) -> None:
        """Quarantine a job in which the state of a live checkpoint rotted."""
        for entry in view.checkpoints.values():
            if entry.seq in view.faults:
                raise self._damage(
                    view.job_id,
                    BadLine(
                        view.places[entry.seq].offset,
                        f"the intact state of checkpoint {entry.checkpoint_id!r}",
                        view.faults[entry.seq],
                    ),
                )

    def _commit_some(self, job: _Job, waiters: Iterable[Waiter], held: Held) -> int:
        """Write the first waiters' events; return how many were served."""
        view = job.view
        batch = Batch(view, self._clock())
        if view.seq == 0:
            self._open(batch)
        is_owed = batch.add_repairs(held.repairs())
        batch.begin()
        opened, served = batch.seq, 0
        writers: list[Waiter] = []
        for waiter in waiters:
            mark = batch.mark()
            try:
                waiter.answer = waiter.request(batch)
            except Exception as exc:  # noqa: BLE001 - raised in the caller's own thread
                batch.rewind(mark)
                waiter.error = exc
            else:
                writers.append(waiter)
            served += 1
            if batch.size_bytes > _MAX_BATCH_BYTES:
                break
        if batch.seq > opened or (is_owed and view.seq):
            try:
                self._append(job, batch, held)
            except Exception as exc:  # noqa: BLE001 - the same
                for waiter in writers:
                    waiter.error = exc
        return served

    def _open(self, batch: Batch) -> None:
        ids.check_new_job_id(batch.view.job_id)
        batch.open(self.storage.create())

    def _append(self, job: _Job, batch: Batch, held: Held) -> None:
        view = batch.view
        seq = view.seq
        written = batch.encode()
        try:
            extent = held.append(written.data, after=seq, last=written.last)
        except BaseException:
            job.stamp = None  # look again before the next answer
            raise
        with job.folding:
            # From the moment the head moved, a reader may have folded it already.
            if view.seq == seq:
                for located in written.events:
                    index.apply(view, *located)
            assert view.end == extent.size, "the index is not what is on the disk"
            job.view = view  # a reader may have begun another, before there was one
            job.seen = extent
            stamp = job.stamp = held.stamp
            job.inode = None if stamp is None else stamp.inode

    # -- compaction --------------------------------------------------------------

    def compact(
        self,
        job_id: str,
        due: Callable[[JobView], frozenset[int]],
        expired: Callable[[JobView], list[str]],
        is_worth: Callable[[JobView, frozenset[int]], bool],
        actor: str,
        vault: Vault,
        on_piece: OnPiece | None = None,
    ) -> Compaction | None:
        """Rewrite a journal without the states that are due, if it is worth it.

        Readers and writers go on meanwhile; writers wait only while what was written
        last is copied.

        Args:
            job_id: which job.
            due: says which saves' states go.
            expired: says which side files go.
            is_worth: says whether to begin, for the states that are due.
            actor: who asks for it.
            vault: the keys at hand.
            on_piece: called between pieces, never under the job's lock.

        Raises:
            Busy: another compaction is on its way, or what it began with has changed.
            DamagedJournal: the job is quarantined.
            UnreadableState: a live state is unreadable.
            StorageFailed: the disk said no.
        """
        view = self.readable(job_id)
        drop = due(view)
        if not is_worth(view, drop) and not expired(view):
            # A job that is neither written nor compacted would keep it for ever.
            self.storage.sweep(job_id)
            return None
        job = self._job(job_id)
        with self.storage.copying(job_id) as copy:
            at = Cursor(job_id, view.marks[0])
            compactor = Compactor(
                drop,
                {entry.seq for entry in self.live(view)},
                partial(self.read_pair, view),
                vault,
                view.site,
            )
            self._copy_states(view, at, compactor, copy, on_piece)
            # A long file takes long to sync; under the lock is only the rest of it.
            copy.sync()
            while (end := self.view(job_id).end) - at.end > _READ_BYTES:
                self._copy_lines(at, end, copy)
            with self.storage.exclusive(job_id) as held:
                with job.folding:
                    self._prepare(job, held)
                if job.view is not view or not drop <= due(view):
                    raise Busy  # rewritten by a recovery, or one was undeleted
                self._copy_lines(at, held.extent.size, copy)
                return self._place(job, compactor, copy, held, expired(view), actor)

    def _copy_states(
        self,
        view: JobView,
        at: Cursor,
        compactor: Compactor,
        copy: Copy,
        on_piece: OnPiece | None,
    ) -> None:
        """Copy all up to where `view` is now, but for the states that go."""
        extent = Extent(view.seq, view.hash or "", view.end)
        for data in self._parts(at, extent, on_piece):
            begin, parts = at.end, []
            try:
                for event, offset, size, _ in event_codec.scan(
                    data, seq=at.seq, prev=at.hash, offset=at.end
                ):
                    lines = data[offset - begin : offset - begin + size]
                    if event["type"] == "checkpoint.saved":
                        lines = compactor.lines_of(event["seq"], lines)
                    parts.append(lines)
                    at.seq, at.hash = event["seq"], event["hash"]
                    at.end = offset + size
            except BadLine as exc:
                raise self._damage(view.job_id, exc) from exc
            copy.write(b"".join(parts))

    def _copy_lines(self, at: Cursor, end: int, copy: Copy) -> None:
        """Copy what was written since: no state in it is told from one that goes."""
        while at.end < end:
            want = min(_READ_BYTES, end - at.end)
            data = self.storage.read(at.job_id, at.end, want)
            if not data:
                raise Busy  # replaced meanwhile
            copy.write(data)
            at.end += len(data)

    def _place(
        self,
        job: _Job,
        compactor: Compactor,
        copy: Copy,
        held: Held,
        side_files: list[str],
        actor: str,
    ) -> Compaction:
        view = job.view
        before, after = held.extent.size, copy.size
        data: dict[str, object] = {
            "dropped": compactor.dropped,
            "retold": compactor.retold,
            "bytes_before": before,
            "bytes_after": after,
        }
        if side_files:
            data["side_files"] = side_files
        batch = Batch(view, self._clock())
        batch.add("job.compacted", actor, data)
        written = batch.encode()
        copy.write(written.data)
        job.stamp = None  # what follows is another file
        held.replace(copy, written.last)
        held.remove_side_files(side_files)
        return Compaction(
            view.job_id, compactor.dropped, compactor.retold, before, after
        )

    def close(self) -> None:
        """Let go of every file."""
        self.storage.close()
        with self._guard:
            self._jobs.clear()
