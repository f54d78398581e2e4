"""Visiting all jobs of a store; one that raises does not stop the others (I10)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from milepost.journal.errors import MilepostError
from milepost.worker.tasks.task import StopRequested

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milepost.journal.models import JobInfo
    from milepost.worker.schedule.report import Tally, TaskReport
    from milepost.worker.tasks.task import TaskContext

log = logging.getLogger("milepost.worker")


def walk(
    run: TaskContext,
    task: str,
    tally: Tally,
    visit: Callable[[JobInfo], object],
    *,
    is_spent: Callable[[], bool] = lambda: False,
) -> TaskReport:
    """Visit every job once, cyclically, from the first after `run.resume_after`.

    The rotation keeps an expensive job from starving the jobs after it.  A job that
    raises is counted in `tally`.  Ends early, between two jobs, when `is_spent`, over
    time or asked to stop; at least one job is visited unless a stop was requested.

    Raises:
        MilepostError: the jobs can't be listed.
    """
    jobs = _from(run.manager.jobs(), run.resume_after)
    run.progress.begin(task, len(jobs))
    done = run.resume_after
    for place, info in enumerate(jobs):
        if place and (is_spent() or run.is_over_time):
            return tally.report(task, run.now, done)
        if run.stop.is_set() or not _is_through(info, visit, tally):
            return tally.report(task, run.now, done, is_complete=False)
        done = info.job_id
        tally.jobs += 1
        run.progress.job()
    return tally.report(task, run.now, None)


def _from(jobs: Sequence[JobInfo], resume_after: str | None) -> list[JobInfo]:
    if resume_after is None:
        return list(jobs)
    first = [job for job in jobs if job.job_id > resume_after]
    return first + [job for job in jobs if job.job_id <= resume_after]


def _is_through(
    info: JobInfo, visit: Callable[[JobInfo], object], tally: Tally
) -> bool:
    """Visit one job; return False if the visit was stopped."""
    try:
        if info.damage is not None:
            tally.leave_out(info.job_id, info.damage)
        else:
            visit(info)
    except StopRequested:
        return False
    except MilepostError as exc:
        tally.leave_out(info.job_id, exc)
    except Exception as exc:
        # A bug or a system failure: log the traceback and go on with the next job.
        log.exception("unexpected error in job %r", info.job_id)
        tally.leave_out(info.job_id, exc)
    return True
