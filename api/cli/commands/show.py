"""`milepost show`: print the state of a checkpoint."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.results import Answer, Document, JsonLines
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import Target, target_argument
from milepost.api.fields.checkpoints import checkpoint_fields


@command(
    "show",
    example="milepost show etl-daily@latest --raw | jq .totals.rows\n"
    "milepost show etl-daily@tag:prod --json",
)
@target_argument()
@click.option("--raw", is_flag=True, help="Print one line of plain JSON.")
def show_command(frame: Frame, target: Target, *, raw: bool) -> Answer:
    """Print a checkpoint's state.

    SELECTOR defaults to the current one, which a resumed job continues from.  Nothing
    changes; to continue from another checkpoint, restore it.
    """
    with frame.open() as manager:
        found = resolve(manager, target)
        info, state = manager.get(found.job_id, found.checkpoint_id)
    data = {**checkpoint_fields(info), "state_snapshot": state}
    note = (
        f"job {info.job_id}, seq {info.seq}, {info.checkpoint_id}, "
        f"step {info.step_name}, {info.timestamp}{', failed' * info.failed}"
    )
    if raw and not frame.as_json:
        return Answer(data, JsonLines([state]), (note,))
    return Answer(data, Document(state), (note,))
