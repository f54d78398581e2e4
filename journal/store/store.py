"""The imperative shell: reads the clock, calls the storage, folds events.

A write is durable first, then visible, then acknowledged.
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
from milepost.journal.storage.contract import during
from milepost.journal.store.batch import Batch
from milepost.journal.store.compaction import Compaction, Compactor
from milepost.journal.store.dropped_keys import DroppedKeys
from milepost.journal.store.group_commit import Request, Waiter
from milepost.journal.store.replica import Cursor, KnownJob
from milepost.journal.store.views import READ_BYTES, OnPiece, Views, refuse_newer

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable
    from datetime import datetime

    from milepost.journal.states.access import Vault
    from milepost.journal.storage.contract import Copy, LockedJob, Storage

_MAX_BATCH_BYTES = 8 * 1024 * 1024


class Store(Views):
    """Writes and compacts the journals of a store.

    Attributes:
        key_id: the key that encrypts new states; empty if they are not encrypted.
        dropped_keys: the key record, which refuses some writers.
    """

    key_id = ""

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        super().__init__(storage, clock)
        self.dropped_keys = DroppedKeys(storage)

    def write(self, job_id: str, request: Request, *, is_shared: bool = False) -> Any:
        """Run `request` under the job's lock to add events; return its answer.

        Args:
            job_id: the job; its first event creates it.
            request: called when the view is current and no other writer is active.
            is_shared: it reads uncommitted events of its neighbours from `Batch`, so it
                may share one write and one sync with them.

        Raises:
            DamagedJournal, StorageFailed, and the exceptions of `request`.
            NestedCall: another call of this thread is running.
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
            for _ in range(during(self.storage.exclusive(job.view.job_id), commit)):
                waiters.popleft().finish()
            if waiters and not waiters[0].is_shared:
                return  # the storage failed; each remaining waiter retries alone

    def _prepare(self, job: KnownJob, held: LockedJob) -> None:
        """Catch up under the lock; refuse jobs that must not be written to."""
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
        """Write the events of the first waiters; return how many were served.

        A refusal belongs to its waiter.  Any other exception may come from a signal
        handler, so it stays in this thread and the waiters retry; those whose write is
        in the journal get their answer.  A storage failure cannot be distinguished from
        a handler's `OSError`, so waiters that it hits retry alone.
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
        """Refuse to write a state without a key, or with a dropped one.

        Runs under the job's lock, so a `drop_key` that waited for it sees the write.

        Raises:
            KeyNeeded: the store is encrypted, and no key is configured.
            DroppedKey: the key was dropped.
            StorageFailed: the store's key record cannot be read or created.
        """
        record = self.dropped_keys.read()
        if self.key_id and record is None:
            record = self.dropped_keys.change(key_record.marked)
        if record is None:
            return
        if not self.key_id:
            raise KeyNeeded(
                "this store is encrypted and no key is configured; nothing was written",
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
        """Rewrite a journal without the states that are due, if it is worthwhile.

        Readers and writers continue meanwhile; writers only wait while the latest
        writes are copied.

        Args:
            job_id: the job.
            due: returns the saves whose states are dropped.
            expired: returns the salvage files to remove.
            is_worth: decides whether to start, given the states that are due.
            actor: the actor of the compaction.
            vault: the available keys.
            on_piece: called between pieces, never under the job's lock.

        Raises:
            Busy: another compaction is running, or the initial states have changed.
            DamagedJournal: the job is quarantined.
            UnreadableState: a live state is unreadable.
            StorageFailed: an I/O error; see its subclasses.
        """
        view = self.readable(job_id)
        drop = due(view)
        if not is_worth(view, drop) and not expired(view):
            # Otherwise an idle job would keep its leftover file for ever.
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
            # Syncing a long file takes long; only the rest is synced under the lock.
            copy.sync()
            while (end := self.view(job_id).end) - at.end > READ_BYTES:
                self._copy_lines(at, end, copy)

            def place(held: LockedJob) -> Compaction:
                job.folding.hold(partial(self._prepare, job, held))
                if job.view is not view or not drop <= due(view):
                    raise Busy  # rewritten by a recovery, or a state was undeleted
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
        """Copy everything up to `view`'s end, without the states to drop."""
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
        """Copy later writes: none of their states is a delta to a dropped one."""
        while at.end < end:
            want = min(READ_BYTES, end - at.end)
            data = self.storage.read(at.job_id, at.end, want)
            if not data:
                raise Busy  # the journal was replaced meanwhile
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
            self._check_key()  # it wraps the data keys
        job.stamp = None  # the journal is a new file from here on
        held.replace(copy, written.last)
        held.remove_salvage_files(salvage_files)
        return Compaction(
            view.job_id, compactor.dropped, compactor.reencoded, before, after
        )

    def close(self) -> None:
        """Close every file.

        Raises:
            NestedCall: a call of this thread is running.
        """
        self._calls.check()
        self.storage.close()
        self._jobs.clear()
