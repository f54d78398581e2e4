"""Complete a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.commands.reason import with_reason

if TYPE_CHECKING:
    from milepost.journal.store.batch import Batch


def complete(
    batch: Batch,
    *,
    failed: bool,
    reason: str | None,
    actor: str,
    expected_seq: int | None,
) -> bool:
    """Mark the job as completed.

    Raises:
        Conflict: `expected_seq` is stale.
        InvalidArgument: the reason is out of bounds.
    """
    batch.check_seq(expected_seq)
    data: dict[str, object] = {"failed": True} if failed else {}
    batch.add("job.completed", actor, with_reason(data, reason))
    return True
