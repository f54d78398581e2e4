"""`milepost unpin`: end the protection of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.api.cli.marks import mark_command

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager


@mark_command(
    "unpin",
    mark="pinned",
    done="unpinned",
    example="milepost unpin etl-daily@latest",
)
def unpin_command(
    manager: CheckpointManager, job_id: str, checkpoint_id: str, reason: str | None
) -> bool:
    """End the protection of a checkpoint."""
    return manager.unpin(job_id, checkpoint_id, reason=reason)
