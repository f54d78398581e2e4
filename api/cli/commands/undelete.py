"""`milepost undelete`: bring a checkpoint back from the trash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.api.cli.context import Frame, command
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer
from milepost.api.cli.selectors import AtSeq, WithId, parse_selector
from milepost.api.cli.targets import Target, require_job, target_argument

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager


@command("undelete", example="milepost undelete etl-daily@3")
@target_argument(needs_selector=True)
def undelete_command(frame: Frame, target: Target) -> Answer:
    """Bring a checkpoint back from the trash.  SELECTOR is its id or its seq."""
    with frame.open_to_write() as manager:
        require_job(manager, target)
        checkpoint_id = _deleted_id(manager, target)
        is_back = manager.undelete(target.job_id, checkpoint_id)
        if not is_back:
            # Not in the trash: `get` raises unless the checkpoint is live.
            manager.get(target.job_id, checkpoint_id)
    data = {
        "job_id": target.job_id,
        "checkpoint_id": checkpoint_id,
        "changed": is_back,
    }
    done = "is back in" if is_back else "was not deleted from"
    return Answer(data, None, (f"{checkpoint_id} {done} job {target.job_id}",))


def _deleted_id(manager: CheckpointManager, target: Target) -> str:
    """Return the id of a deleted checkpoint.

    Raises:
        Failure: usage or not_found.
    """
    assert target.selector is not None
    match parse_selector(target.selector):
        case WithId(checkpoint_id):
            return checkpoint_id
        case AtSeq(seq):
            events = manager.history(
                target.job_id, after_seq=seq - 1, types={"checkpoint.saved"}, limit=1
            )
            for event in events:
                if event["type"] == "checkpoint.saved" and event["seq"] == seq:
                    return event["data"]["checkpoint_id"]
            msg = f"event {seq} of job {target.job_id!r} saved no checkpoint"
            raise Failure("not_found", msg, "`milepost log` shows what was deleted")
        case _:
            msg = f"@{target.selector} selects a live checkpoint"
            raise Failure("usage", msg, "use an id or a seq")
