"""`milepost jobs`: list the jobs of the store."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.fields.checkpoints import job_fields

_COLUMNS = (
    "job_id",
    "checkpoints",
    "seq",
    "last_activity",
    "current_checkpoint_id",
    "size_bytes",
    "completed_at",
    "failed",
    "reason",
    "damage",
)
_QUIET = frozenset({"completed_at", "failed", "reason", "damage"})
_SPARE = frozenset({"size_bytes"})


@command("jobs", example="milepost jobs --match 'etl-*'")
@click.option("--match", metavar="GLOB", help="Only jobs whose id matches.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Show at most N jobs."
)
@fail_if_empty_option
def jobs_command(
    frame: Frame, match: str | None, limit: int | None, *, fail_if_empty: bool
) -> Answer:
    """List jobs, damaged ones included."""
    with frame.open() as manager:
        jobs = manager.jobs(match=match, limit=limit)
    rows = (
        (
            job.job_id,
            job.checkpoints,
            job.seq,
            job.last_activity,
            job.current_id,
            job.size_bytes,
            job.completed_at,
            job.failed,
            job.reason,
            job.damage and job.damage.code,
        )
        for job in jobs
    )
    answer = Answer(
        {"jobs": [job_fields(job) for job in jobs], "total": len(jobs)},
        Table(_COLUMNS, rows, _SPARE, _QUIET),
        tuple(str(job.damage) for job in jobs if job.damage),
    )
    nothing = "no job matches" if match else "no jobs yet"
    return or_nothing(
        answer, if_empty=None if jobs else nothing, is_failure=fail_if_empty
    )
