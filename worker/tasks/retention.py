"""Retention: removing what each job's policy lets go."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from journal.errors import ApprovalNeeded, StalePlan
from worker.report import RunReport, Tally
from worker.tasks.task import Run, Task
from worker.tasks.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from journal import CheckpointManager, JobInfo, Plan

ACTOR = "worker:retention"

log = logging.getLogger("milepost.worker")


def _run(run: Run) -> RunReport:
    """Remove at most `retention.max_per_run` checkpoints."""
    tally = Tally(("removed", "kept_by_dry_run", "waiting_for_approval"))
    bound = run.settings.retention.max_per_run

    def visit(info: JobInfo) -> None:
        _clean(run, info, tally, limit=bound - tally.counts["removed"])

    return walk(
        run,
        RETENTION.name,
        tally,
        visit,
        is_spent=lambda: tally.counts["removed"] >= bound,
    )


def _clean(run: Run, info: JobInfo, tally: Tally, *, limit: int) -> None:
    """Apply the policy of one job, and count what became of it.

    Raises:
        MilepostError: the job can't be read or written, or moved twice meanwhile.
    """
    found = run.settings.retention.effective(
        info.job_id, is_completed=info.completed_at is not None
    )
    policy = found.policy
    if not policy.removes or info.checkpoints <= policy.min_keep:
        return
    make = partial(run.manager.plan, info.job_id, policy, now=run.now, limit=limit)
    plan = make()
    if found.is_dry:
        tally.add(kept_by_dry_run=len(plan.remove))
        return
    try:
        removed = _apply(run.manager, plan, make)
    except ApprovalNeeded as exc:
        log.warning("retention of %r waits: %s", info.job_id, exc)
        tally.add(waiting_for_approval=1)
        return
    tally.add(removed=removed)
    if removed:
        tally.removed_by_job[info.job_id] = removed


def _apply(
    manager: CheckpointManager, plan: Plan, plan_again: Callable[[], Plan]
) -> int:
    if not plan.remove:
        return 0
    try:
        return manager.apply(plan, actor=ACTOR)
    except StalePlan:
        # Somebody saved in between, which is normal for a live job.  Twice in a row
        # is a busy one; its next chance is the next run.
        plan = plan_again()
        return manager.apply(plan, actor=ACTOR) if plan.remove else 0


RETENTION = Task("retention", "cleanup", _run, counts_ages=True)
