"""The common part of pin, unpin, hold and release.

Each sets or clears one mark of a checkpoint, and reports whether that changed anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.api.cli.context import command, reason_option
from milepost.api.cli.results import Answer
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import target_argument

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    from milepost.api.cli.context import Frame
    from milepost.api.cli.targets import Target
    from milepost.journal.manager import CheckpointManager

    Mark = Callable[[CheckpointManager, str, str, str | None], bool]


def mark_command(
    name: str, *, mark: str, done: str, example: str
) -> Callable[[Mark], click.Command]:
    """Make a function the command `name`, which sets or clears a mark.

    The function gets the job's and the checkpoint's ids and the reason, and returns
    whether anything changed.  Its docstring is the help text.

    Args:
        name: the command as typed.
        mark: the field of the mark in `--json`.
        done: the past participle; equal to `mark` if the command sets the mark.
        example: a command line for `--help`.
    """

    def decorate(function: Mark) -> click.Command:
        def run(frame: Frame, target: Target, reason: str | None) -> Answer:
            with frame.open_to_write() as manager:
                info = resolve(manager, target)
                ids = info.job_id, info.checkpoint_id
                has_changed = function(manager, *ids, reason)
            data = {
                "job_id": info.job_id,
                "checkpoint_id": info.checkpoint_id,
                mark: done == mark,
                "changed": has_changed,
            }
            said = done if has_changed else f"was already {done}:"
            note = f"{said} {info.checkpoint_id} of job {info.job_id}"
            return Answer(data, None, (note,))

        run.__doc__ = function.__doc__
        with_arguments = target_argument(needs_selector=True)(reason_option(run))
        return command(name, example=example)(with_arguments)

    return decorate
