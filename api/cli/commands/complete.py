"""`milepost complete`: mark a job as complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import Frame, command, expect_seq_option, reason_option
from milepost.api.cli.results import Answer
from milepost.api.cli.targets import Target, job_argument, require_job

if TYPE_CHECKING:
    from milepost.journal.models import JobInfo


@command(
    "complete", example="milepost complete etl-daily --reason 'all 12 files loaded'"
)
@job_argument
@click.option("--failed", is_flag=True, help="The job failed.")
@reason_option
@expect_seq_option
def complete_command(
    frame: Frame, job: str, reason: str | None, expect_seq: int | None, *, failed: bool
) -> Answer:
    """Mark a job as complete.

    Its policy for completed jobs then applies, if config.toml has one.
    A save or a restore reopens the job.
    """
    with frame.open_to_write() as manager:
        require_job(manager, Target(job, None))
        manager.complete(job, failed=failed, reason=reason, expected_seq=expect_seq)
        info: JobInfo | None = manager.job(job)
    completed_at = info and info.completed_at
    data = {"job_id": job, "completed_at": completed_at, "failed": failed}
    word = "failed" if failed else "complete"
    return Answer(data, None, (f"job {job} is {word}",))
