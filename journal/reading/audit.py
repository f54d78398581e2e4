"""Queries about all stored data: verification, diagnosis, keys in use."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.crypto.key_record import KeyRecord, marked
from milepost.journal.errors import (
    MilepostError,
    MissingKey,
    NewerFormat,
    Protected,
    StateOverBound,
)
from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.models import ErrorInfo, JobReport
from milepost.journal.reading.context import Inquiry
from milepost.journal.repair.steps import counted
from milepost.journal.states import delta_chain

if TYPE_CHECKING:
    from milepost.journal.index.job_view import JobView
    from milepost.journal.recovery.diagnosis import Diagnosis
    from milepost.journal.store.views import OnPiece


class Audit(Inquiry):
    """Checks stored data; changes no job."""

    def verify(
        self,
        job_id: str | None = None,
        *,
        deep: bool = False,
        on_piece: OnPiece | None = None,
    ) -> list[JobReport]:
        """Verify one job or all jobs from the first byte; damage is only reported.

        Args:
            job_id: the job, or None for all.  An unknown job has no report.
            deep: also check the digest of every live state; a note counts the states
                that were not checked for lack of a key.
            on_piece: called between pieces of a journal with the bytes read since the
                last call; its exceptions end the verification.
        """
        if job_id is not None:
            report = self._verify(ids.check_job_id(job_id), deep, on_piece)
            return [report] if report.events or not report.ok else []
        return [self._verify(job, deep, on_piece) for job in self._reader.job_ids()]

    def _verify(self, job_id: str, deep: bool, on_piece: OnPiece | None) -> JobReport:
        def ask(known: JobView) -> tuple[JobView, Counter[str], list[str]]:
            view = self._store.replay(job_id, until_seq=known.seq, on_piece=on_piece)
            if view.newer_seq:
                self._store.readable(job_id)
            locked = self._check_states(view, deep, on_piece)
            others = delta_chain.damaged_others(
                view, partial(self._reader.read, view), deep=deep
            )
            return view, locked, [*others]

        try:
            view, locked, others = self._reader.answer(
                job_id, ask, self._reader.any_view
            )
        except MilepostError as exc:
            return JobReport(job_id, False, 0, 0, None, ErrorInfo.of(exc), ())
        notes = others
        notes += (
            f"a repair lost {counted(lost, 'event')}, as event {seq} records"
            for seq, lost in view.losses
        )
        if view.salvage_files:
            kept = counted(len(view.salvage_files), "run")
            notes.append(f"{kept} of cut bytes are in salvage/")
        notes += (
            f"{counted(count, 'state')} not checked: {why}"
            for why, count in locked.items()
        )
        live = len(view.checkpoints)
        return JobReport(job_id, True, view.seq, live, view.hash, None, tuple(notes))

    def _check_states(
        self, view: JobView, deep: bool, on_piece: OnPiece | None
    ) -> Counter[str]:
        """Check live states; return the number that could not be, by reason."""
        locked: Counter[str] = Counter()
        for entry in view.checkpoints.values():
            if deep or entry.seq in view.faults:
                try:
                    self._reader.open(view, entry)
                except MissingKey as exc:
                    locked[f"key {exc.key_id!r} is missing"] += 1
                except NewerFormat:
                    locked["a newer Milepost wrote them"] += 1
                except StateOverBound as exc:
                    locked[f"too large, {exc.hint}"] += 1
                if on_piece is not None:
                    on_piece(view.places[entry.seq].size)
        return locked

    def diagnose(
        self, job_id: str | None = None, *, deep: bool = False
    ) -> list[Diagnosis]:
        """Diagnose one job or all jobs: the damage, what is safe, and the remedy.

        Reads every event and changes nothing, not even a torn tail.  Problems are
        reported, not raised.

        Args:
            job_id: the job, or None for all.  An unknown job has no diagnosis.
            deep: also read every live state, not only its checksum.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
            StorageFailed: the jobs cannot be listed.
        """
        from milepost.journal.repair import check  # imported late: rarely needed

        storage = self._store.storage
        jobs = storage.job_ids() if job_id is None else [ids.check_job_id(job_id)]
        found = (
            check.diagnose(storage, job, self._reader.vault, deep=deep) for job in jobs
        )
        return [each for each in found if each.exists]

    def keys_in_use(self, job_id: str | None = None) -> dict[str, int]:
        """Return the number of states under each key, by key id.

        States of deleted checkpoints count while they are stored.  States that are not
        encrypted count under an empty id.

        Args:
            job_id: the job, or None for all.

        Raises:
            DamagedJournal: a job's states cannot be counted.
            UnreadableState, NewerFormat: the key of a state cannot be determined.
        """
        counts: Counter[str] = Counter()
        jobs = self._store.storage.job_ids() if job_id is None else [job_id]
        for job in jobs:
            counts += self._reader.answer(job, self._count_keys)
        return dict(counts)

    def drop_key(self, key_id: str, *, force: bool = False) -> None:
        """Stop all processes from writing with a key, even those that have it.

        States under the key stay readable for processes that have it.

        Args:
            key_id: the key.
            force: drop the key although states need it.

        Raises:
            Protected: states need the key, which stays usable.
            LockTimeout: a running write takes too long; the key stays usable.
            DamagedJournal: a job's states cannot be counted; the key stays usable.
        """
        storage = self._store.storage
        if storage.store_id is None:
            return
        before = storage.key_record()
        if not force:
            self._refuse_needed(key_id)
        storage.change_key_record(lambda r: _with_dropped(r, key_id))
        try:
            # Writers that checked the key before the record changed have finished now.
            storage.wait_for_writers()
            if not force:
                self._refuse_needed(key_id)
        except BaseException:
            if before is None or key_id not in before.dropped:
                storage.change_key_record(lambda r: _without_dropped(r, key_id))
            raise

    def _refuse_needed(self, key_id: str) -> None:
        if states := self.keys_in_use().get(key_id, 0):
            raise Protected(
                f"{states} states need key {key_id!r}",
                hint="`milepost compact --rewrap` first; --force gives these states up",
            )

    def _count_keys(self, view: JobView) -> Counter[str]:
        trashed = [trashed.entry for trashed in [*view.trash.values()]]
        saves = [entry.seq for entry in (*self._store.live(view), *trashed)]
        return Counter(
            self._reader.header(view, seq)[0].key_id
            for seq in (*saves, *view.places.others())
            if view.faults.get(seq) != STATE_MISSING
        )


def _with_dropped(record: KeyRecord | None, key_id: str) -> KeyRecord:
    return KeyRecord(marked(record).dropped | {key_id})


def _without_dropped(record: KeyRecord | None, key_id: str) -> KeyRecord:
    return KeyRecord(marked(record).dropped - {key_id})
