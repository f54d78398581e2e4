"""Checkpoints that triggers save.  Pure; see `executions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.clock import stamp
from milepost.journal.commands import saving
from milepost.journal.commands.executions import execution_of
from milepost.journal.errors import LeaseLost

if TYPE_CHECKING:
    from datetime import timedelta

    from milepost.journal.batch import Batch
    from milepost.journal.commands.saving import Draft, IsSavedAs, Saved
    from milepost.journal.states.packer import Packer

TAG = "auto"


class Keep(NamedTuple):
    """How many checkpoints of a trigger stay, and how long the others are trash."""

    trigger: str
    last: int
    trash: timedelta


def save(
    batch: Batch,
    draft: Draft,
    packer: Packer,
    is_saved_as: IsSavedAs,
    keep: Keep,
    *,
    execution_id: str,
    attempt: int | None,
    actor: str,
) -> Saved:
    """Add a checkpoint of a trigger, and remove older ones of the same trigger.

    Args:
        batch: the write.
        draft: the checkpoint.
        packer: encodes states.
        is_saved_as: never asked, because the draft has no key.
        keep: which older ones are removed: none that is current, pinned, held or
            needed.
        execution_id: the execution that the trigger was fired by.
        attempt: the attempt whose state becomes current; None if it is aside.
        actor: who saves it.

    Raises:
        LeaseLost: a later attempt has begun, whose checkpoint must stay current (I8).
        UnknownExecution: the execution was removed meanwhile.
        KeyNeeded, DroppedKey: no state may be written with the configured key.
    """
    execution = execution_of(batch.view, execution_id)
    if attempt is not None and attempt < execution.attempt:
        now = f"attempt {execution.attempt} has begun"
        raise LeaseLost(execution_id, attempt, now)
    saved = saving.save(
        batch, draft, packer, is_saved_as, actor=actor, expected_seq=None
    )
    _remove_older(batch, keep, actor)
    return saved


def _remove_older(batch: Batch, keep: Keep, actor: str) -> None:
    view = batch.view
    made = [e for e in view.checkpoints.after(0) if e.labels.trigger == keep.trigger]
    shielded = {*view.pinned, *view.held, *view.workflows.needed()}
    reason = f"trigger {keep.trigger} keeps its last {keep.last}"
    removed = {
        entry.checkpoint_id: reason
        for entry in made[: max(0, len(made) + 1 - keep.last)]
        if entry.checkpoint_id not in shielded and entry.seq != batch.current
    }
    if not removed:
        return
    data: dict[str, object] = {
        "removed": removed,
        "kept": len(view.checkpoints) + 1 - len(removed),
        "policy": {"trigger": keep.trigger, "keep_last": keep.last},
        "trash_until": stamp(batch.now + keep.trash),
    }
    batch.remove("checkpoints.cleaned", actor, data, removed)


def failed(batch: Batch, data: dict[str, object], *, actor: str) -> None:
    """Record that an automatic checkpoint could not be saved."""
    batch.add("trigger.failed", actor, data)
