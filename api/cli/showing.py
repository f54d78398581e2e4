"""The verb that looks into a checkpoint: show."""

from __future__ import annotations

import click

from api.cli.answers import Answer, Document
from api.cli.fields import checkpoint_fields
from api.cli.frame import Frame, verb
from api.cli.paths import value_at
from api.cli.selectors import resolve
from api.cli.targets import Target, target_argument


@verb(
    "show",
    example="milepost show etl-daily@latest --path totals.rows\n"
    "milepost show etl-daily@tag:prod --json",
)
@target_argument()
@click.option("--path", metavar="a.b[0]", help="Only this value of the state.")
def show_verb(frame: Frame, target: Target, path: str | None) -> Answer:
    """Print a checkpoint's state.

    The current one's, without SELECTOR: the one that a resumed job continues from.
    Nothing is journaled and nothing changes; to go on from a checkpoint, restore it.
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
    return Answer(data, Document(value), (note,))
