"""Remove the checkpoints that a caller's cleanup or a plan removes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Self

from milepost.journal.clock import stamp
from milepost.journal.commands.marks import refuse_held
from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats
from milepost.journal.errors import InvalidArgument, StalePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from milepost.journal.batch import Batch
    from milepost.journal.index.job_view import JobView
    from milepost.journal.retention.decisions import Decision, Verdict
    from milepost.journal.retention.plans import JobPlan
    from milepost.journal.retention.policy import Policy

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


@answers_repeats(None)
def cleanup(
    batch: Batch,
    plan_of: Callable[[JobView], JobPlan],
    *,
    actor: str,
    trash_seconds: float,
    expected_seq: int | None,
    shown: Shown | None = None,
    request: Request = NO_KEY,
) -> int | None:
    """Remove what a caller's cleanup removes; return how many checkpoints.

    A repeat of a request changes nothing and returns None.

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
    shown_id = None if shown is None else shown.plan_id
    _add_cleaned(batch, plan, actor, trash_seconds, request, shown_id)
    return len(plan.remove)


@answers_repeats(None)
def apply(
    batch: Batch,
    job: JobPlan,
    plan_id: str,
    *,
    actor: str,
    trash_seconds: float,
    decide: Decide,
    request: Request = NO_KEY,
) -> int | None:
    """Remove what a plan removes from a job; return how many checkpoints.

    A repeat of a request changes nothing and returns None.

    Raises:
        StalePlan: the job changed, and the plan is no longer valid.
        OnHold: the plan would remove a held checkpoint.
        InvalidArgument: it would remove another protected one, or an unknown one.
    """
    if (batch.view.seq, batch.view.hash or "") != (job.head_seq, job.head_hash):
        job = _renewed(batch, job, plan_id, decide)
    _refuse_shielded(batch.view, job, plan_id)
    _add_cleaned(batch, job, actor, trash_seconds, request, plan_id)
    return len(job.remove)


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
    shielded = {*view.pinned, *view.needed()}
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
                "which is pinned, needed, current or the newest"
            )


def _add_cleaned(
    batch: Batch,
    plan: JobPlan,
    actor: str,
    trash_seconds: float,
    request: Request,
    plan_id: str | None,
) -> None:
    from milepost.journal.retention.policy import describe, policy_hash

    if not plan.remove:
        return
    more: dict[str, object] = {}
    if plan_id is not None:
        more["plan_id"] = plan_id
    if plan.waits:
        more["confirmed"] = True
    add_cleaned(
        batch,
        {verdict.checkpoint_id: _text(verdict) for verdict in plan.remove},
        describe(plan.policy) | {"hash": policy_hash(plan.policy)},
        actor=actor,
        trash_seconds=trash_seconds,
        kept=len(plan.keep),
        more=request.recorded(more),
    )


def add_cleaned(
    batch: Batch,
    removed: Mapping[str, str],
    policy: Mapping[str, object],
    *,
    actor: str,
    trash_seconds: float,
    kept: int,
    more: Mapping[str, object],
) -> None:
    """Add the events that remove checkpoints, in one write.

    Args:
        batch: the write.
        removed: the checkpoints, each with the reason.
        policy: what removes them.
        actor: the actor.
        trash_seconds: how long they can be undeleted.
        kept: how many the job keeps.
        more: further data of each event.
    """
    until = stamp(batch.now + timedelta(seconds=trash_seconds))
    found = [*removed.items()]
    for first in range(0, len(found) or 1, _MAX_REMOVED_PER_EVENT):
        part = dict(found[first : first + _MAX_REMOVED_PER_EVENT])
        data = {"removed": part, "kept": kept, "policy": policy, "trash_until": until}
        batch.remove("checkpoints.cleaned", actor, {**data, **more}, part)


def _stale(view: JobView, job: JobPlan, plan_id: str) -> StalePlan:
    return StalePlan(
        f"plan {plan_id} was made at event {job.head_seq} of job {job.job_id!r}, "
        f"which is at {view.seq} now, and it is no longer valid"
    )


def _text(verdict: Verdict) -> str:
    return "; ".join(verdict.reasons)
