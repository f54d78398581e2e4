"""What policies would do to jobs: a value to show, to confirm and to apply."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

import orjson

from milepost.journal.retention.policy import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from milepost.journal.models import ErrorInfo
    from milepost.journal.retention.decisions import Verdict
    from milepost.journal.retention.policy import Policy


class JobPlan(NamedTuple):
    """What a policy would do to one job, as of one event of it.

    Attributes:
        head_seq: the job's last event when it was planned.
        head_hash: that event's hash.
        waits: why it requires confirmation; empty if it does not.
        idle_rules: the rules of the policy that match no checkpoint, each with why.
        is_callers: it is a caller's cleanup, not a policy's, and may remove the current
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
    """How many checkpoints a plan removed, and which of its jobs were skipped.

    Attributes:
        skipped: these jobs, and why: most often they moved on (`StalePlan`).
    """

    skipped: tuple[tuple[str, ErrorInfo], ...]

    def __new__(
        cls, removed: int, skipped: Iterable[tuple[str, ErrorInfo]] = ()
    ) -> Self:
        """Return `removed` as an `int` that also says what was skipped."""
        made = super().__new__(cls, removed)
        made.skipped = tuple(skipped)
        return made


class Plan(NamedTuple):
    """What policies would do to the jobs that were asked about.

    Attributes:
        plan_id: hash of policies, heads and removals: the same plan has the same id.
        jobs: one job that was asked for by its id; of many, those that lose something.
        problems: the jobs that could not be planned, and why.
    """

    plan_id: str
    jobs: tuple[JobPlan, ...]
    problems: tuple[tuple[str, ErrorInfo], ...] = ()

    @property
    def keep(self) -> tuple[Verdict, ...]:
        """All that stays in `jobs`, job by job, newest first."""
        return tuple(chain.from_iterable(job.keep for job in self.jobs))

    @property
    def remove(self) -> tuple[Verdict, ...]:
        """All that goes, job by job, newest first."""
        return tuple(chain.from_iterable(job.remove for job in self.jobs))

    @property
    def waits(self) -> tuple[str, ...]:
        """Why it requires confirmation, each reason with its job."""
        return tuple(
            f"job {job.job_id!r}: {why}" for job in self.jobs for why in job.waits
        )


def glob_only(glob: str, job: Callable[[str], object]) -> str:
    """Return a glob that fits the same jobs and is no job's id.

    `CheckpointManager.plan` takes a job's id for that job alone, and a job may well be
    called ``*``.

    Args:
        glob: which jobs are meant.
        job: returns something about a job, None if there is none of that id.
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


def plan_id(jobs: Iterable[JobPlan]) -> str:
    """Return the id of a plan: 16 hex digits that change with anything it rests on."""
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
