"""`milepost fork`: start a new job from a checkpoint of another job."""

from __future__ import annotations

from milepost.api.cli.context import Frame, command
from milepost.api.cli.results import Answer
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import Target, target_argument


@command("fork", example="milepost fork etl-daily@first etl-daily-retry")
@target_argument(before="new_job")
def fork_command(frame: Frame, target: Target, new_job: str) -> Answer:
    """Start a new job from a checkpoint of another job.

    SELECTOR defaults to the current one.  Prints the id of NEW_JOB's first
    checkpoint.
    """
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        checkpoint_id = manager.fork(info.job_id, info.checkpoint_id, new_job)
    note = f"job {new_job} starts from {info.checkpoint_id} of job {info.job_id}"
    data = {
        "job_id": new_job,
        "checkpoint_id": checkpoint_id,
        "forked_from": {"job_id": info.job_id, "checkpoint_id": info.checkpoint_id},
    }
    return Answer(data, checkpoint_id, (note,))
