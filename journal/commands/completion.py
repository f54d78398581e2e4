"""Complete a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.commands.reason import with_reason
from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats

if TYPE_CHECKING:
    from milepost.journal.batch import Batch


@answers_repeats(True)
def complete(
    batch: Batch,
    *,
    failed: bool,
    reason: str | None,
    actor: str,
    expected_seq: int | None,
    request: Request = NO_KEY,
) -> bool:
    """Mark the job as completed; a repeat of a request changes nothing.

    Raises:
        Conflict: `expected_seq` is stale.
        InvalidArgument: the reason is out of bounds.
    """
    batch.check_seq(expected_seq)
    data: dict[str, object] = {"failed": True} if failed else {}
    batch.add("job.completed", actor, request.recorded(with_reason(data, reason)))
    return True
