"""The jobs of a store, for one process: views, writes, compaction.

A write is durable first, then visible, then acknowledged.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from milepost.journal import ids
from milepost.journal.batch import Batch
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
from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.index.job_view import JobView, erased_runs
from milepost.journal.process import forks
from milepost.journal.process.calls import Calls
from milepost.journal.storage.contract import during
from milepost.journal.store.compaction import Compaction, Compactor, Unworthy
from milepost.journal.store.dropped_keys import DroppedKeys
from milepost.journal.store.group_commit import Waiter
from milepost.journal.store.job import LATER, Job, refuse_newer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from datetime import datetime

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.index.entries import Entry
    from milepost.journal.states.access import Vault
    from milepost.journal.storage.contract import (
        HeldJob,
        JobStorage,
        OnPiece,
        Rewrite,
        Storage,
    )
    from milepost.journal.store.compaction import Need
    from milepost.journal.store.group_commit import Request

_T = TypeVar("_T")
# Events that are read at once when they are read from the newest to the oldest.
_PAGE_EVENTS = 512


class Store:
    """The jobs of a storage.

    Args:
        storage: the storage of the jobs.
        clock: the source of event times.

    Attributes:
        key_id: the key that encrypts new states; empty if they are not encrypted.
        dropped_keys: the key record, which refuses some writers.
    """

    key_id = ""

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self.storage = storage
        self._clock = clock
        self.dropped_keys = DroppedKeys(storage)
        self._calls = Calls()
        self._forget()
        forks.watch(self)

    def _forget(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._cursor: str | None = None  # every change before it was read
        self._unread: set[str] = set()  # but for those of these jobs, which failed

    def after_fork(self) -> None:
        """Discard, in a forked child, views and queues that may be half changed."""
        self._calls = Calls()
        self._forget()

    def _job(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            made = Job(self.storage, job_id, self._clock, self._check_key)
            job = self._jobs.setdefault(job_id, made)
        return job

    def stored(self, job_id: str) -> JobStorage:
        """Return the job in the storage: the replica's own handle, if there is one.

        Another handle would have to find every event again.
        """
        job = self._jobs.get(job_id)
        return self.storage.job(job_id) if job is None else job.stored

    # -- reads -------------------------------------------------------------------------

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
        if job is None:
            stored = self.storage.job(job_id)
            if stored.version() is None and stored.position().last.seq == 0:
                return JobView(job_id, None)  # reads of unknown jobs leave no replica
            job = self._job(job_id)
        elif job.is_current:
            return job.view
        return self._calls.alone(job.refreshed)

    def glance(self, job_id: str) -> JobView:
        """Return the last view of this process without a refresh, or `view` if none.

        For uses that tolerate a stale view.
        """
        job = self._jobs.get(job_id)
        return self.view(job_id) if job is None or job.view.seq == 0 else job.view

    def live(
        self, view: JobView, after_seq: int = 0, limit: int | None = None
    ) -> list[Entry]:
        """Return live checkpoints, oldest first, as they are at one moment.

        A view is folded in place, and one event may remove many checkpoints.

        Args:
            view: the job.
            after_seq: only those that were saved after this event.
            limit: at most this many.
        """
        return self.still(
            view, lambda: [*islice(view.checkpoints.after(after_seq), limit)]
        )

    def still(self, view: JobView, read: Callable[[], _T]) -> _T:
        """Return what `read` returns, while nothing is folded into `view`."""
        job = self._jobs.get(view.job_id)
        return read() if job is None else job.folding.hold(read)

    def readable(self, job_id: str) -> JobView:
        """Return `view` if this version can fold all of it.

        Raises:
            NewerFormat: only the history can be read.
            DamagedJournal, StorageFailed, NestedCall: as `view`.
        """
        view = self.view(job_id)
        refuse_newer(view, "this version can only show its history")
        return view

    def history(
        self, view: JobView, after_seq: int, *, until_seq: int | None = None
    ) -> Iterator[Event]:
        """Read the events after `after_seq`, verified, oldest first."""
        last = view.seq if until_seq is None else min(until_seq, view.seq)
        return self._job(view.job_id).history(after_seq, last)

    def newest_first(self, view: JobView, after_seq: int) -> Iterator[Event]:
        """Read the events after `after_seq`, verified, newest first."""
        bound = view.seq
        while bound > after_seq:  # in parts, so that the newest few are cheap
            start = max(bound - _PAGE_EVENTS, after_seq)
            yield from reversed([*self.history(view, start, until_seq=bound)])
            bound = start

    def refresh(self, job_ids: Collection[str] | None = None) -> set[str]:
        """Read the latest writes of other processes; return the jobs that changed.

        Args:
            job_ids: where to look; None: where the storage names a change.
        """
        cursor = self._cursor
        if job_ids is None:
            job_ids, cursor = self.storage.changed(cursor)
        moved = {job_id for job_id in job_ids if self._look(job_id)}
        self._cursor = cursor  # now that all were read
        return moved

    def _look(self, job_id: str) -> bool:
        """Refresh a job; return whether it moved.  Its readers get its errors."""
        job = self._jobs.get(job_id)
        before = 0 if job is None else job.view.seq
        try:
            after = self.view(job_id).seq
        except NestedCall:
            raise  # not caused by the job
        except MilepostError:
            self._unread.add(job_id)
            return False
        self._unread.discard(job_id)
        return after != before

    def having(self, has: Callable[[JobView], bool]) -> Iterator[JobView]:
        """Yield the readable jobs for which `has` is true.

        Those that this process knows come first, and only they are looked at.  The
        others need a look for changes at every job.
        """
        yield from self._having(has)
        self.refresh()
        for job_id in [*self._unread]:
            self._look(job_id)
        yield from self._having(has)

    def _having(self, has: Callable[[JobView], bool]) -> Iterator[JobView]:
        for job_id, job in [*self._jobs.items()]:
            if not has(job.view):
                continue
            try:
                view = self.readable(job_id)
            except NestedCall:
                raise  # not caused by the job
            except MilepostError:
                continue  # the damage of one job must not hide what others have (I10)
            if has(view):
                yield view

    def known(self) -> list[JobView]:
        """Return the views of all jobs that this process knows, however old."""
        return [job.view for job in [*self._jobs.values()]]

    def knows(self, job_id: str) -> bool:
        """Return whether this process has a view of a job, however old."""
        return job_id in self._jobs

    def is_settled(self, job_id: str) -> bool:
        """Return whether the view of a job is all that its storage has."""
        job = self._jobs.get(job_id)
        return job is not None and job.is_current

    def is_confirmed(self, policy_hash: str) -> bool:
        """Return whether a plan of this policy was confirmed in a job known here."""
        jobs = list(self._jobs.values())
        return any(policy_hash in job.view.confirmed for job in jobs)

    def replay(
        self, job_id: str, *, until_seq: int, on_piece: OnPiece | None = None
    ) -> JobView:
        """Return a separate view, folded from the start up to `until_seq`.

        Damage that it finds is found by every process that opens the job afterwards.
        """
        known = self.view(job_id)
        view, job = JobView(job_id, self.storage.store_id), self._job(job_id)
        try:
            job.fold(view, min(until_seq, known.seq), on_piece)
        except DamagedJournal:
            with suppress(StorageFailed):
                job.stored.drop_snapshot()
            raise
        return view

    # -- writes ------------------------------------------------------------------------

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
        self._calls.enter()
        try:
            answer = job.commit_alone(request)
            if answer is LATER:
                answer = self._in_turn(job, Waiter(request, is_shared=is_shared))
            return answer
        finally:
            self._calls.leave()

    @staticmethod
    def _in_turn(job: Job, waiter: Waiter) -> Any:
        try:
            return job.queue.submit(waiter, job.commit)
        finally:
            job.queue.leave(waiter)

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

    # -- compaction --------------------------------------------------------------------

    def compact(
        self,
        job_id: str,
        due: Callable[[JobView], frozenset[int]],
        expired: Callable[[JobView], list[str]],
        need: Callable[[JobView, frozenset[int]], Need],
        actor: str,
        vault: Vault,
        on_piece: OnPiece | None = None,
    ) -> Compaction | None:
        """Rewrite a journal without the states that are due, if it is worthwhile.

        Readers and writers continue meanwhile; writers only wait while the latest
        writes are copied.  If it is optional, and the copy is not shorter, because
        states are re-encoded without their bases, the copy is discarded.

        Args:
            job_id: the job.
            due: returns the saves whose states are dropped.
            expired: returns the salvage files to remove.
            need: decides whether to start, given the states that are due.
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
        job = self._job(job_id)
        self._calls.alone(job.keep_snapshot)
        needed = need(view, drop)
        if needed == "none":
            # Otherwise an idle job would keep its leftover file for ever.
            job.stored.sweep()
            return None
        known = Unworthy(job.generation, drop, job.unworthy.growth_bytes)
        if needed == "optional" and job.unworthy == known:
            return self._skipped(job, view)  # later saves do not depend on these states
        with job.stored.rewriting() as rewrite:
            live = {entry.seq for entry in self.live(view)}
            compactor = Compactor(drop, live, job.stored.lines, vault, view.address_of)
            rewrite.copy(view.seq, compactor.lines_of, on_piece)
            if needed == "optional" and compactor.bytes_freed <= 0:
                growth = -compactor.bytes_freed
                job.unworthy = Unworthy(job.generation, drop, growth)
                return self._skipped(job, view)
            rewrite.follow()

            def place(held: HeldJob) -> Compaction:
                job.folding.hold(partial(job.prepare, held))
                if job.view is not view or not drop <= due(view):
                    raise Busy  # rewritten by a recovery, or a state was undeleted
                missing = {s for s, f in view.faults.items() if f == STATE_MISSING}
                erased = erased_runs(view, drop | missing)
                return self._place(
                    job, compactor, rewrite, held, expired(view), actor, erased
                )

            return self._calls.alone(partial(during, job.stored.hold(), place))

    @staticmethod
    def _skipped(job: Job, view: JobView) -> Compaction:
        size, growth = view.stored_bytes, job.unworthy.growth_bytes
        return Compaction(view.job_id, 0, 0, size, size, growth)

    def _place(
        self,
        job: Job,
        compactor: Compactor,
        rewrite: Rewrite,
        held: HeldJob,
        salvage_files: list[str],
        actor: str,
        erased: list[list[int]],
    ) -> Compaction:
        view = job.view
        before, after = held.finish(rewrite)
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
        if self.key_id:
            self._check_key()  # it wraps the data keys
        job.forget_version()
        held.replace(rewrite, written.lines, written.last)
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
        for job in list(self._jobs.values()):
            job.keep_snapshot()
        self.storage.close()
        self._forget()
