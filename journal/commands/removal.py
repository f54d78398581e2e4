"""Remove checkpoints, by id, by count or by plan; undelete them."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.arguments import id_of
from milepost.journal.clock import stamp, stamped
from milepost.journal.commands.erasure import Erasure
from milepost.journal.commands.marks import refuse_held
from milepost.journal.errors import (
    ConfirmationRequired,
    Conflict,
    InvalidArgument,
    MilepostError,
    Protected,
    StalePlan,
    UnreadableState,
)
from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.models import ErrorInfo
from milepost.journal.reading.planning import cleanup_policy
from milepost.journal.reading.reader import unreadable
from milepost.journal.states import delta_chain
from milepost.journal.store.batch import Batch

if TYPE_CHECKING:
    from milepost.journal.index.job_view import Entry, JobView
    from milepost.journal.models import CheckpointInfo
    from milepost.journal.retention.decisions import Verdict
    from milepost.journal.retention.plans import Applied, JobPlan, Plan

# Events are permanent; this bound keeps one of a large removal readable.
_MAX_REMOVED_PER_EVENT = 10_000


class Removal(Erasure):
    """Deletes checkpoints; they can be undeleted for a while."""

    def delete(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        reason: str | None = None,
        force: bool = False,
        purge: bool = False,
        expected_seq: int | None = None,
    ) -> bool:
        """Delete a checkpoint; return False if there is none.

        It disappears from lists immediately and can be undeleted until the trash period
        ends.  Its events stay.  If it was current, its nearest remaining ancestor
        becomes current, or else the newest checkpoint; the event records which.

        Args:
            job_id: the job.
            checkpoint_id: the checkpoint.
            actor: the actor of the deletion, instead of the manager's.
            reason: recorded.
            force: delete it even if it is pinned.
            purge: erase its state immediately and permanently, also if it was deleted
                before.
            expected_seq: refuse if the job is at another seq.

        Raises:
            OnHold: (a Protected) it is held; `force` does not override this.
            Protected: it is pinned, and `force` was not given.
            Conflict: `expected_seq` is stale; or, with `purge`, another compaction did
                not finish in time: the checkpoint is deleted, and the next compaction
                erases its state.
            DamagedJournal, StorageFailed: as `save`.
        """
        checkpoint_id = id_of(checkpoint_id)

        def request(batch: Batch) -> bool:
            view = batch.view
            in_trash = purge and checkpoint_id in view.trash
            if checkpoint_id not in view.checkpoints and not in_trash:
                return False
            batch.check_seq(expected_seq)
            refuse_held(view, checkpoint_id)
            if checkpoint_id in view.pinned and not force:
                raise Protected(
                    f"checkpoint {checkpoint_id!r} is pinned",
                    hint="unpin it, or delete it with force",
                )
            data = {"checkpoint_id": checkpoint_id}
            if reason is not None:
                data["reason"] = ids.check_label("reason", reason)
            type_ = "checkpoint.purged" if purge else "checkpoint.deleted"
            batch.remove(type_, self._who(actor), data, [checkpoint_id])
            return True

        if self._reader.view(job_id).seq == 0:
            return False
        self._look_at_clock()
        is_done: bool = self._store.write(job_id, request)
        if is_done and purge:
            self._erase_states(job_id, actor)
        return is_done

    def undelete(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Restore a deleted checkpoint; return False if it was not deleted.

        Raises:
            Conflict: its trash period has ended, it was purged or its state is erased;
                or `expected_seq` is stale.
            UnreadableState: its state is damaged.
            DamagedJournal, StorageFailed: as `save`.
        """
        checkpoint_id = id_of(checkpoint_id)

        def request(batch: Batch) -> bool:
            trashed = batch.view.trash.get(checkpoint_id)
            if trashed is None:
                return False
            batch.check_seq(expected_seq)
            if trashed.is_purged:
                raise Conflict(f"checkpoint {checkpoint_id!r} was purged")
            end = datetime.fromisoformat(trashed.at) + timedelta(
                seconds=self.trash_seconds
            )
            if batch.now >= end:
                raise Conflict(
                    f"checkpoint {checkpoint_id!r} was deleted at "
                    f"{stamped(trashed.at)}; its trash period ended at {stamp(end)}"
                )
            self._refuse_stateless(batch.view, trashed.entry)
            data = {"checkpoint_id": checkpoint_id}
            batch.undelete(self._who(actor), data, checkpoint_id)
            return True

        self._reader.answer(job_id, partial(self._refuse_erased, checkpoint_id))
        return self._change(job_id, request)

    def _refuse_stateless(self, view: JobView, entry: Entry) -> None:
        """Refuse to undelete a checkpoint that could not be restored.

        Raises:
            Conflict: its state is no longer on the disk.
            UnreadableState: its state is damaged.
        """
        fault = view.faults.get(entry.seq)
        if fault == STATE_MISSING:
            raise _gone(entry.checkpoint_id)
        problem = (
            delta_chain.problem_of(entry.seq, partial(self._reader.read, view))
            if fault is None
            else UnreadableState(fault)
        )
        if problem is not None:
            raise unreadable(view, entry, problem)

    def _refuse_erased(self, checkpoint_id: str, view: JobView) -> None:
        """Refuse to undelete a checkpoint that only the history still has.

        Raises:
            Conflict: its state was erased.
        """
        if checkpoint_id in view.checkpoints or checkpoint_id in view.trash:
            return
        for event in self._store.history(view, 0):
            if event["type"] != "checkpoint.saved":
                continue
            if event["data"]["checkpoint_id"] == checkpoint_id:
                raise _gone(checkpoint_id)

    def cleanup(
        self,
        job_id: str,
        keep_last: int = 10,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> int:
        """Delete all but the newest `keep_last`; return how many were deleted.

        Exactly `keep_last` remain of those that are neither pinned nor held, failed
        ones included; pinned and held ones are kept in addition.  If the current one is
        deleted, its nearest remaining ancestor becomes current, or else the newest
        checkpoint; the event records which.  `plan_cleanup` is the dry run.

        Raises:
            InvalidArgument: `keep_last` is not a whole number of at least 1.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        policy = cleanup_policy(keep_last)

        def request(batch: Batch) -> int:
            batch.check_seq(expected_seq)
            plan = self._cleanup_plan(batch.view, policy)
            self._add_cleaned(batch, plan, self._who(actor), plan_id=None)
            return len(plan.remove)

        if self._reader.view(job_id).seq == 0:
            return 0
        self._look_at_clock()
        removed: int = self._store.write(job_id, request)
        return removed

    def apply(
        self,
        plan: Plan,
        *,
        actor: str | None = None,
        confirm: bool = False,
        trust_clock: bool = False,
    ) -> Applied:
        """Carry out `plan`; return how many checkpoints were removed.

        The plan is applied job by job, each atomically.  A job that changed since is
        decided again: if everything that the plan shows would still be kept or removed
        as shown, exactly that is removed; otherwise the job is skipped.
        `Applied.skipped` has the skipped jobs with errors.

        Args:
            plan: a result of `plan`.
            actor: the actor of the removal, instead of the manager's.
            confirm: apply a plan that requires confirmation.  Later plans of the same
                policy, of any job, do not require it again.
            trust_clock: accept the current time although the clock jumped.

        Raises:
            ConfirmationRequired: it requires confirmation; nothing was removed.
            ClockJumped: a policy has a `max_age`, and the clock jumped; nothing was
                removed.
            InvalidArgument: `plan` was not made by `plan`.
            StalePlan: every job was skipped, the first because it changed.
            OnHold: likewise, because the plan would remove a held checkpoint.
            DamagedJournal, StorageFailed: likewise, as `save`.
        """
        from milepost.journal.retention import plans

        if plan.plan_id != plans.plan_id(plan.jobs):
            raise InvalidArgument(
                f"plan {plan.plan_id} was changed after it was made",
                hint="plan again",
            )
        if plan.waits and not confirm:
            raise ConfirmationRequired(
                f"plan {plan.plan_id} requires confirmation: {plan.waits[0]}",
                hint="review what it removes, then confirm it",
            )
        if any(job.remove and job.policy.max_age is not None for job in plan.jobs):
            self._check_clock(trust_clock=trust_clock)
        elif any(job.remove for job in plan.jobs):
            self._look_at_clock()
        removed = 0
        skipped: list[tuple[str, ErrorInfo]] = []
        first: MilepostError | None = None
        for job in plan.jobs:
            try:
                removed += self._apply_to(job, plan.plan_id, self._who(actor))
            except MilepostError as exc:
                first = first or exc
                skipped.append((job.job_id, ErrorInfo.of(exc)))  # I10
        if first is not None and not removed:
            raise first
        return plans.Applied(removed, skipped)

    def _apply_to(self, job: JobPlan, plan_id: str, actor: str) -> int:
        if not job.remove:
            return 0
        if (view := self._reader.view(job.job_id)).seq == 0:
            raise _stale(view, job, plan_id)  # a write would create the job
        removed: int = self._store.write(
            job.job_id, partial(self._apply, job, plan_id, actor)
        )
        return removed

    def _apply(self, job: JobPlan, plan_id: str, actor: str, batch: Batch) -> int:
        if (batch.view.seq, batch.view.hash or "") != (job.head_seq, job.head_hash):
            job = self._renewed(batch, job, plan_id)
        self._refuse_shielded(batch.view, job, plan_id)
        self._add_cleaned(batch, job, actor, plan_id=plan_id)
        return len(job.remove)

    def _renewed(self, batch: Batch, job: JobPlan, plan_id: str) -> JobPlan:
        """Plan again for a job that changed, if the shown plan is still valid.

        Raises:
            StalePlan: it is not.
        """
        from milepost.journal.retention import candidates

        view, policy = batch.view, job.policy
        found = self._candidates(view, policy)
        decision = self._decision(found, policy, batch.now, is_callers=job.is_callers)
        going = {verdict.checkpoint_id: verdict for verdict in decision.remove}
        staying = {verdict.checkpoint_id for verdict in decision.keep}
        shown = [verdict.checkpoint_id for verdict in job.remove]
        kept = {v.checkpoint_id for v in job.keep if v.reasons != candidates.OVER_LIMIT}
        if not (going.keys() >= set(shown) and staying >= kept):
            raise _stale(view, job, plan_id)
        remove = tuple(going.pop(checkpoint_id) for checkpoint_id in shown)
        keep = (*decision.keep, *going.values())
        return job._replace(keep=keep, remove=remove)

    @staticmethod
    def _refuse_shielded(view: JobView, plan: JobPlan, plan_id: str) -> None:
        """Refuse to remove shielded checkpoints (I6), but for a caller's cleanup."""
        shielded = {*view.pinned}
        for entry in () if plan.is_callers else (view.current, view.latest):
            if entry is not None:
                shielded.add(entry.checkpoint_id)
        for verdict in plan.remove:
            if verdict.checkpoint_id not in view.checkpoints:
                raise InvalidArgument(
                    f"plan {plan_id} names {verdict.checkpoint_id!r}, "
                    "which does not exist"
                )
            refuse_held(view, verdict.checkpoint_id)
            if verdict.checkpoint_id in shielded:
                raise InvalidArgument(
                    f"plan {plan_id} would remove {verdict.checkpoint_id!r}, "
                    "which is pinned, current or the newest"
                )

    def _add_cleaned(
        self, batch: Batch, plan: JobPlan, actor: str, *, plan_id: str | None
    ) -> None:
        from milepost.journal.retention.policy import describe, policy_hash

        until = stamp(batch.now + timedelta(seconds=self.trash_seconds))
        policy = describe(plan.policy) | {"hash": policy_hash(plan.policy)}
        for first in range(0, len(plan.remove), _MAX_REMOVED_PER_EVENT):
            part = plan.remove[first : first + _MAX_REMOVED_PER_EVENT]
            data: dict[str, object] = {
                "removed": {v.checkpoint_id: _text(v) for v in part},
                "kept": len(plan.keep),
                "policy": policy,
                "trash_until": until,
            }
            if plan_id is not None:
                data["plan_id"] = plan_id
            if plan.waits:
                data["confirmed"] = True
            removed = (verdict.checkpoint_id for verdict in part)
            batch.remove("checkpoints.cleaned", actor, data, removed)


def _gone(checkpoint_id: str) -> Conflict:
    return Conflict(
        f"checkpoint {checkpoint_id!r} was deleted, and its state is erased; it cannot "
        "be undeleted"
    )


def _stale(view: JobView, job: JobPlan, plan_id: str) -> StalePlan:
    return StalePlan(
        f"plan {plan_id} was made at event {job.head_seq} of job {job.job_id!r}, "
        f"which is at {view.seq} now, and it is no longer valid"
    )


def _text(verdict: Verdict) -> str:
    return "; ".join(verdict.reasons)
