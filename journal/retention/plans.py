"""Retention plans: values to show, confirm and apply."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

import orjson

from milepost.journal.clock import stamp
from milepost.journal.errors import InvalidArgument, StalePlan
from milepost.journal.retention.policy import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from milepost.journal.models import ErrorInfo
    from milepost.journal.retention.decisions import Verdict
    from milepost.journal.retention.policy import Policy

# How long a plan that is made again may be applied.
MAX_AGE = timedelta(hours=1)
_ID_DIGITS = 16
_NAME_DIGITS = 8


class JobPlan(NamedTuple):
    """The part of a plan that concerns one job, as of one of its events.

    Attributes:
        head_seq: the job's last event when the plan was made.
        head_hash: that event's hash.
        waits: why the plan requires confirmation; empty if it does not.
        idle_rules: a line for each rule of the policy that matches no checkpoint.
        is_callers: a caller's cleanup instead of a policy's; it may remove the current
            checkpoint.
        as_of: the time that ages were counted from.
    """

    job_id: str
    policy: Policy
    head_seq: int
    head_hash: str
    keep: tuple[Verdict, ...]
    remove: tuple[Verdict, ...]
    waits: tuple[str, ...] = ()
    is_callers: bool = False
    idle_rules: tuple[str, ...] = ()
    as_of: datetime | None = None


class CleanedJob(NamedTuple):
    """How many checkpoints of a job a plan removed, and how many it kept."""

    job_id: str
    removed: int
    kept: int


class Applied(int):
    """The number of removed checkpoints, by job, with the skipped jobs.

    Attributes:
        jobs: the jobs that were cleaned.
        skipped: jobs that were skipped, with errors; most often `StalePlan`.
    """

    jobs: tuple[CleanedJob, ...]
    skipped: tuple[tuple[str, ErrorInfo], ...]

    def __new__(
        cls, jobs: Iterable[CleanedJob], skipped: Iterable[tuple[str, ErrorInfo]] = ()
    ) -> Self:
        """Return the number of removals as an `int` with the jobs attached."""
        jobs = tuple(jobs)
        made = super().__new__(cls, sum(job.removed for job in jobs))
        made.jobs, made.skipped = jobs, tuple(skipped)
        return made


class Plan(NamedTuple):
    """The effect of policies on a set of jobs.

    Attributes:
        plan_id: digest of jobs, policies and removals: plans that would do the same
            have the same id, in every process.
        jobs: the requested job; if many were requested, those with removals.
        problems: jobs that could not be planned, with errors.
        as_of: the time that ages were counted from.
    """

    plan_id: str
    jobs: tuple[JobPlan, ...]
    problems: tuple[tuple[str, ErrorInfo], ...] = ()
    as_of: datetime | None = None

    @property
    def keep(self) -> tuple[Verdict, ...]:
        """All kept checkpoints, job by job, newest first."""
        return tuple(chain.from_iterable(job.keep for job in self.jobs))

    @property
    def remove(self) -> tuple[Verdict, ...]:
        """All removed checkpoints, job by job, newest first."""
        return tuple(chain.from_iterable(job.remove for job in self.jobs))

    @property
    def waits(self) -> tuple[str, ...]:
        """Why the plan requires confirmation, each reason with its job."""
        return tuple(
            f"job {job.job_id!r}: {why}" for job in self.jobs for why in job.waits
        )


def glob_only(glob: str, job: Callable[[str], object]) -> str:
    """Return a glob that matches the same jobs and is not a job's id.

    `CheckpointManager.plan` treats an existing job's id as that job alone, and a job
    may have the id ``*``.

    Args:
        glob: the original glob.
        job: returns None if there is no job with this id.
    """
    while "*" in glob and job(glob) is not None:
        glob = glob.replace("*", "**", 1)
    return glob


def plan_of(
    jobs: Iterable[JobPlan],
    problems: Iterable[tuple[str, ErrorInfo]] = (),
    as_of: datetime | None = None,
) -> Plan:
    """Return the plan for `jobs`, with its id."""
    jobs = tuple(jobs)
    if as_of is None and jobs:
        as_of = jobs[0].as_of
    return Plan(plan_id(jobs), jobs, tuple(problems), as_of)


def apply_or_plan_again(
    plan: Plan, apply: Callable[[Plan], int], plan_again: Callable[[], Plan]
) -> int:
    """Apply `plan`; if it is stale, plan once more and apply that plan.

    A save in between is normal for a running job.

    Raises:
        StalePlan: the second plan is stale too.
        MilepostError: `apply` or `plan_again` failed.
    """
    try:
        return apply(plan)
    except StalePlan:
        again = plan_again()
        return apply(again) if again.remove else 0


def plan_id(jobs: Iterable[JobPlan]) -> str:
    """Return the id of a plan: 16 hex digits that depend on all that it would do."""
    would_do = [
        [
            job.job_id,
            describe(job.policy),
            sorted(verdict.checkpoint_id for verdict in job.remove),
            *(["cleanup"] if job.is_callers else ()),
        ]
        for job in jobs
    ]
    return _digest(orjson.dumps(would_do), _ID_DIGITS)


def shown_id(plan: Plan) -> str:
    """Return the id of `plan` for a client that sends it back; see `as_shown`.

    It begins with the plan's own id.  If the plan is about several jobs, a digest of
    each job's part follows: a server that plans again finds the jobs that changed.
    """
    if len(plan.jobs) == 1:
        return plan.plan_id
    return "-".join([plan.plan_id, *(_name(j.job_id) + _part(j) for j in plan.jobs)])


def own_id(shown: str) -> str:
    """Return the plan's own id from its `shown_id`."""
    return shown[:_ID_DIGITS]


def as_shown(
    again: Plan, shown: str, job_ids: Callable[[], Iterable[str]]
) -> tuple[Plan, list[str]]:
    """Return the part of a plan that is as shown, and the jobs whose part is not.

    Args:
        again: the plan for the same jobs and policy, made again.
        shown: the `shown_id` of the plan that a client confirmed.
        job_ids: returns all jobs of the store; the id contains digests of names.

    Raises:
        StalePlan: the plan differs, and its id does not show in which of the jobs.
    """
    own, *parts = shown.split("-")
    if again.plan_id == own:
        return again, []
    wanted = {part[:_NAME_DIGITS]: part[_NAME_DIGITS:] for part in parts}
    same = [job for job in again.jobs if wanted.get(_name(job.job_id)) == _part(job)]
    known = {job.job_id for job in same}
    changed = [j for j in job_ids() if _name(j) in wanted and j not in known]
    if not same and not changed:
        raise StalePlan(
            f"plan {own!r:.60} is stale, nothing was removed: the plan is now "
            f"{again.plan_id}"
        )
    return plan_of(same, again.problems, again.as_of), changed


def check_as_of(as_of: datetime, now: datetime) -> None:
    """Refuse to apply a plan that is made again as of a time out of bounds.

    Raises:
        InvalidArgument: the time is in the future.
        StalePlan: it is more than an hour ago.
    """
    if as_of > now:
        raise InvalidArgument(
            f"as_of {stamp(as_of)} is in the future: it is {stamp(now)} now"
        )
    if now - as_of > MAX_AGE:
        raise StalePlan(
            f"the plan as of {stamp(as_of)} is more than an hour old: it is "
            f"{stamp(now)} now"
        )


def _name(job_id: str) -> str:
    return _digest(job_id.encode(), _NAME_DIGITS)


def _part(job: JobPlan) -> str:
    return plan_id([job])[:_NAME_DIGITS]


def _digest(data: bytes, digits: int) -> str:
    return hashlib.sha256(data).hexdigest()[:digits]
