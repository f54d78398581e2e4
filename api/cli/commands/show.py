"""`milepost show`: print the state of a checkpoint."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command
from milepost.api.cli.paths import value_at
from milepost.api.cli.results import Answer, Document, JsonLines
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import Target, target_argument
from milepost.api.fields.checkpoints import checkpoint_fields


@command(
    "show",
    example="milepost show etl-daily@latest --path totals.rows\n"
    "milepost show etl-daily@tag:prod --json",
)
@target_argument()
@click.option("--path", metavar="a.b[0]", help="Print only this value of the state.")
@click.option("--raw", is_flag=True, help="Print one line of plain JSON.")
def show_command(
    frame: Frame, target: Target, path: str | None, *, raw: bool
) -> Answer:
    """Print a checkpoint's state.

    SELECTOR defaults to the current one, which a resumed job continues from.  Nothing
    changes; to continue from another checkpoint, restore it.
    """
    with frame.open() as manager:
        found = resolve(manager, target)
        info, state = manager.get(found.job_id, found.checkpoint_id)
    if path is None:
        value = state
        data = {**checkpoint_fields(info), "state_snapshot": state}
    else:
        value = value_at(state, path)
        data = {**checkpoint_fields(info), "path": path, "value": value}
    note = (
        f"job {info.job_id}, seq {info.seq}, {info.checkpoint_id}, "
        f"step {info.step_name}, {info.timestamp}{', failed' * info.failed}"
    )
    if raw and not frame.as_json:
        return Answer(data, JsonLines([value]), (note,))
    return Answer(data, Document(value), (note,))
