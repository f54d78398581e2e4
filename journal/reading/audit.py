"""Questions about all that is stored: is it sound, what is wrong, under which keys?"""

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
    """Checks what is stored, and changes no job."""

    def verify(
        self,
        job_id: str | None = None,
        *,
        deep: bool = False,
        on_piece: OnPiece | None = None,
    ) -> list[JobReport]:
        """Check one job, or all, from the first byte; damage is reported, not raised.

        Args:
            job_id: which; every job if not given.  No report of an unknown one.
            deep: check the digest of every live state as well; a note says how many
                could not be, because their key is not at hand.
            on_piece: called between pieces of a journal with the bytes that were read
                since; what it raises ends the verification.
        """
        if job_id is not None:
            report = self._verify(ids.check_job_id(job_id), deep, on_piece)
            return [report] if report.events or not report.ok else []
        return [self._verify(job, deep, on_piece) for job in self.job_ids()]

    def _verify(self, job_id: str, deep: bool, on_piece: OnPiece | None) -> JobReport:
        def ask(known: JobView) -> tuple[JobView, Counter[str], list[str]]:
            view = self._store.replay(job_id, until_seq=known.seq, on_piece=on_piece)
            if view.newer_seq:
                self._store.readable(job_id)
            locked = self._check_states(view, deep, on_piece)
            others = delta_chain.damaged_others(
                view, partial(self._read, view), deep=deep
            )
            return view, locked, [*others]

        try:
            view, locked, others = self._answer(job_id, ask, self._any_view)
        except MilepostError as exc:
            return JobReport(job_id, False, 0, 0, None, ErrorInfo.of(exc), ())
        notes = others
        notes += (
            f"a repair gave up {counted(lost, 'event')}, as event {seq} says"
            for seq, lost in view.losses
        )
        if view.salvage_files:
            kept = counted(len(view.salvage_files), "run")
            notes.append(f"{kept} of bytes that were cut are in salvage/")
        notes += (
            f"{count} states were not checked: {why}" for why, count in locked.items()
        )
        live = len(view.checkpoints)
        return JobReport(job_id, True, view.seq, live, view.hash, None, tuple(notes))

    def _check_states(
        self, view: JobView, deep: bool, on_piece: OnPiece | None
    ) -> Counter[str]:
        """Check live states; return how many could not be, by why not."""
        locked: Counter[str] = Counter()
        for entry in view.checkpoints.values():
            if deep or entry.seq in view.faults:
                try:
                    self._open(view, entry)
                except MissingKey as exc:
                    locked[f"their key {exc.key_id!r} is not at hand"] += 1
                except NewerFormat:
                    locked["a newer Milepost wrote them"] += 1
                except StateOverBound as exc:
                    locked[f"{exc.hint}, for they are larger"] += 1
                if on_piece is not None:
                    on_piece(view.places[entry.seq].size)
        return locked

    def diagnose(
        self, job_id: str | None = None, *, deep: bool = False
    ) -> list[Diagnosis]:
        """Say what is wrong with one job, or all, how much is safe, and what to do.

        Reads every event and changes nothing: not even a torn tail is settled.
        Whatever is wrong is reported, not raised.

        Args:
            job_id: which; every job if not given.  None of an unknown one.
            deep: read every live state as well, not only its checksum.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
            StorageFailed: the jobs cannot be listed.
        """
        from milepost.journal.repair import check  # most programs examine nothing

        storage = self._store.storage
        jobs = storage.job_ids() if job_id is None else [ids.check_job_id(job_id)]
        found = (check.diagnose(storage, job, self._vault, deep=deep) for job in jobs)
        return [each for each in found if each.exists]

    def keys_in_use(self, job_id: str | None = None) -> dict[str, int]:
        """Return how many states are under each key, by its id.

        Those of deleted checkpoints count as long as they are there.  What is not
        encrypted counts under an empty id.

        Args:
            job_id: which job's; those of every job if not given.

        Raises:
            DamagedJournal: a job's states cannot be counted.
            UnreadableState, NewerFormat: one of them cannot be told.
        """
        counts: Counter[str] = Counter()
        jobs = self._store.storage.job_ids() if job_id is None else [job_id]
        for job in jobs:
            counts += self._answer(job, self._count_keys)
        return dict(counts)

    def drop_key(self, key_id: str, *, force: bool = False) -> None:
        """Let no process write with a key any more, whatever keys it has at hand.

        States that are under it stay readable for whoever has the key.

        Args:
            key_id: which.
            force: though states need it.

        Raises:
            Protected: states need it; it can be written with as before.
            LockTimeout: a write that is under way takes too long; the same.
            DamagedJournal: a job's states cannot be counted; the same.
        """
        storage = self._store.storage
        if storage.store_id is None:
            return
        before = storage.key_record()
        if not force:
            self._refuse_needed(key_id)
        storage.change_key_record(lambda r: _with_dropped(r, key_id))
        try:
            # Whoever asked before this was recorded has written by now.
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
            self._header(view, seq)[0].key_id
            for seq in (*saves, *view.places.others())
            if view.faults.get(seq) != STATE_MISSING
        )


def _with_dropped(record: KeyRecord | None, key_id: str) -> KeyRecord:
    return KeyRecord(marked(record).dropped | {key_id})


def _without_dropped(record: KeyRecord | None, key_id: str) -> KeyRecord:
    return KeyRecord(marked(record).dropped - {key_id})
