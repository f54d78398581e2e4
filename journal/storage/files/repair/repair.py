"""Carry out a repair, under the job's lock.

The bytes to be given up are first made durable in salvage/.  Then a new file, with the
proven writes and a ``job.repaired``, replaces the journal in one rename; last, the head
moves.  A crash therefore leaves either the damage or the complete repair.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from milepost.journal import ids
from milepost.journal.batch import Batch
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    CannotRepair,
    InvalidArgument,
    LockTimeout,
    LossNotAccepted,
)
from milepost.journal.recovery.diagnosis import Remedy
from milepost.journal.recovery.steps import REASONS, Repair, steps_of
from milepost.journal.storage.contract import during
from milepost.journal.storage.files.recovery.passage import pieces
from milepost.journal.storage.files.repair import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.index.job_view import JobView
    from milepost.journal.recovery.diagnosis import Diagnosis
    from milepost.journal.recovery.steps import RepairAction
    from milepost.journal.states.access import Vault
    from milepost.journal.storage.contract import HeldJob
    from milepost.journal.storage.files.held_job import HeldFileJob
    from milepost.journal.storage.files.recovery.snapshot import Evidence
    from milepost.journal.storage.files.storage import FileStorage

# Recover a tail, cut damage, drop states, and one round in reserve.
_MAX_ROUNDS = 4
_REBUILDS = frozenset({Remedy.CUT, Remedy.RESTART})
_WHY_NOT = {
    Remedy.BY_HAND: "move its files out of journals/ and heads/, or restore the right "
    "ones there",
    Remedy.UPGRADE: "upgrade",
    Remedy.WAIT: "a writer has its lock; try again, or look for a stopped process",
}


class FileRepairer:
    """Diagnoses and repairs the jobs of a folder; see `Repairer`.

    Args:
        storage: the storage of the jobs.
        vault: the available keys.
        clock: the source of event times.
        actor: the actor who accepts a loss, for the journal.
    """

    def __init__(
        self,
        storage: FileStorage,
        vault: Vault,
        clock: Callable[[], datetime],
        actor: str,
    ) -> None:
        self._storage = storage
        self._vault = vault
        self._clock = clock
        self._actor = actor

    def diagnose(self, job_id: str, *, deep: bool) -> Diagnosis:
        """See `Repairer.diagnose`."""
        return check.diagnose(self._storage, job_id, self._vault, deep=deep)

    def repair(self, job_id: str, *, accept_loss: bool, dry_run: bool) -> Repair:
        """See `Repairer.repair`."""
        before = found = self.diagnose(job_id, deep=True)
        if not found.exists:
            raise InvalidArgument(f"there is no job {job_id!r}")
        done: list[RepairAction] = []
        for _ in range(_MAX_ROUNDS):
            steps = steps_of(found)
            if dry_run:
                return Repair(job_id, before, steps)
            if found.treatment.remedy is Remedy.NOTHING:
                break
            self._check(found, steps, accept_loss=accept_loss)
            if found.treatment.remedy in _REBUILDS:
                done += self._rebuild(job_id)
            else:
                self._settle(job_id, may_drop=accept_loss)
                done += [step for step in steps if accept_loss or not step.is_lossy]
            found = self.diagnose(job_id, deep=True)
        return Repair(job_id, before, tuple(dict.fromkeys(done)), found)

    @staticmethod
    def _check(
        found: Diagnosis, steps: tuple[RepairAction, ...], *, accept_loss: bool
    ) -> None:
        what = f"job {found.job_id!r}: {found.message}"
        if not steps:
            raise CannotRepair(what, hint=_WHY_NOT[found.treatment.remedy])
        if found.treatment.is_lossy and not accept_loss:
            lossy = "; ".join(step.would for step in steps if step.is_lossy)
            raise LossNotAccepted(
                f"{what}; a repair {lossy}",
                hint="a backup may have more; --dry-run shows every step, "
                "--accept-loss applies them",
            )

    # -- repairs without a loss ----------------------------------------------------

    def _settle(self, job_id: str, *, may_drop: bool) -> None:
        """Recover the job as the next write would, and drop unreadable states."""

        def settle(held: HeldJob) -> None:
            with self._storage.evidence(job_id) as evidence:
                found, view, _ = self._examined(evidence, job_id)
            batch = Batch(view, self._clock())
            if view.seq:
                batch.add_repairs(held.repairs())
            if may_drop:
                self._drop(batch, found.unreadable)
            if len(batch):
                written = batch.encode()
                held.append(view.mark, written.lines, written.last)

        during(self._storage.job(job_id).hold(), settle)

    def _drop(self, batch: Batch, unreadable: tuple[str, ...]) -> None:
        """Delete unreadable checkpoints; their lines stay for the trash period."""
        for checkpoint_id in unreadable:
            data = {"checkpoint_id": checkpoint_id, "reason": "its state is damaged"}
            if checkpoint_id in batch.view.held:
                batch.add("checkpoint.released", self._actor, data)
            batch.remove("checkpoint.deleted", self._actor, data, [checkpoint_id])

    # -- repairs with a loss -------------------------------------------------------

    def _rebuild(self, job_id: str) -> tuple[RepairAction, ...]:
        """Replace the journal with its proven writes and a record of the loss.

        Returns:
            The steps taken; none if another process was faster.
        """
        self._storage.create()
        job = self._storage.job(job_id)

        def rebuild(held: HeldFileJob) -> tuple[RepairAction, ...]:
            with held.evidence() as evidence, job.copying() as copy:
                found, view, text = self._examined(evidence, job_id)
                if found.treatment.remedy not in _REBUILDS:
                    return ()
                end = found.proven_bytes + found.cut_bytes
                if found.cut_bytes:
                    rest = partial(pieces, text.read, found.proven_bytes, end)
                    held.keep_aside(rest, found.proven_bytes, found.lost_events)
                for piece in pieces(text.read, 0, found.proven_bytes):
                    copy.write(piece)
                last = view.mark
                if found.is_journaled:
                    written = self._telling(found, view, evidence).encode()
                    copy.write(b"".join(written.lines))
                    last = written.last
                held.replace_by(copy, last)
                return steps_of(found._replace(unreadable=()))

        try:
            return during(job.unsettled(), rebuild)
        except Busy:
            raise LockTimeout(
                f"another compaction of job {job_id!r} is running", hint="try again"
            ) from None

    def _telling(self, found: Diagnosis, view: JobView, evidence: Evidence) -> Batch:
        """Return the events that record the loss."""
        batch = Batch(view, self._clock())
        if view.seq == 0:
            store_id = self._storage.store_id
            assert store_id is not None, "it was created"
            if ids.file_name(found.job_id) != evidence.name:
                raise CannotRepair(
                    f"job {found.job_id!r}: its original id cannot be read any more",
                    hint=_WHY_NOT[Remedy.BY_HAND],
                )
            batch.open(store_id)
        data: JobRepairedData = {
            "reason": REASONS[found.verdict],
            "offset": found.proven_bytes,
            "cut_bytes": found.cut_bytes,
        }
        if found.salvage_file is not None:
            data["salvage_file"] = found.salvage_file
        if found.lost_events:
            data["lost_events"] = found.lost_events
        if found.lost_hash:
            data["lost_hash"] = found.lost_hash
        batch.add("job.repaired", self._actor, cast("dict[str, object]", data))
        return batch

    def _examined(self, evidence: Evidence, job_id: str) -> check.Found:
        return check.examine(
            evidence, job_id, self._storage.store_id, self._vault, deep=True
        )
