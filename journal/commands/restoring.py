"""Record a restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats
from milepost.journal.reading.reader import entry_of

if TYPE_CHECKING:
    from milepost.journal.batch import Batch
    from milepost.journal.states.migrations import Migrated


@answers_repeats(False)
def restore(
    batch: Batch,
    checkpoint_id: str,
    migrated: Migrated,
    *,
    actor: str,
    expected_seq: int | None,
    request: Request = NO_KEY,
) -> bool:
    """Make a checkpoint current, whose state was returned as `migrated`.

    A repeat of a request changes nothing and returns False.

    Raises:
        Conflict: `expected_seq` is stale.
        UnknownCheckpoint: it was deleted meanwhile.
    """
    batch.check_seq(expected_seq)
    entry_of(batch.view, checkpoint_id)
    data: dict[str, object] = {"checkpoint_id": checkpoint_id}
    if batch.view.current is not None:
        data["previous"] = batch.view.current.checkpoint_id
    if migrated.from_version is not None and migrated.to_version is not None:
        data["migrated_from"] = migrated.from_version
        data["migrated_to"] = migrated.to_version
    batch.add("checkpoint.restored", actor, request.recorded(data))
    return True
