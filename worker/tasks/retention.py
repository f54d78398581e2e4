"""Retention: removing checkpoints by each job's policy."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal.errors import ConfirmationRequired, MilepostError
from milepost.journal.retention import decisions
from milepost.journal.retention.plans import apply_or_plan_again, glob_only, plan_of
from milepost.worker.schedule.report import Tally, TaskReport
from milepost.worker.tasks.task import Task, TaskContext
from milepost.worker.tasks.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.models import JobInfo
    from milepost.journal.retention.plans import Plan
    from milepost.journal.retention.policies import InForce

ACTOR = "worker:cleanup"
# The pause after a removal, relative to its duration.
REST_FACTOR = 0.5

log = logging.getLogger("milepost.worker")


def _run(run: TaskContext) -> TaskReport:
    """Remove at most `retention.max_per_run` checkpoints."""
    work = _Retention(run)
    report = walk(
        run, RETENTION.name, work.tally, work.clean, is_spent=lambda: work.left <= 0
    )
    if not report.is_complete or report.resume_after is not None:
        return report
    work.fit_the_budget()
    return work.tally.report(RETENTION.name, run.now, None)


class _Retention:
    """The state of one run: its limits and its counts."""

    def __init__(self, run: TaskContext) -> None:
        self._run = run
        self._settings = run.settings.retention
        self._waiting: set[str] = set()
        self.tally = Tally(("removed", "kept_by_dry_run", "waiting_for_confirmation"))

    @property
    def left(self) -> int:
        """The number of checkpoints that this run may still remove."""
        return self._settings.max_per_run - self.tally.counts["removed"]

    def clean(self, info: JobInfo) -> None:
        """Apply the policy of one job and count the result.

        Raises:
            MilepostError: the job can't be read or written, or changed twice meanwhile.
        """
        policy = self._effective(info).policy
        if not decisions.may_let_go(policy, info.checkpoints):
            return

        def make() -> Plan:
            return self._run.manager.plan(
                info.job_id, policy, now=self._run.now, limit=self.left
            )

        self._carry_out(info, make(), make)

    def fit_the_budget(self) -> None:
        """Remove the oldest checkpoints of all jobs until `max_store_bytes` is met.

        Runs after the jobs' policies were applied.  Shielded checkpoints are kept.
        """
        most = self._settings.max_store_bytes
        if most is None:
            return
        infos = {info.job_id: info for info in self._run.manager.jobs()}
        if sum(info.size_bytes for info in infos.values()) <= most:
            return
        plan = self._run.manager.plan(
            glob_only("*", infos.get),
            now=self._run.now,
            limit=self.left,
            max_bytes=most,
        )
        leave_it = partial(plan_of, ())  # one job's part depends on all jobs
        for job in plan.jobs:
            try:
                self._carry_out(infos[job.job_id], plan_of([job]), leave_it)
            except MilepostError as exc:
                self.tally.leave_out(job.job_id, exc)

    def _effective(self, info: JobInfo) -> InForce:
        is_completed = info.completed_at is not None
        return self._settings.effective(info.job_id, is_completed=is_completed)

    def _carry_out(
        self, info: JobInfo, plan: Plan, plan_again: Callable[[], Plan]
    ) -> None:
        if not plan.remove:
            return
        if self._effective(info).is_dry:
            self.tally.add(kept_by_dry_run=len(plan.remove))
            return
        began = self._run.steady()
        try:
            apply = partial(self._run.manager.apply, actor=ACTOR)
            removed = apply_or_plan_again(plan, apply, plan_again)
        except ConfirmationRequired as exc:
            log.warning("retention of %r needs confirmation: %s", info.job_id, exc)
            self.tally.add(waiting_for_confirmation=info.job_id not in self._waiting)
            self._waiting.add(info.job_id)
            return
        self.tally.add(removed=removed)
        for line in plan.jobs[0].idle_rules:
            log.warning("retention of %r: %s", info.job_id, line)
        by_job = self.tally.removed_by_job
        by_job[info.job_id] = by_job.get(info.job_id, 0) + removed
        # Retention is not urgent, and concurrent saves wait for the same disk.
        self._run.stop.wait(REST_FACTOR * (self._run.steady() - began))


RETENTION = Task("cleanup", _run, counts_ages=True)
