"""Per-job read models, refreshed to the last acknowledged event on access."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    DamagedJournal,
    NewerFormat,
    StorageFailed,
    UnreadableState,
)
from milepost.journal.events import codec
from milepost.journal.events.codec import CorruptLine
from milepost.journal.index import job_view
from milepost.journal.index.job_view import MALFORMED, Entry, JobView
from milepost.journal.process import forks, gc_pause
from milepost.journal.process.calls import Calls
from milepost.journal.recovery.head import Extent
from milepost.journal.recovery.passage import line_number
from milepost.journal.recovery.recovery import gives_up
from milepost.journal.storage.contract import during, every_job
from milepost.journal.store.batch import Batch
from milepost.journal.store.replica import Cursor, KnownJob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.storage.contract import LockedJob, Stamp, Storage
    from milepost.journal.store.batch import Written

_log = logging.getLogger("milepost.journal")

READ_BYTES = 1024 * 1024
_ALL = sys.maxsize
# Called with the bytes read since the last call; its exceptions end the reading.
OnPiece = Callable[[int], object]
_LARGE_BYTES = 256 * 1024

_T = TypeVar("_T")


class Views:
    """The views of a storage's jobs, for one process.

    Args:
        storage: the storage of the journals.
        clock: the source of event times.
    """

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self.storage = storage
        self._clock = clock
        self._jobs: dict[str, KnownJob] = {}
        self._calls = Calls()
        forks.watch(self)

    def after_fork(self) -> None:
        """Discard, in a forked child, views and queues that may be half changed."""
        self._jobs = {}
        self._calls = Calls()

    def _job(self, job_id: str) -> KnownJob:
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs.setdefault(job_id, KnownJob(JobView(job_id, None)))
        return job

    def _exclusively(
        self, job_id: str, work: Callable[[LockedJob], _T], *, wait: bool = True
    ) -> _T:
        """Run `work` under the job's lock and return its result."""
        return during(self.storage.exclusive(job_id, wait=wait), work)

    def view(self, job_id: str) -> JobView:
        """Return the job's view, refreshed to the last acknowledged write.

        An unknown job has a view at seq 0.

        Raises:
            DamagedJournal: the journal differs from what was written.
            StorageFailed: it cannot be read.
            NestedCall: another call of this thread uses the job.
        """
        self._calls.check()
        job = self._jobs.get(job_id)
        stamp = self.storage.stamp(job_id)
        if job is None:
            if stamp is None and self.storage.extent(job_id).seq == 0:
                return JobView(job_id, None)  # reads of unknown jobs leave no replica
            job = self._job(job_id)
        if job.error is None and stamp is not None and stamp == job.stamp:
            return job.view
        return self._calls.alone(partial(job.folding.hold, partial(self._now, job)))

    def _now(self, job: KnownJob) -> JobView:
        self._catch_up(job)
        return job.view

    def glance(self, job_id: str) -> JobView:
        """Return the last view of this process without a refresh, or `view` if none.

        For uses that tolerate a stale view.
        """
        job = self._jobs.get(job_id)
        return self.view(job_id) if job is None or job.view.seq == 0 else job.view

    def live(self, view: JobView) -> list[Entry]:
        """Return the live checkpoints, oldest first, as a consistent snapshot.

        A view is folded in place, and one event may remove many checkpoints.
        """
        job = self._jobs.get(view.job_id)
        if job is None:
            return [*view.checkpoints.values()]
        return job.folding.hold(lambda: [*view.checkpoints.values()])

    def readable(self, job_id: str) -> JobView:
        """Return `view` if this version can fold all of it.

        Raises:
            NewerFormat: only the history can be read.
            DamagedJournal, StorageFailed, NestedCall: as `view`.
        """
        view = self.view(job_id)
        refuse_newer(view, "this version can only show its history")
        return view

    def _catch_up(self, job: KnownJob) -> None:
        job_id = job.view.job_id
        stamp = self.storage.stamp(job_id)
        if stamp is None and job.stamp is None and self.storage.extent(job_id).seq == 0:
            return
        known = set(job.view.faults)
        try:
            extent = self.storage.extent(job_id)
            self._fold_to(job, extent, stamp)
            is_torn = job.has_rotted(known)
            if is_torn or (stamp is not None and stamp.size > extent.size):
                self._settle(job, is_unknown=extent.seq == 0)
        except DamagedJournal as exc:
            if self._is_replaced(job_id, stamp):
                self._catch_up(job)  # compacted during the read
                return
            # Only the lock gives certainty: without it, a power cut that took unsynced
            # events, or a rewrite in progress, looks the same.
            self._quarantine(job, exc)
            if not self._settle_again(job):
                raise
        job.error = None

    def _is_replaced(self, job_id: str, before: Stamp | None) -> bool:
        now = self.storage.stamp(job_id)
        return before is not None and now is not None and now.inode != before.inode

    def _settle_again(self, job: KnownJob) -> bool:
        try:
            return self._settle(job, is_unknown=False)
        except DamagedJournal as exc:
            self._quarantine(job, exc)
            raise

    def _settle(self, job: KnownJob, *, is_unknown: bool) -> bool:
        """Recover a job left by a crashed writer; return False if not possible now."""
        try:
            self._exclusively(
                job.view.job_id, partial(self._fold_settled, job), wait=False
            )
        except Busy:
            return False  # a write is in progress and not acknowledged yet
        except (StorageFailed, NewerFormat) as exc:
            if is_unknown:
                raise  # without a head, the acknowledged extent is unknown
            _log.warning(
                "job %r: what follows is unconfirmed: %s", job.view.job_id, exc
            )
            return False
        return True

    def _fold_settled(self, job: KnownJob, held: LockedJob) -> None:
        self._fold_to(job, held.extent, held.stamp, held)
        batch = Batch(job.view, self._clock())
        if job.view.seq and batch.add_repairs(held.repairs()):
            self._append(job, job.view, batch.encode(), held)

    def _fold_to(
        self,
        job: KnownJob,
        extent: Extent,
        stamp: Stamp | None,
        held: LockedJob | None = None,
    ) -> None:
        view = job.view
        is_ahead = view.seq > extent.seq
        # Compacted or replaced: same events at other offsets.
        is_other = stamp is not None and stamp.inode != job.inode
        job.stamp = job.inode = None  # until the fold is complete
        misfit = view.misfit
        if is_ahead or is_other or not view.seq or not self._folds_on(view, extent):
            view, misfit = self._fresh_view(job), ""
            self._fold(view, extent)
        if view.misfit != misfit:
            # A signal handler's exception looks the same, but does not repeat.
            view = self._fresh_view(job)
            self._fold(view, extent)
        if extent.seq and (view.seq, view.hash) != (extent.seq, extent.hash):
            raise self._damage(
                view.job_id,
                CorruptLine(
                    view.end,
                    f"event {extent.seq} with hash {extent.hash}",
                    f"event {view.seq} with hash {view.hash}",
                ),
            )
        self._check_seen(job, view, held)
        job.view = view
        job.inode = None if stamp is None else stamp.inode
        job.stamp = stamp if stamp is not None and stamp.size == view.end else None

    def _fresh_view(self, job: KnownJob) -> JobView:
        return JobView(job.view.job_id, self.storage.store_id)

    def _folds_on(self, view: JobView, extent: Extent) -> bool:
        """Fold new events; return False if the file is not the one that `view` is of.

        A file system reuses inode numbers of removed files, so after two rewrites the
        same number may mean another file, with other offsets.
        """
        try:
            self._fold(view, extent)
        except DamagedJournal:
            return False  # a fold from the start reports the damage if it is real
        return view.end == extent.size

    def _check_seen(self, job: KnownJob, view: JobView, held: LockedJob | None) -> None:
        """Refuse a journal that lost events which this process has returned.

        Under the lock the head records them, so that every process decides alike.
        """
        if view.store_id != job.store_id and view.store_id is not None:
            # The folder was removed, and another store was created in its place.
            job.store_id, job.seen = view.store_id, Extent()
        seen = job.seen
        is_there = self._has(view, seen, is_same=view is job.view)
        if not is_there and not self._is_owned_up_to(view, seen):
            if held is not None and view.created_at == job.created_at:
                held.recall(seen)
            problem = CorruptLine(
                view.end,
                f"event {seen.seq} with hash {seen.hash}, seen before",
                f"event {view.seq} with hash {view.hash} as the last: it went back "
                "to an older journal",
            )
            raise self._damage(view.job_id, problem)
        job.seen = Extent(view.seq, view.hash or "", view.end)
        job.created_at = view.created_at

    def _has(self, view: JobView, seen: Extent, *, is_same: bool) -> bool:
        """Return whether an event that was returned is still part of a job."""
        if view.seq <= seen.seq:
            return (view.seq, view.hash or "") == seen[:2]
        if is_same or not seen.seq:
            return True  # the view was extended from that event
        return self._event(view, seen.seq)["hash"] == seen.hash

    def _event(self, view: JobView, seq: int) -> Event:
        (event,) = self.history(view, seq - 1, until_seq=seq)
        return event

    def _is_owned_up_to(self, view: JobView, seen: Extent) -> bool:
        """Return whether a repair that covers `seen` is journaled or outstanding."""
        repairs = self.storage.repairs(view.job_id)
        if any(repair.get("lost_events") for repair in repairs):
            return True
        # The job.repaired of a cut has the seq of the first lost event; that of a
        # divergent history comes after the lost events.
        return any(
            repaired_at <= seen.seq or gives_up(self._event(view, repaired_at), seen)
            for repaired_at, _ in view.losses
        )

    def _fold(
        self,
        view: JobView,
        extent: Extent,
        *,
        until_seq: int = _ALL,
        on_piece: OnPiece | None = None,
    ) -> None:
        """Fold the events of `extent` beyond `view`, up to event `until_seq`."""
        is_large = extent.size - view.end > _LARGE_BYTES
        fold = partial(self._fold_quietly, view, extent, until_seq, on_piece)
        if is_large:
            gc_pause.at_rest(fold)
        else:
            fold()

    def _fold_quietly(
        self, view: JobView, extent: Extent, until_seq: int, on_piece: OnPiece | None
    ) -> None:
        apply = job_view.apply
        for data in self._parts(view, extent, on_piece):
            try:
                for event, offset, size, fault in codec.scan(
                    data, seq=view.seq, prev=view.hash, offset=view.end
                ):
                    if event["seq"] > until_seq:
                        return
                    apply(view, event, offset, size, fault)
            except CorruptLine as exc:
                raise self._damage(view.job_id, exc) from exc
            except MALFORMED as exc:
                problem = CorruptLine(view.end, "an event that follows", str(exc))
                raise self._damage(view.job_id, problem) from exc

    def _parts(
        self, at: JobView | Cursor, extent: Extent, on_piece: OnPiece | None = None
    ) -> Iterator[bytes]:
        """Yield journal bytes from `at.end` to the end; the caller advances `at`."""
        want = READ_BYTES
        while at.end < extent.size:
            before = at.end
            data = self.storage.read(at.job_id, before, min(want, extent.size - before))
            yield data
            if on_piece is not None:
                on_piece(at.end - before)
            if at.end > before:
                continue
            if before + len(data) >= extent.size or len(data) < want:
                problem = CorruptLine(
                    before, f"event {at.seq + 1} of {extent.seq}", "part of a line"
                )
                raise self._damage(at.job_id, problem)
            want *= 2  # one event with its state is larger than the buffer

    def _damage(self, job_id: str, problem: CorruptLine) -> DamagedJournal:
        try:
            line = line_number(partial(self.storage.read, job_id), problem.offset)
        except StorageFailed:  # the file is missing
            line = 1
        return DamagedJournal(
            job_id,
            line=line,
            offset=problem.offset,
            expected=problem.expected,
            found=problem.found,
        )

    def _quarantine(self, job: KnownJob, error: DamagedJournal) -> None:
        job.view = JobView(job.view.job_id, self.storage.store_id)
        job.stamp = job.inode = None
        job.error = error

    def read_pair(self, view: JobView, seq: int) -> tuple[bytes, bytes]:
        """Return the state line and the event line of event `seq`.

        The state line is empty if there is none.  The caller must verify the content:
        the journal may have been compacted since `view` was folded.

        Raises:
            UnreadableState: that event has no state.
            StorageFailed: the journal cannot be read.
        """
        try:
            offset, size = view.places[seq]
        except KeyError:
            raise UnreadableState(f"event {seq} has no state") from None
        lines = self.storage.read(view.job_id, offset, size)
        state_line, _, event_line = lines.rstrip(b"\n").rpartition(b"\n")
        return state_line, event_line

    def history(
        self, view: JobView, after_seq: int, *, until_seq: int | None = None
    ) -> Iterator[Event]:
        """Read the events after `after_seq`, verified, oldest first."""
        extent = Extent(view.seq, view.hash or "", view.end)
        last = view.seq if until_seq is None else until_seq
        mark = view.marks[min(after_seq // job_view.MARK_EVERY, len(view.marks) - 1)]
        at = Cursor(view.job_id, mark)
        for data in self._parts(at, extent):
            try:
                for event, offset, size, _ in codec.scan(
                    data, seq=at.seq, prev=at.hash, offset=at.end
                ):
                    if event["seq"] > last:
                        return
                    at.seq, at.hash = event["seq"], event["hash"]
                    at.end = offset + size
                    if event["seq"] > after_seq:
                        yield event
            except CorruptLine as exc:
                raise self._damage(view.job_id, exc) from exc

    def newest_first(self, view: JobView, after_seq: int) -> Iterator[Event]:
        """Read the events after `after_seq`, verified, newest first."""
        bound = view.seq
        while bound > after_seq:  # in parts, so that the newest few are cheap
            start = max(bound - job_view.MARK_EVERY, after_seq)
            yield from reversed([*self.history(view, start, until_seq=bound)])
            bound = start

    def known_then_all(self) -> Iterator[str]:
        """Yield the jobs known to this process, then the others."""
        known = list(self._jobs)
        yield from known
        yield from set(every_job(self.storage)) - set(known)

    def is_confirmed(self, policy_hash: str) -> bool:
        """Return whether a plan of this policy was confirmed in a job known here."""
        jobs = list(self._jobs.values())
        return any(policy_hash in job.view.confirmed for job in jobs)

    def folded_seq(self, job_id: str) -> int:
        """Return how far this process has read a job, without a refresh."""
        job = self._jobs.get(job_id)
        return 0 if job is None else job.view.seq

    def replay(
        self, job_id: str, *, until_seq: int, on_piece: OnPiece | None = None
    ) -> JobView:
        """Return a separate view, folded from the start up to `until_seq`."""
        known = self.view(job_id)
        view = JobView(job_id, self.storage.store_id)
        extent = Extent(known.seq, known.hash or "", known.end)
        self._fold(view, extent, until_seq=until_seq, on_piece=on_piece)
        return view

    def _append(
        self, job: KnownJob, view: JobView, written: Written, held: LockedJob
    ) -> None:
        seq = view.seq
        try:
            extent = held.append(written.data, after=seq, last=written.last)
        except BaseException:
            job.stamp = None  # refresh before the next answer
            raise

        def fold() -> None:
            # A concurrent reader may have folded the write once the head moved.
            if view.seq == seq:
                job.inode = None
                for located in written.events:
                    job_view.apply(view, *located)
            assert view.end == extent.size, "the index differs from the journal"
            job.view = view  # a reader may have replaced the view of a new job
            job.seen, job.created_at = extent, view.created_at
            if view.misfit:
                return  # as in `_fold_to`: the next refresh folds from the start
            stamp = held.stamp
            job.inode = None if stamp is None else stamp.inode
            job.stamp = stamp

        job.folding.hold(fold)


def refuse_newer(view: JobView, consequence: str) -> None:
    """Refuse a job with an event that this version cannot fold.

    Raises:
        NewerFormat: it has one.
    """
    if view.newer_seq:
        reason = f"job {view.job_id!r}: {job_view.newer_reason(view)}"
        raise NewerFormat(f"{reason}; {consequence}", hint="upgrade")
