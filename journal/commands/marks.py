"""Pins and legal holds, which protect checkpoints from removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from milepost.journal.clock import stamped
from milepost.journal.commands.reason import with_reason
from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats
from milepost.journal.errors import OnHold
from milepost.journal.reading.reader import entry_of

if TYPE_CHECKING:
    from milepost.journal.batch import Batch
    from milepost.journal.index.job_view import JobView

Verb = Literal["pin", "unpin", "hold", "release"]


class _Mark(NamedTuple):
    """The event of a verb, the attribute of `JobView` that it changes, and how."""

    event: str
    marked: Literal["pinned", "held"]
    adds: bool


_MARKS: dict[Verb, _Mark] = {
    "pin": _Mark("checkpoint.pinned", "pinned", adds=True),
    "unpin": _Mark("checkpoint.unpinned", "pinned", adds=False),
    "hold": _Mark("checkpoint.held", "held", adds=True),
    "release": _Mark("checkpoint.released", "held", adds=False),
}


@answers_repeats(True)
def mark(
    batch: Batch,
    verb: Verb,
    checkpoint_id: str,
    *,
    actor: str,
    reason: str | None,
    expected_seq: int | None,
    request: Request = NO_KEY,
) -> bool:
    """Pin, unpin, hold or release a checkpoint; return False if nothing changes.

    A repeat of a request changes nothing and returns True.

    Raises:
        UnknownCheckpoint: it does not exist, or was deleted.
        Conflict: `expected_seq` is stale.
        InvalidArgument: the reason is out of bounds.
    """
    event, marked, adds = _MARKS[verb]
    refuse_unknown(batch.view, verb, checkpoint_id)
    batch.check_seq(expected_seq)
    if (checkpoint_id in getattr(batch.view, marked)) == adds:
        return False
    data = with_reason({"checkpoint_id": checkpoint_id}, reason)
    batch.add(event, actor, request.recorded(data))
    return True


def refuse_unknown(view: JobView, verb: Verb, checkpoint_id: str) -> None:
    """Refuse to mark a checkpoint that does not exist.

    Raises:
        UnknownCheckpoint: it does not exist, or was deleted.
    """
    # A version without holds may have deleted it; it can still be released.
    if verb != "release" or checkpoint_id not in view.held:
        entry_of(view, checkpoint_id)


def refuse_held(view: JobView, checkpoint_id: str) -> None:
    """Refuse to remove a held checkpoint.

    Raises:
        OnHold: it is held.
    """
    if (held := view.held.get(checkpoint_id)) is not None:
        raise OnHold(
            checkpoint_id,
            held_by=held.actor,
            held_since=stamped(held.at),
            reason=held.reason,
        )
