"""Retention plans: values to show, confirm and apply."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

import orjson

from milepost.journal.errors import StalePlan
from milepost.journal.retention.policy import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from milepost.journal.models import ErrorInfo
    from milepost.journal.retention.decisions import Verdict
    from milepost.journal.retention.policy import Policy


class JobPlan(NamedTuple):
    """The part of a plan that concerns one job, as of one of its events.

    Attributes:
        head_seq: the job's last event when the plan was made.
        head_hash: that event's hash.
        waits: why the plan requires confirmation; empty if it does not.
        idle_rules: a line for each rule of the policy that matches no checkpoint.
        is_callers: a caller's cleanup instead of a policy's; it may remove the current
            checkpoint.
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


class Applied(int):
    """The number of removed checkpoints, with the skipped jobs.

    Attributes:
        skipped: jobs that were skipped, with errors; most often `StalePlan`.
    """

    skipped: tuple[tuple[str, ErrorInfo], ...]

    def __new__(
        cls, removed: int, skipped: Iterable[tuple[str, ErrorInfo]] = ()
    ) -> Self:
        """Return `removed` as an `int` with the skipped jobs attached."""
        made = super().__new__(cls, removed)
        made.skipped = tuple(skipped)
        return made


class Plan(NamedTuple):
    """The effect of policies on a set of jobs.

    Attributes:
        plan_id: hash of policies, heads and removals: equal plans have equal ids.
        jobs: the requested job; if many were requested, those with removals.
        problems: jobs that could not be planned, with errors.
    """

    plan_id: str
    jobs: tuple[JobPlan, ...]
    problems: tuple[tuple[str, ErrorInfo], ...] = ()

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
    jobs: Iterable[JobPlan], problems: Iterable[tuple[str, ErrorInfo]] = ()
) -> Plan:
    """Return the plan for `jobs`, with its id."""
    jobs = tuple(jobs)
    return Plan(plan_id(jobs), jobs, tuple(problems))


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
    """Return the id of a plan: 16 hex digits that depend on all of its input."""
    rests_on = [
        [
            job.job_id,
            describe(job.policy),
            job.head_seq,
            job.head_hash,
            sorted(verdict.checkpoint_id for verdict in job.remove),
            *(["cleanup"] if job.is_callers else ()),
        ]
        for job in jobs
    ]
    return hashlib.sha256(orjson.dumps(rests_on)).hexdigest()[:16]
