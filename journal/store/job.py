"""One job as this process knows it: how its view catches up, commits and folds."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.batch import Batch
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    DamagedJournal,
    MilepostError,
    NestedCall,
    NewerFormat,
    StorageFailed,
)
from milepost.journal.events.codec import STATE_MISSING, Mark
from milepost.journal.index import job_view, snapshot
from milepost.journal.index.job_view import MALFORMED, InvalidEvent, JobView
from milepost.journal.process import gc_pause
from milepost.journal.process.mutex import Mutex
from milepost.journal.recovery.diagnosis import gives_up
from milepost.journal.storage import removals
from milepost.journal.storage.contract import Position, Snapshot, during
from milepost.journal.store.compaction import Unworthy
from milepost.journal.store.group_commit import WriteQueue

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from milepost.journal.batch import Written
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.storage.contract import (
        HeldJob,
        OnPiece,
        Storage,
        Version,
    )
    from milepost.journal.store.group_commit import Request, Waiter

_log = logging.getLogger("milepost.journal")

_MAX_BATCH_BYTES = 8 * 1024 * 1024
# Folding more events than this pauses the garbage collector.
_MANY_EVENTS = 256
# A new snapshot is kept after this number of events, and this share of all.  Folding
# the former takes 10 ms; a snapshot of a long job takes longer to write.
_SNAPSHOT_EVENTS = 2_000
_SNAPSHOT_SHARE = 100

# The answer to a caller whose turn has not come.
LATER = object()


class Job:
    """This process's replica of one job.

    Args:
        storage: the storage of the job.
        job_id: the job.
        clock: the source of event times.
        check_key: called under the lock before a state is written; raises if none may.

    Attributes:
        stored: the job in its storage.
        view: its events, folded.
        version: of the job, when the view was folded.
        generation: of the lines that the view was folded from; None while a fold is
            running or was interrupted: the view is then invalid.
        error: why the job is quarantined.
        folding: held while the view changes.
        queue: the writers of this process.
        unworthy: the last compaction that was skipped, so that it is not tried again.
    """

    def __init__(
        self,
        storage: Storage,
        job_id: str,
        clock: Callable[[], datetime],
        check_key: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._check_key = check_key
        self.stored = storage.job(job_id)
        self.view = JobView(job_id, None)
        self.version: Version | None = None
        self.generation: int | None = None
        self._seen = Mark()  # the last event that this process has returned
        self._created_at: str | None = None  # creation time of the job of `_seen`
        self._origin = ""  # of the job of `_seen`
        self._store_id: str | None = None  # store of `_seen`
        self.error: MilepostError | None = None
        self.folding = Mutex()
        self.queue = WriteQueue()
        self.unworthy = Unworthy(None, frozenset(), 0)
        self._kept_changes = 0  # in the kept snapshot, as far as it is known

    @property
    def is_current(self) -> bool:
        """Whether the view contains the last acknowledged event."""
        if self.error is not None or self.version is None:
            return False
        return self.stored.version() == self.version

    # -- catch up ----------------------------------------------------------------------

    def refreshed(self) -> JobView:
        """Return the view of `catch_up`; keep a snapshot after a long replay."""
        before = _changes(self.view)
        view = self.folding.hold(self.catch_up)
        if _changes(view) - before >= _SNAPSHOT_EVENTS:
            self.keep_snapshot()
        return view

    def catch_up(self) -> JobView:
        """Fold new events, recover the job if needed, and return its view.

        Raises:
            DamagedJournal: the journal differs from what was written.
            StorageFailed: it cannot be read.
        """
        before = self.stored.version()
        known = set(self.view.faults)
        try:
            at = self.stored.position()
            if at == Position() and not self._seen.seq:
                return self.view
            self._fold_to(at)
            if self._has_rotted(known) or not at.is_settled:
                self._settle(is_unknown=at.last.seq == 0)
        except DamagedJournal as exc:
            if self._is_replaced(before):
                return self.catch_up()  # compacted or removed during the read
            # Only the lock gives certainty: without it, a power cut that took unsynced
            # events, or a rewrite in progress, looks the same.
            self._quarantine(exc)
            if not self._settle_again():
                raise
        self.error = None
        return self.view

    def _has_rotted(self, known: set[int]) -> bool:
        """Return whether states appear rotten that are not in `known`, by seq.

        A state lost in a power cut, returned before it was synced, looks the same; only
        under the lock can the two be distinguished.
        """
        return any(
            fault != STATE_MISSING and seq not in known
            for seq, fault in self.view.faults.items()
        )

    def _is_replaced(self, before: Version | None) -> bool:
        now = self.stored.version()
        if before is None or now is None:
            return before is not now
        return now.generation != before.generation

    def _settle_again(self) -> bool:
        try:
            return self._settle(is_unknown=False)
        except DamagedJournal as exc:
            self._quarantine(exc)
            raise

    def _settle(self, *, is_unknown: bool) -> bool:
        """Recover a job left by a crashed writer; return False if not possible now."""
        try:
            during(self.stored.hold(wait=False), self._fold_settled)
        except Busy:
            return False  # a write is in progress and not acknowledged yet
        except (StorageFailed, NewerFormat) as exc:
            if is_unknown:
                raise  # without a head, the acknowledged events are unknown
            _log.warning(
                "job %r: what follows is unconfirmed: %s", self.view.job_id, exc
            )
            return False
        return True

    def _fold_settled(self, held: HeldJob) -> None:
        self._fold_to(held.position, held)
        batch = Batch(self.view, self._clock())
        if self.view.seq and batch.add_repairs(held.repairs()):
            written = batch.encode()
            self.version = None  # refresh before the next answer, should this fail
            new = held.append(self.view.mark, written.lines, written.last)
            self._add(self.view, written, new)

    def _fold_to(self, at: Position, held: HeldJob | None = None) -> None:
        view = self.view
        is_ahead = view.seq > at.last.seq
        generation = None if at.version is None else at.version.generation
        # Compacted or replaced: same events, but perhaps without some states.
        is_other = generation is not None and generation != self.generation
        self.version = self.generation = None  # until the fold is complete
        misfit = view.misfit
        if is_ahead or is_other or not view.seq or not self._folds_on(view, at.last):
            view, misfit = self._open(at), ""
        if view.misfit != misfit:
            # A signal handler's exception looks the same, but does not repeat.
            view = self._fresh_view()
            self.fold(view, at.last.seq)
        if at.last.seq and view.mark != at.last:
            expected = f"event {at.last.seq} with hash {at.last.hash}"
            raise self.stored.damage(view.seq, expected, _named(view.mark))
        self._check_seen(view, held)
        self.view = view
        self.generation = generation
        self.version = at.version

    def _open(self, at: Position) -> JobView:
        """Return the fold of the events up to `at`, from a snapshot if one is kept."""
        view = self._kept(at)
        self._kept_changes = 0 if view is None else _changes(view)
        if view is None or not self._folds_on(view, at.last):
            view = self._fresh_view()
            self.fold(view, at.last.seq)
        return view

    def _kept(self, at: Position) -> JobView | None:
        if at.last.seq < _SNAPSHOT_EVENTS:
            return None  # spares short jobs the look
        kept = self.stored.snapshot(at)
        if kept is None:
            return None
        job_id, store_id = self.view.job_id, self._storage.store_id
        read = partial(snapshot.decode, kept.parts, job_id, store_id)
        view = gc_pause.at_rest(read)
        return view if view is not None and view.mark == kept.last else None

    def keep_snapshot(self) -> None:
        """Keep a snapshot if enough events came since the last one.

        A failure is no error: without a snapshot, the job opens from its events.
        """
        made = self.folding.hold(self._snapshot)
        if made is None:
            return
        try:
            self.stored.keep_snapshot(*made)
        except (Busy, MilepostError) as exc:
            _log.debug("job %r: no snapshot: %s", self.view.job_id, exc)

    def _snapshot(self) -> tuple[Snapshot, Version] | None:
        view, version = self.view, self.version
        changes = _changes(view)
        due = max(_SNAPSHOT_EVENTS, changes // _SNAPSHOT_SHARE)
        if version is None or changes - self._kept_changes < due:
            return None
        self._kept_changes = changes  # if it fails, the next one is not due at once
        parts = gc_pause.at_rest(partial(snapshot.encode, view))
        return None if parts is None else (Snapshot(view.mark, parts), version)

    def _fresh_view(self) -> JobView:
        return JobView(self.view.job_id, self._storage.store_id)

    def _folds_on(self, view: JobView, last: Mark) -> bool:
        """Fold new events; return False if they do not follow those of `view`.

        A generation may come back: a file system reuses the inode numbers of removed
        files.
        """
        try:
            self.fold(view, last.seq)
        except DamagedJournal:
            return False  # a fold from the start reports the damage if it is real
        return view.mark == last

    def _check_seen(self, view: JobView, held: HeldJob | None) -> None:
        """Refuse a journal that lost events which this process has returned.

        Under the lock the storage records them, so that every process decides alike.
        """
        if view.store_id != self._store_id and view.store_id is not None:
            # The store was removed, and another was created in its place.
            self._store_id, self._seen = view.store_id, Mark()
        seen = self._seen
        is_there = self._has(view, seen, is_same=view is self.view)
        is_known = is_there or self._is_removed(view, seen)
        if not is_known and not self._is_owned_up_to(view, seen):
            if held is not None and view.created_at == self._created_at:
                held.recall(seen)
            raise self.stored.damage(
                view.seq,
                f"{_named(seen)}, seen before",
                f"{_named(view.mark)} as the last: it went back to an older journal",
            )
        self._see(view, view.mark)

    def _see(self, view: JobView, last: Mark) -> None:
        self._seen, self._created_at, self._origin = last, view.created_at, view.origin

    def _has(self, view: JobView, seen: Mark, *, is_same: bool) -> bool:
        """Return whether an event that was returned is still part of a job."""
        if view.seq <= seen.seq:
            return view.mark == seen
        if is_same or not seen.seq:
            return True  # the view was extended from that event
        return self._event(seen.seq)["hash"] == seen.hash

    def _is_removed(self, view: JobView, seen: Mark) -> bool:
        """Return whether the job of `seen` was removed, and `view` is none or later."""
        if view.origin == self._origin:
            return False
        removal = removals.find(self._storage, self._origin)
        return removal is not None and removal.covers(seen)

    def _event(self, seq: int) -> Event:
        ((event, _, _),) = self.stored.events(Mark(seq - 1), seq)
        return event

    def _is_owned_up_to(self, view: JobView, seen: Mark) -> bool:
        """Return whether a repair that covers `seen` is journaled or outstanding."""
        if any(repair.get("lost_events") for repair in self.stored.repairs()):
            return True
        # The job.repaired of a cut has the seq of the first lost event; that of a
        # divergent history comes after the lost events.
        return any(
            repaired_at <= seen.seq or gives_up(self._event(repaired_at), seen.hash)
            for repaired_at, _ in view.losses
        )

    def fold(
        self, view: JobView, until_seq: int, on_piece: OnPiece | None = None
    ) -> None:
        """Fold the events beyond `view` up to `until_seq`.

        Raises:
            DamagedJournal: they differ from what was written.
        """
        fold = partial(self._fold_quietly, view, until_seq, on_piece)
        if until_seq - view.seq > _MANY_EVENTS:
            gc_pause.at_rest(fold)
        else:
            fold()

    def _fold_quietly(
        self, view: JobView, until_seq: int, on_piece: OnPiece | None
    ) -> None:
        apply = job_view.apply
        events = self.stored.events(view.mark, until_seq, on_piece)
        for event, size, fault in events:
            try:
                apply(view, event, size, fault)
            except MALFORMED as exc:
                what = "an event that follows"
                raise self.stored.damage(view.seq, what, str(exc)) from exc

    def history(self, after_seq: int, until_seq: int) -> Iterator[Event]:
        """Read the events after `after_seq`, verified, oldest first."""
        for event, _, _ in self.stored.events(Mark(after_seq), until_seq):
            yield event

    def _quarantine(self, error: DamagedJournal) -> None:
        self.view = self._fresh_view()
        self.version = self.generation = None
        self.error = error

    # -- commit ------------------------------------------------------------------------

    def commit_alone(self, request: Request) -> object:
        """Serve one caller if no other writer is active; else return `LATER`.

        The usual case of `commit`, without a queue.

        Raises:
            Exception: of the request, or of its write.
        """
        self.stored.refuse_nested()
        try:
            return self._commit_alone(request)
        finally:  # an exception may have interrupted the first
            self.stored.let_go()
            self.queue.stop_leading()

    def _commit_alone(self, request: Request) -> object:
        try:
            if not self.queue.try_lead():
                return LATER
            held, view = self.stored.take(), self.view
            if (
                held is None
                or self.version is None
                or held.version != self.version
                or view.faults
                or view.newer_seq
                or held.repairs()
            ):
                return LATER
            batch = Batch(view, self._clock(), self._check_key)
            answer = request(batch)
            if len(batch):
                self._append(held, batch.encode())
            return answer
        finally:
            self.stored.let_go()
            self.queue.stop_leading()

    def commit(self, waiters: deque[Waiter]) -> None:
        """Serve `waiters` from the left, and finish each."""
        if self.view.seq == 0:
            self._storage.create()
        leader = waiters[0]
        while waiters:
            scope = self.stored.hold()
            try:
                with scope as held:
                    served, written = self._decide(leader, waiters, held)
                    if written is not None:
                        self._append(held, written)
            finally:
                scope.release()  # an exception may have interrupted the first release
            for _ in range(served):
                waiters.popleft().finish()
            if waiters and not waiters[0].is_shared:
                return  # the storage failed; each remaining waiter retries alone

    def prepare(self, held: HeldJob) -> None:
        """Catch up under the lock; refuse a job that must not be written to."""
        version = held.version
        try:
            if version is None or version != self.version:
                self._fold_to(held.position, held)
        except DamagedJournal as exc:
            self._quarantine(exc)
            raise
        self.error = None
        view = self.view
        refuse_newer(view, "nothing was written")
        if view.faults:
            self._refuse_faults(view)

    def _refuse_faults(self, view: JobView) -> None:
        """Refuse a job in which the state of a live checkpoint rotted."""
        for seq in sorted(view.faults):
            if (entry := view.checkpoints.saved_as(seq)) is not None:
                raise self.stored.damage(
                    seq - 1,
                    f"the intact state of checkpoint {entry.checkpoint_id!r}",
                    view.faults[seq],
                )

    def _decide(
        self, leader: Waiter, waiters: Iterable[Waiter], held: HeldJob
    ) -> tuple[int, Written | None]:
        """Decide the first waiters; return how many, and what is to be written.

        A refusal belongs to its waiter.  Any other exception may come from a signal
        handler, so it stays in this thread and the waiters retry; those whose write is
        in the journal get their answer.  A storage failure cannot be distinguished from
        a handler's `OSError`, so waiters that it hits retry alone.
        """
        self.folding.hold(partial(self.prepare, held))
        view = self.view
        batch = Batch(view, self._clock(), self._check_key)
        if view.seq == 0:
            ids.check_new_job_id(view.job_id)
            batch.open(self._storage.create())
        is_owed = batch.add_repairs(held.repairs())
        batch.begin()
        opened = batch.seq
        served = 0
        decided: list[Waiter] = []
        for waiter in waiters:
            served += 1
            landing = waiter.landing
            if landing is not None and self._has(view, landing, is_same=False):
                continue
            decided.append(waiter)
            mark, waiter.error = batch.mark(), None
            try:
                waiter.answer = waiter.request(batch)
            except NestedCall:
                raise  # from a signal handler
            except (MilepostError, InvalidEvent) as exc:
                batch.rewind(mark)
                if isinstance(exc, StorageFailed) and waiter is not leader:
                    waiter.is_shared = False
                    served -= 1
                    decided.pop()
                    break
                waiter.error = exc
            if batch.size_bytes > _MAX_BATCH_BYTES:
                break
        if batch.seq == opened and not (is_owed and view.seq):
            return served, None
        written = batch.encode()
        for waiter in decided:
            waiter.landing = written.last
        return served, written

    def _append(self, held: HeldJob, written: Written) -> None:
        """Append a write, then fold it."""
        view = self.view
        self.version = None  # refresh before the next answer, should the append fail
        new = held.append(view.mark, written.lines, written.last)
        self.folding.hold(partial(self._add, view, written, new))

    def _add(self, view: JobView, written: Written, version: Version) -> None:
        """Fold a write that was appended."""
        # A concurrent reader may have folded it once it was acknowledged.
        if view.seq == written.events[0][0]["seq"] - 1:
            self.generation = None
            for stored in written.events:
                job_view.apply(view, *stored)
        self.view = view  # a reader may have replaced the view of a new job
        self._see(view, written.last)
        if view.misfit:
            return  # as in `_fold_to`: the next refresh folds from the start
        self.version = version
        self.generation = version.generation

    def forget_version(self) -> None:
        """Fold from the start before the next answer: the job was rewritten."""
        self.version = None


def _changes(view: JobView) -> int:
    """Return how much was folded: one event may delete many checkpoints."""
    return view.seq + view.deleted


def _named(mark: Mark) -> str:
    return f"event {mark.seq} with hash {mark.hash or None}"


def refuse_newer(view: JobView, consequence: str) -> None:
    """Refuse a job with an event that this version cannot fold.

    Raises:
        NewerFormat: it has one.
    """
    if view.newer_seq:
        reason = f"job {view.job_id!r}: {job_view.newer_reason(view)}"
        raise NewerFormat(f"{reason}; {consequence}", hint="upgrade")
