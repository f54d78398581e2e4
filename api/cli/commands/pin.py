"""`milepost pin`: protect a checkpoint from removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.api.cli.marks import mark_command

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager


@mark_command(
    "pin",
    mark="pinned",
    done="pinned",
    example="milepost pin etl-daily@latest --reason 'release 1.4'",
)
def pin_command(
    manager: CheckpointManager, job_id: str, checkpoint_id: str, reason: str | None
) -> bool:
    """Protect a checkpoint from removal.

    No policy removes it, and deleting it needs --force.
    """
    return manager.pin(job_id, checkpoint_id, reason=reason)
