"""`milepost diff`: show how two states of a job differ."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer, Table, json_cell, or_nothing
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import complete_job, parse_target

_COLUMNS = ("op", "path", "before", "after")


@command(
    "diff",
    example="milepost diff etl-daily@first etl-daily@latest\n"
    "milepost diff etl-daily@-2 etl-daily",
)
@click.argument("old", metavar="JOB@SELECTOR", shell_complete=complete_job)
@click.argument("new", metavar="JOB[@SELECTOR]", shell_complete=complete_job)
@fail_if_empty_option
def diff_command(frame: Frame, old: str, new: str, *, fail_if_empty: bool) -> Answer:
    """Show the differences between two states.

    Both are checkpoints of one job; the second defaults to the current one.
    """
    one, other = parse_target(old), parse_target(new)
    if one.job_id != other.job_id:
        msg = (
            f"{one.job_id!r} and {other.job_id!r} are two jobs; a diff stays within one"
        )
        raise Failure("usage", msg)
    with frame.open() as manager:
        a = resolve(manager, one).checkpoint_id
        b = resolve(manager, other).checkpoint_id
        changes = manager.diff(one.job_id, a, b)
    answer = Answer(
        {
            "job_id": one.job_id,
            "before": a,
            "after": b,
            "changes": [change._asdict() for change in changes],
            "total": len(changes),
        },
        Table(
            _COLUMNS,
            (
                (
                    op,
                    path,
                    "" if op == "add" else json_cell(before),
                    "" if op == "remove" else json_cell(after),
                )
                for op, path, before, after in changes
            ),
        ),
    )
    return or_nothing(
        answer, if_empty=None if changes else "no changes", is_failure=fail_if_empty
    )
