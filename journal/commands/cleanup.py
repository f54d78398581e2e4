"""Remove the checkpoints that a caller's cleanup or a plan removes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Self

from milepost.journal.clock import stamp
from milepost.journal.commands.marks import refuse_held
from milepost.journal.errors import (
    ConfirmationRequired,
    InvalidArgument,
    MilepostError,
    StalePlan,
)
from milepost.journal.models import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.index.job_view import JobView
    from milepost.journal.retention.decisions import Decision, Verdict
    from milepost.journal.retention.plans import Applied, JobPlan, Plan
    from milepost.journal.retention.policy import Policy
    from milepost.journal.store.batch import Batch

    Skipped = tuple[str, ErrorInfo]
    # Decides about a job; without a time, as a caller's cleanup.
    Decide = Callable[[JobView, Policy, datetime | None], Decision]


class Shown(NamedTuple):
    """The plan of a cleanup that the caller has seen: its id and its time."""

    plan_id: str
    as_of: datetime

    @classmethod
    def of(cls, plan_id: str | None, as_of: datetime | None) -> Self | None:
        """Return the plan that the caller has seen, if it names one.

        Raises:
            InvalidArgument: one of the two is missing.
        """
        if plan_id is None and as_of is None:
            return None
        if plan_id is None or as_of is None:
            raise InvalidArgument("plan_id and as_of belong together: give both")
        return cls(plan_id, as_of)

    def check(self, plan: JobPlan, now: datetime) -> None:
        """Refuse a cleanup that differs from the plan.

        Raises:
            StalePlan: it differs, or the plan is too old.
            InvalidArgument: the plan is of the future.
        """
        from milepost.journal.retention import plans

        plans.check_as_of(self.as_of, now)
        plans.as_shown(plans.plan_of([plan]), self.plan_id, lambda: ())


# Events are permanent; this bound keeps one of a large removal readable.
_MAX_REMOVED_PER_EVENT = 10_000


def cleanup(
    batch: Batch,
    plan_of: Callable[[JobView], JobPlan],
    *,
    actor: str,
    trash_seconds: float,
    expected_seq: int | None,
    shown: Shown | None = None,
) -> int:
    """Remove what a caller's cleanup removes; return how many checkpoints.

    Raises:
        Conflict: `expected_seq` is stale.
        StalePlan: it would remove other checkpoints than the `shown` plan, or that is
            too old.
        InvalidArgument: the `shown` plan is of the future.
    """
    batch.check_seq(expected_seq)
    plan = plan_of(batch.view)
    if shown is not None:
        shown.check(plan, batch.now)
    _add_cleaned(batch, plan, actor, trash_seconds, shown and shown.plan_id)
    return len(plan.remove)


def apply(
    batch: Batch,
    job: JobPlan,
    plan_id: str,
    *,
    actor: str,
    trash_seconds: float,
    decide: Decide,
) -> int:
    """Remove what a plan removes from a job; return how many checkpoints.

    Raises:
        StalePlan: the job changed, and the plan is no longer valid.
        OnHold: the plan would remove a held checkpoint.
        InvalidArgument: it would remove another protected one, or an unknown one.
    """
    if (batch.view.seq, batch.view.hash or "") != (job.head_seq, job.head_hash):
        job = _renewed(batch, job, plan_id, decide)
    _refuse_shielded(batch.view, job, plan_id)
    _add_cleaned(batch, job, actor, trash_seconds, plan_id)
    return len(job.remove)


def as_shown(
    plan: Plan, shown: str | None, now: datetime, job_ids: Callable[[], list[str]]
) -> tuple[Plan, list[Skipped]]:
    """Return the part of `plan` to apply, and the jobs that changed since.

    Args:
        plan: the plan; with `shown`, made again.
        shown: the `shown_id` of the plan that the caller has seen; None: this one.
        now: the current time.
        job_ids: returns all jobs.

    Raises:
        InvalidArgument: the plan was changed after it was made, or is of the future.
        StalePlan: no part of it is as shown, or it is too old.
    """
    from milepost.journal.retention import plans

    if plan.plan_id != plans.plan_id(plan.jobs):
        raise InvalidArgument(
            f"plan {plan.plan_id} was changed after it was made",
            hint="plan again",
        )
    if shown is None:
        return plan, []
    plans.check_as_of(plan.as_of or now, now)
    part, changed = plans.as_shown(plan, shown, job_ids)
    stale = [
        StalePlan(f"job {job_id!r} changed since plan {plans.own_id(shown)} was shown")
        for job_id in changed
    ]
    if stale and not part.jobs:
        raise stale[0]
    return part, [
        (job_id, ErrorInfo.of(exc)) for job_id, exc in zip(changed, stale, strict=True)
    ]


def refuse_unready(plan: Plan, *, confirm: bool) -> None:
    """Refuse a plan that requires confirmation, without one.

    Raises:
        ConfirmationRequired: it requires confirmation.
    """
    if plan.waits and not confirm:
        raise ConfirmationRequired(
            f"plan {plan.plan_id} requires confirmation: {plan.waits[0]}",
            hint="review what it removes, then confirm it",
        )


def counts_ages(plan: Plan) -> bool:
    """Return whether a policy with a `max_age` removes anything."""
    return any(job.remove and job.policy.max_age is not None for job in plan.jobs)


def apply_each(
    plan: Plan, skipped: list[Skipped], apply_one: Callable[[JobPlan], int]
) -> Applied:
    """Apply a plan job by job; a job that fails does not stop the others (I10).

    Args:
        plan: the plan.
        skipped: jobs that were skipped before.
        apply_one: applies the plan of one job; returns the number of removals.

    Raises:
        MilepostError: every job failed; the error of the first.
    """
    from milepost.journal.retention.plans import Applied, CleanedJob

    done, skipped = [], [*skipped]
    first: MilepostError | None = None
    for job in plan.jobs:
        try:
            removed = apply_one(job) if job.remove else 0
        except MilepostError as exc:
            first = first or exc
            skipped.append((job.job_id, ErrorInfo.of(exc)))
        else:
            done.append(CleanedJob(job.job_id, removed, len(job.keep)))
    if first is not None and not any(job.removed for job in done):
        raise first
    return Applied(done, skipped)


def refuse_unmade(view: JobView, job: JobPlan, plan_id: str) -> None:
    """Refuse to apply the plan of a job that does not exist any more.

    Raises:
        StalePlan: it does not exist.
    """
    if view.seq == 0:
        raise _stale(view, job, plan_id)


def _renewed(batch: Batch, job: JobPlan, plan_id: str, decide: Decide) -> JobPlan:
    """Plan again for a job that changed, if the shown plan is still valid.

    Raises:
        StalePlan: it is not.
    """
    from milepost.journal.retention import candidates

    view, policy = batch.view, job.policy
    decision = decide(view, policy, None if job.is_callers else job.as_of or batch.now)
    going = {verdict.checkpoint_id: verdict for verdict in decision.remove}
    staying = {verdict.checkpoint_id for verdict in decision.keep}
    shown = [verdict.checkpoint_id for verdict in job.remove]
    kept = {v.checkpoint_id for v in job.keep if v.reasons != candidates.OVER_LIMIT}
    if not (going.keys() >= set(shown) and staying >= kept):
        raise _stale(view, job, plan_id)
    remove = tuple(going.pop(checkpoint_id) for checkpoint_id in shown)
    keep = (*decision.keep, *going.values())
    return job._replace(keep=keep, remove=remove)


def _refuse_shielded(view: JobView, plan: JobPlan, plan_id: str) -> None:
    """Refuse to remove shielded checkpoints (I6), but for a caller's cleanup."""
    shielded = {*view.pinned}
    for entry in () if plan.is_callers else (view.current, view.latest):
        if entry is not None:
            shielded.add(entry.checkpoint_id)
    for verdict in plan.remove:
        if verdict.checkpoint_id not in view.checkpoints:
            raise InvalidArgument(
                f"plan {plan_id} names {verdict.checkpoint_id!r}, which does not exist"
            )
        refuse_held(view, verdict.checkpoint_id)
        if verdict.checkpoint_id in shielded:
            raise InvalidArgument(
                f"plan {plan_id} would remove {verdict.checkpoint_id!r}, "
                "which is pinned, current or the newest"
            )


def _add_cleaned(
    batch: Batch,
    plan: JobPlan,
    actor: str,
    trash_seconds: float,
    plan_id: str | None = None,
) -> None:
    from milepost.journal.retention.policy import describe, policy_hash

    until = stamp(batch.now + timedelta(seconds=trash_seconds))
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


def _stale(view: JobView, job: JobPlan, plan_id: str) -> StalePlan:
    return StalePlan(
        f"plan {plan_id} was made at event {job.head_seq} of job {job.job_id!r}, "
        f"which is at {view.seq} now, and it is no longer valid"
    )


def _text(verdict: Verdict) -> str:
    return "; ".join(verdict.reasons)
