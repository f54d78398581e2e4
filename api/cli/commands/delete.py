"""`milepost delete`: delete one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import (
    Frame,
    command,
    expect_seq_option,
    reason_option,
)
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import Target, target_argument

if TYPE_CHECKING:
    from milepost.journal.models import CheckpointInfo


@command("delete", example="milepost delete etl-daily@first --reason 'wrong input'")
@target_argument(needs_selector=True)
@reason_option
@click.option("--force", is_flag=True, help="Delete it even if it is pinned.")
@click.option("--purge", is_flag=True, help="Erase its state at once; no undelete.")
@click.option("--dry-run", is_flag=True, help="Show the result, delete nothing.")
@expect_seq_option
def delete_command(
    frame: Frame,
    target: Target,
    reason: str | None,
    expect_seq: int | None,
    *,
    force: bool,
    purge: bool,
    dry_run: bool,
) -> Answer:
    """Delete one checkpoint.

    It can be undeleted until its trash period ends.  The journal records who
    deleted it, and why.  A held checkpoint can't be deleted.
    """
    with frame.open_to_write() as manager:
        info = resolve(manager, target)
        if dry_run:
            _refuse_protected(info, force=force)
        if not dry_run and not manager.delete(
            info.job_id,
            info.checkpoint_id,
            reason=reason,
            force=force,
            purge=purge,
            expected_seq=expect_seq,
        ):
            # Another process deleted it after `resolve`.
            raise Failure(
                "not_found",
                f"checkpoint {info.checkpoint_id!r} was deleted concurrently",
            )
    data = {
        "job_id": info.job_id,
        "checkpoint_id": info.checkpoint_id,
        "deleted": not dry_run,
        "purged": purge and not dry_run,
    }
    word = "purge" if purge else "delete"
    done = f"would {word}" if dry_run else f"{word}d"
    return Answer(data, None, (f"{done} {info.checkpoint_id} of job {info.job_id}",))


def _refuse_protected(info: CheckpointInfo, *, force: bool) -> None:
    """Refuse a checkpoint that `delete` would refuse.

    Raises:
        OnHold: it is held.
        Failure: protected, if it is pinned.
    """
    from milepost.journal.errors import OnHold

    if (hold := info.held) is not None:
        raise OnHold(
            info.checkpoint_id,
            held_by=hold.actor,
            held_since=hold.since,
            reason=hold.reason,
        )
    if info.pinned and not force:
        msg = f"{info.checkpoint_id} of job {info.job_id!r} is pinned"
        raise Failure("protected", msg, "--force deletes it anyway")
