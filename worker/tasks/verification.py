"""Verification: the event chains of all jobs, and the states of some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.worker.schedule.report import Tally, TaskReport
from milepost.worker.tasks.task import Task, TaskContext
from milepost.worker.tasks.walk import walk

if TYPE_CHECKING:
    from milepost.journal.models import JobInfo


def _run(run: TaskContext) -> TaskReport:
    """Verify all jobs, and every state of the first `worker.verify_deep` of journals.

    The next run starts after the last deeply verified job, so that successive runs read
    every state, and a time limit does not always skip the same jobs.
    """
    tally = Tally(("verified", "read_in_full"))
    budget = left = run.settings.worker.verify_deep_bytes
    deep_after = run.resume_after

    def visit(info: JobInfo) -> None:
        nonlocal left, deep_after
        is_deep = left > 0
        for found in run.manager.verify(
            info.job_id, deep=is_deep, on_piece=run.on_piece
        ):
            if found.problem is not None:
                tally.leave_out(info.job_id, found.problem)
            tally.add(verified=1, read_in_full=is_deep)
        if is_deep:
            left -= info.size_bytes
            deep_after = info.job_id

    report = walk(run, VERIFICATION.name, tally, visit)
    is_all = report.is_complete and report.resume_after is None and left > 0
    if is_all or not budget:
        return report
    return report._replace(resume_after=deep_after)


VERIFICATION = Task("verify", _run, counts_ages=False)
