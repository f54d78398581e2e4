"""What the worker does to a store: the retention pass, which also frees disk space."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from journal.errors import (
    ApprovalNeeded,
    Conflict,
    DamagedJournal,
    MilepostError,
    StalePlan,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from threading import Event

    from journal import CheckpointManager, JobInfo
    from worker.last_runs import Outcome
    from worker.settings import RetentionSettings

ACTOR = "worker:retention"
MAX_PROBLEMS = 100

log = logging.getLogger("milepost.worker")


class JobProblem(NamedTuple):
    """A job that a pass had to leave out, and why."""

    job_id: str
    code: str
    message: str


class RunReport(NamedTuple):
    """What one retention pass did.

    Attributes:
        started_at: the pass's "now"; every age was counted from here.
        jobs: how many jobs it looked at.
        removed: how many checkpoints it removed, `removed_by_job` of which jobs.
        freed_bytes: how much shorter journals are without removed states.
        failed: how many jobs raised; damaged ones are counted in `damaged` instead.
        problems: the first hundred of both.
        resume_after: set if `max_per_run` ended the pass: the job it ended with.
        is_complete: False if it was asked to stop before it was through.
    """

    started_at: datetime
    jobs: int
    removed: int
    removed_by_job: dict[str, int]
    freed_bytes: int
    failed: int
    damaged: int
    problems: tuple[JobProblem, ...]
    resume_after: str | None
    is_complete: bool

    @property
    def outcome(self) -> Outcome:
        """The report in one word."""
        if not self.is_complete:
            return "stopped"
        return "partly" if self.failed or self.damaged else "ok"

    @property
    def line(self) -> str:
        """The report in one line."""
        text = f"retention {self.outcome}: {self.removed} removed, {self.jobs} jobs"
        if self.freed_bytes:
            text += f", {self.freed_bytes} bytes freed"
        if self.resume_after is not None:
            text += ", more to remove next time"
        if self.problems:
            first = self.problems[0]
            text += (
                f"; {self.failed} failed, {self.damaged} damaged,"
                f" first {first.job_id!r}: {first.message}"
            )
        return text


class _Tally:
    """Counts of a pass that is under way."""

    def __init__(self) -> None:
        self.jobs = self.removed = self.failed = self.damaged = self.freed_bytes = 0
        self.removed_by_job: dict[str, int] = {}
        self.problems: list[JobProblem] = []

    def count(self, job_id: str, removed: int) -> None:
        if removed:
            self.removed += removed
            self.removed_by_job[job_id] = removed

    def leave_out(self, job_id: str, error: Exception) -> None:
        if isinstance(error, DamagedJournal):
            self.damaged += 1
        else:
            self.failed += 1
        if len(self.problems) < MAX_PROBLEMS:
            code = getattr(error, "code", "error")
            message = str(error) or type(error).__name__
            self.problems.append(JobProblem(job_id, code, message))


def retention_pass(
    manager: CheckpointManager,
    retention: RetentionSettings,
    *,
    now: datetime,
    stop: Event,
    resume_after: str | None = None,
) -> RunReport:
    """Remove what each job's policy lets go, at most `max_per_run` checkpoints.

    What one job raises is reported and never keeps another from its turn (I10).  The
    jobs are taken in order from the first one after `resume_after`, so that a job with
    more to remove than fits into a run does not starve those behind it.  `stop` is
    looked at between jobs.

    Raises:
        MilepostError: the jobs can't even be listed.
    """
    tally = _Tally()
    last = None
    for info in _from(manager.jobs(), resume_after):
        if stop.is_set():
            return _report(tally, now, resume_after, is_complete=False)
        left = retention.max_per_run - tally.removed
        if left <= 0:
            return _report(tally, now, last, is_complete=True)
        last = info.job_id
        tally.jobs += 1
        try:
            removed = _clean(manager, info, retention, now=now, limit=left)
            tally.count(info.job_id, removed)
            tally.freed_bytes += _compact(manager, info.job_id, retention)
        except MilepostError as exc:
            tally.leave_out(info.job_id, exc)
        except Exception as exc:
            # Ours or the machine's fault, and worth a traceback; but the next job
            # must not pay for it.
            log.exception("retention of %r raised", info.job_id)
            tally.leave_out(info.job_id, exc)
    return _report(tally, now, None, is_complete=True)


def _from(jobs: Sequence[JobInfo], resume_after: str | None) -> list[JobInfo]:
    if resume_after is None:
        return list(jobs)
    first = [job for job in jobs if job.job_id > resume_after]
    return first + [job for job in jobs if job.job_id <= resume_after]


def _clean(
    manager: CheckpointManager,
    info: JobInfo,
    retention: RetentionSettings,
    *,
    now: datetime,
    limit: int,
) -> int:
    """Apply the policy of one job; return how many checkpoints went.

    Raises:
        MilepostError: the job can't be read or written, or moved twice meanwhile.
    """
    if info.damage is not None:
        raise info.damage
    found = retention.effective(info.job_id, is_completed=info.completed_at is not None)
    policy = found.policy
    if not policy.removes or info.checkpoints <= policy.min_keep or found.is_dry:
        return 0
    plan = manager.plan(info.job_id, policy, now=now, limit=limit)
    if not plan.remove:
        return 0
    try:
        return manager.apply(plan, actor=ACTOR)
    except ApprovalNeeded as exc:
        log.warning("retention of %r waits: %s", info.job_id, exc)
        return 0
    except StalePlan:
        # Somebody saved in between, which is normal for a live job.  Twice in a row
        # is a busy one; its next chance is the next pass.
        plan = manager.plan(info.job_id, policy, now=now, limit=limit)
        return manager.apply(plan, actor=ACTOR) if plan.remove else 0


def _compact(
    manager: CheckpointManager, job_id: str, retention: RetentionSettings
) -> int:
    """Take states that have to go off the disk, if they are enough; bytes freed."""
    try:
        done = manager.compact(job_id, actor=ACTOR, threshold=retention.compaction)
    except Conflict:
        return 0  # somebody else is at it
    return 0 if done is None else done.bytes_freed


def _report(
    tally: _Tally, now: datetime, resume_after: str | None, *, is_complete: bool
) -> RunReport:
    return RunReport(
        started_at=now,
        jobs=tally.jobs,
        removed=tally.removed,
        removed_by_job=tally.removed_by_job,
        freed_bytes=tally.freed_bytes,
        failed=tally.failed,
        damaged=tally.damaged,
        problems=tuple(tally.problems),
        resume_after=resume_after,
        is_complete=is_complete,
    )
