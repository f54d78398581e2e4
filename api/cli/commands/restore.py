"""`milepost restore`: make a checkpoint current and print its state."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command, expect_seq_option
from milepost.api.cli.files import STDOUT, file_to_be
from milepost.api.cli.results import Answer, Document
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import Target, target_argument


@command(
    "restore",
    example="milepost restore etl-daily@latest -o state.json\n"
    "milepost restore etl-daily@first --dry-run",
)
@target_argument()
@click.option(
    "-o", "--output", metavar="FILE", help="Write the state to FILE, atomically."
)
@click.option("--dry-run", is_flag=True, help="Print the state, restore nothing.")
@expect_seq_option
def restore_command(
    frame: Frame,
    target: Target,
    output: str | None,
    expect_seq: int | None,
    *,
    dry_run: bool,
) -> Answer:
    """Make a checkpoint current and print its state.

    SELECTOR defaults to the current one.  The next save of the job becomes its child.
    Newer checkpoints are kept.  No job is started.
    """
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        state = manager.get(info.job_id, info.checkpoint_id).state
        with file_to_be(output, state):
            if not dry_run:
                manager.restore(
                    info.job_id, info.checkpoint_id, expected_seq=expect_seq
                )
    done = "would restore" if dry_run else "restored"
    note = f"{done} {info.checkpoint_id} (seq {info.seq}) of job {info.job_id}"
    data = {
        "job_id": info.job_id,
        "checkpoint_id": info.checkpoint_id,
        "job_status": "unchanged" if dry_run else "restored",
    }
    if output is not None and output != STDOUT:
        return Answer({**data, "output": output}, None, (f"{note} to {output}",))
    return Answer({**data, "state": state}, Document(state, is_exact=True), (note,))
