"""The shell around the pure parts: reads the clock, calls the storage, folds.

Order: durable, then visible, then answered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from milepost.journal import ids
from milepost.journal.crypto import key_record
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    DamagedJournal,
    DroppedKey,
    KeyNeeded,
    MilepostError,
    NestedCall,
    StorageFailed,
)
from milepost.journal.events import codec
from milepost.journal.events.codec import STATE_MISSING, CorruptLine
from milepost.journal.index.job_view import InvalidEvent, JobView, erased_runs
from milepost.journal.recovery.head import Extent
from milepost.journal.store.batch import Batch
from milepost.journal.store.compaction import Compaction, Compactor
from milepost.journal.store.group_commit import Request, Waiter
from milepost.journal.store.replica import Cursor, KnownJob
from milepost.journal.store.views import READ_BYTES, OnPiece, Views, refuse_newer

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable

    from milepost.journal.states.access import Vault
    from milepost.journal.storage.contract import Copy, LockedJob

_MAX_BATCH_BYTES = 8 * 1024 * 1024


class Store(Views):
    """Journals and their views: what is written, and what is rewritten.

    Attributes:
        key_id: what new states are encrypted with; empty if they are not.
    """

    key_id = ""

    def write(self, job_id: str, request: Request, *, is_shared: bool = False) -> Any:
        """Let `request` add events under the job's lock; return its answer.

        Args:
            job_id: which job; it is created by its first event.
            request: called once, when the view is caught up and nobody else writes.
            is_shared: it asks `Batch` for what others in the same write have done, so
                it may share one write and one sync with them.

        Raises:
            DamagedJournal, StorageFailed, and whatever `request` raises.
            NestedCall: another call of this thread is under way.
        """
        job = self._jobs.get(job_id)
        if job is None or job.view.seq == 0:
            if self.view(job_id).seq == 0:
                ids.check_new_job_id(job_id)
            job = self._job(job_id)
        return self._calls.alone(
            partial(
                job.queue.submit,
                request,
                is_shared=is_shared,
                commit=partial(self._commit, job),
            )
        )

    def _commit(self, job: KnownJob, waiters: deque[Waiter]) -> None:
        """Serve `waiters` from the left, and finish each."""
        if job.view.seq == 0:
            self.storage.create()
        commit = partial(self._commit_some, job, waiters[0], waiters)
        while waiters:
            for _ in range(self._exclusively(job.view.job_id, commit)):
                waiters.popleft().finish()
            if waiters and not waiters[0].is_shared:
                return  # the storage failed it here: it tries again, alone

    def _prepare(self, job: KnownJob, held: LockedJob) -> None:
        """Catch up under the lock; refuse what must not be written to."""
        stamp = held.stamp
        try:
            if stamp is None or stamp != job.stamp:
                self._fold_to(job, held.extent, stamp, held)
        except DamagedJournal as exc:
            self._quarantine(job, exc)
            raise
        job.error = None
        view = job.view
        refuse_newer(view, "nothing was written")
        if view.faults:
            self._refuse_faults(view)

    def _refuse_faults(self, view: JobView) -> None:
        """Quarantine a job in which the state of a live checkpoint rotted."""
        for entry in view.checkpoints.values():
            if entry.seq in view.faults:
                raise self._damage(
                    view.job_id,
                    CorruptLine(
                        view.places[entry.seq].offset,
                        f"the intact state of checkpoint {entry.checkpoint_id!r}",
                        view.faults[entry.seq],
                    ),
                )

    def _commit_some(
        self, job: KnownJob, leader: Waiter, waiters: Iterable[Waiter], held: LockedJob
    ) -> int:
        """Write the first waiters' events; return how many were served.

        A refusal is its waiter's.  Any other exception may have come from a signal
        handler, so it stays in this thread, and the waiters try again: those whose
        write is in the journal by then have their answer.  Nor is a failure of the
        storage told from a handler's `OSError`: whom it meets tries again, alone.
        """
        job.folding.hold(partial(self._prepare, job, held))
        view = job.view
        batch = Batch(view, self._clock(), self._check_key)
        if view.seq == 0:
            self._open(batch)
        is_owed = batch.add_repairs(held.repairs())
        batch.begin()
        opened = batch.seq
        served, decided = 0, list[Waiter]()
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
                raise  # a signal handler's
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
        if batch.seq > opened or (is_owed and view.seq):
            written = batch.encode()
            for waiter in decided:
                waiter.landing = written.last
            self._append(job, view, written, held)
        return served

    def _open(self, batch: Batch) -> None:
        ids.check_new_job_id(batch.view.job_id)
        batch.open(self.storage.create())

    def _check_key(self) -> None:
        """Refuse to write a state with a key that was dropped, or without any.

        Under the job's lock, so that a drop that waited for it has seen the write.

        Raises:
            KeyNeeded: the store is encrypted, and no key is at hand.
            DroppedKey: it is this one.
            StorageFailed: the store's record of its keys cannot be read or begun.
        """
        record = self.storage.key_record()
        if self.key_id and record is None:
            record = self.storage.change_key_record(key_record.marked)
        if record is None:
            return
        if not self.key_id:
            raise KeyNeeded(
                "this store is encrypted, and there is no key; nothing was written",
                hint="set store.key_file or MILEPOST_KEYS; in Python: "
                "CheckpointManager(…, keys=…)",
            )
        if self.key_id in record.dropped:
            raise DroppedKey(self.key_id)

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
            expired: says which salvage files go.
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
                view.address_of,
            )
            self._copy_states(view, at, compactor, copy, on_piece)
            # A long file takes long to sync; under the lock is only the rest of it.
            copy.sync()
            while (end := self.view(job_id).end) - at.end > READ_BYTES:
                self._copy_lines(at, end, copy)

            def place(held: LockedJob) -> Compaction:
                job.folding.hold(partial(self._prepare, job, held))
                if job.view is not view or not drop <= due(view):
                    raise Busy  # rewritten by a recovery, or one was undeleted
                self._copy_lines(at, held.extent.size, copy)
                missing = {s for s, f in view.faults.items() if f == STATE_MISSING}
                erased = erased_runs(view, drop | missing)
                return self._place(
                    job, compactor, copy, held, expired(view), actor, erased
                )

            return self._calls.alone(partial(self._exclusively, job_id, place))

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
                for event, offset, size, _ in codec.scan(
                    data, seq=at.seq, prev=at.hash, offset=at.end
                ):
                    lines = data[offset - begin : offset - begin + size]
                    if codec.has_state(event):
                        lines = compactor.lines_of(event["seq"], lines)
                    parts.append(lines)
                    at.seq, at.hash = event["seq"], event["hash"]
                    at.end = offset + size
            except CorruptLine as exc:
                raise self._damage(view.job_id, exc) from exc
            copy.write(b"".join(parts))

    def _copy_lines(self, at: Cursor, end: int, copy: Copy) -> None:
        """Copy what was written since: no state in it is told from one that goes."""
        while at.end < end:
            want = min(READ_BYTES, end - at.end)
            data = self.storage.read(at.job_id, at.end, want)
            if not data:
                raise Busy  # replaced meanwhile
            copy.write(data)
            at.end += len(data)

    def _place(
        self,
        job: KnownJob,
        compactor: Compactor,
        copy: Copy,
        held: LockedJob,
        salvage_files: list[str],
        actor: str,
        erased: list[list[int]],
    ) -> Compaction:
        view = job.view
        before, after = held.extent.size, copy.size
        data: dict[str, object] = {
            "dropped": compactor.dropped,
            "reencoded": compactor.reencoded,
            "bytes_before": before,
            "bytes_after": after,
        }
        if erased:
            data["erased"] = erased
        if salvage_files:
            data["salvage_files"] = salvage_files
        batch = Batch(view, self._clock())
        batch.add("job.compacted", actor, data)
        written = batch.encode()
        copy.write(written.data)
        if self.key_id:
            self._check_key()  # data keys were wrapped with it
        job.stamp = None  # what follows is another file
        held.replace(copy, written.last)
        held.remove_salvage_files(salvage_files)
        return Compaction(
            view.job_id, compactor.dropped, compactor.reencoded, before, after
        )

    def close(self) -> None:
        """Close every file.

        Raises:
            NestedCall: a call of this thread is under way.
        """
        self._calls.check()
        self.storage.close()
        self._jobs.clear()
