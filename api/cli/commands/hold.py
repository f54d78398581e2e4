"""`milepost hold`: place a checkpoint on legal hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.api.cli.marks import mark_command

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager


@mark_command(
    "hold",
    mark="held",
    done="held",
    example="milepost hold etl-daily@latest --reason 'case 4711'",
)
def hold_command(
    manager: CheckpointManager, job_id: str, checkpoint_id: str, reason: str | None
) -> bool:
    """Place a legal hold on a checkpoint.

    No policy removes it and it can't be deleted, not even with --force, until
    it is released.  The journal records who placed the hold, and why.
    """
    return manager.hold(job_id, checkpoint_id, reason=reason)
