"""`milepost erase`: erase every state of a job for good."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command, reason_option
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer
from milepost.api.cli.targets import Target, job_argument, require_job
from milepost.api.fields.checkpoints import compaction_fields
from milepost.journal.wording import counted


@command("erase", example="milepost erase etl-daily --yes --reason 'customer left'")
@job_argument
@reason_option
@click.option("--yes", is_flag=True, help="Confirm; this can't be undone.")
def erase_command(frame: Frame, job: str, reason: str | None, *, yes: bool) -> Answer:
    """Erase every state of a job, immediately and permanently.

    The events are kept: what was saved, when, by whom, and that it was erased.
    """
    with frame.open_to_write() as manager:
        require_job(manager, Target(job, None))
        if not yes:
            live = counted(len(manager.list(job)), "checkpoint")
            msg = f"would erase {live} of job {job!r} for good"
            raise Failure("usage", msg, "add --yes to confirm")
        found = manager.erase(job, reason=reason)
    if found is None:
        msg = f"no job {job!r} in {manager.root}"
        raise Failure("not_found", msg)
    states, size = counted(found.dropped, "state"), counted(found.bytes_freed, "byte")
    note = f"erased job {job}: {states}, {size}"
    return Answer(compaction_fields(found), None, (note,))
