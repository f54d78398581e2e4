"""Apply a plan to its jobs, one by one: what remains to be done, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.commands.requests import KeyInUse
from milepost.journal.errors import (
    ConfirmationRequired,
    InvalidArgument,
    MilepostError,
    StalePlan,
)
from milepost.journal.models import ErrorInfo
from milepost.journal.reading import queries

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from milepost.journal.commands.requests import Request
    from milepost.journal.reading.reader import Reader
    from milepost.journal.retention.plans import Applied, CleanedJob, JobPlan, Plan


class Remaining(NamedTuple):
    """What remains to be done of a plan.

    Attributes:
        plan: the part to apply.
        plan_id: the plan's own id, for events.
        done: the jobs that an earlier call of the same request cleaned.
        skipped: the jobs that changed since the plan was shown, with errors.
    """

    plan: Plan
    plan_id: str
    done: dict[str, CleanedJob]
    skipped: list[tuple[str, ErrorInfo]]


def remaining(
    reader: Reader, plan: Plan, shown: str | None, request: Request, now: datetime
) -> Remaining:
    """Return what remains to be done of `plan`.

    Args:
        reader: reads the jobs.
        plan: the plan; with `shown`, made again.
        shown: the `shown_id` of the plan that the caller has seen; None: this one.
        request: the request; a repeat finishes what an earlier call left.
        now: the current time.

    Raises:
        InvalidArgument: the plan was changed after it was made, or is of the future.
        StalePlan: no part of it is as shown, or it is too old.
        KeyInUse: the key stands for another request.
    """
    from milepost.journal.retention import plans

    if plan.plan_id != plans.plan_id(plan.jobs):
        raise InvalidArgument(
            f"plan {plan.plan_id} was changed after it was made",
            hint="plan again",
        )
    done = _done(reader, plan, request, now)
    stale = dict[str, MilepostError]()
    if shown is not None:
        try:
            plan, stale = _as_shown(reader, plan, shown, now, may_be_old=bool(done))
        except StalePlan:
            if not done:
                raise
            plan = plans.plan_of(())
    left = [job for job in plan.jobs if job.job_id not in done]
    stale = {job_id: exc for job_id, exc in stale.items() if job_id not in done}
    if stale and not left and not done:
        raise next(iter(stale.values()))
    skipped = [(job_id, ErrorInfo.of(exc)) for job_id, exc in stale.items()]
    own = plans.own_id(shown or plan.plan_id)
    return Remaining(plans.plan_of(left), own, done, skipped)


def refuse_unconfirmed(plan: Plan, *, confirm: bool) -> None:
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


def apply_each(rest: Remaining, apply_one: Callable[[JobPlan], CleanedJob]) -> Applied:
    """Apply a plan job by job; a job that fails does not stop the others (I10).

    Args:
        rest: what remains to be done.
        apply_one: applies the plan of one job.

    Raises:
        MilepostError: every job failed; the error of the first.
    """
    from milepost.journal.retention.plans import Applied

    done, skipped = [*rest.done.values()], [*rest.skipped]
    first: MilepostError | None = None
    for job in rest.plan.jobs:
        try:
            done.append(apply_one(job) if job.remove else cleaned(job, 0))
        except MilepostError as exc:
            first = first or exc
            skipped.append((job.job_id, ErrorInfo.of(exc)))
    if first is not None and not any(job.removed for job in done):
        raise first
    return Applied(sorted(done), skipped)


def cleaned(job: JobPlan, removed: int) -> CleanedJob:
    """Return the result for a job whose plan was applied."""
    from milepost.journal.retention.plans import CleanedJob

    return CleanedJob(job.job_id, removed, len(job.keep))


def removed(
    reader: Reader, job_id: str, request: Request, count: int | None, now: datetime
) -> int:
    """Return how many checkpoints a cleanup removed; `count` is None for a repeat."""
    return recorded(reader, job_id, request, now).removed if count is None else count


def recorded(
    reader: Reader, job_id: str, request: Request, now: datetime
) -> CleanedJob:
    """Return what a request removed from a job, from its events."""
    from milepost.journal.retention.plans import CleanedJob

    events = queries.recorded(reader, job_id, request.key or "", now)
    found = [e["data"] for e in events if e["type"] == "checkpoints.cleaned"]
    removed = sum(len(data["removed"]) for data in found)
    return CleanedJob(job_id, removed, found[-1]["kept"] if found else 0)


def _done(
    reader: Reader, plan: Plan, request: Request, now: datetime
) -> dict[str, CleanedJob]:
    """Return the jobs that an earlier call of the same request cleaned.

    They need not be in `plan`, which is made after them.
    """
    done: dict[str, CleanedJob] = {}
    named = {job.job_id for job in plan.jobs}
    for job_id in reader.job_ids() if request.key is not None else ():
        try:
            if request.earlier(reader.view(job_id), now):
                done[job_id] = recorded(reader, job_id, request, now)
        except KeyInUse:
            if job_id in named:
                raise
        except MilepostError:
            continue  # a damaged job; if the plan names it, applying reports it
    return done


def _as_shown(
    reader: Reader, plan: Plan, shown: str, now: datetime, *, may_be_old: bool
) -> tuple[Plan, dict[str, MilepostError]]:
    """Return the part of `plan` that is as shown, and the other jobs with errors.

    If a plan `may_be_old`, nothing of an old one is as shown.
    """
    from milepost.journal.retention import plans

    old = None
    try:
        plans.check_as_of(plan.as_of or now, now)
    except StalePlan as exc:
        if not may_be_old:
            raise
        old = exc
    part, changed = plans.as_shown(plan, shown, reader.job_ids)
    if old is not None:
        changed = [*changed, *(job.job_id for job in part.jobs)]
        return plans.plan_of(()), dict.fromkeys(changed, old)
    return part, {
        job_id: StalePlan(
            f"job {job_id!r} changed since plan {plans.own_id(shown)} was shown"
        )
        for job_id in changed
    }
