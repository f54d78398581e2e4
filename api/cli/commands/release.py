"""`milepost release`: end the legal hold on a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.api.cli.marks import mark_command

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager


@mark_command(
    "release",
    mark="held",
    done="released",
    example="milepost release etl-daily@latest",
)
def release_command(
    manager: CheckpointManager, job_id: str, checkpoint_id: str, reason: str | None
) -> bool:
    """End the legal hold on a checkpoint."""
    return manager.release(job_id, checkpoint_id, reason=reason)
