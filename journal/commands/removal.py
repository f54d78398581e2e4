"""Delete a checkpoint, and undelete it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from milepost.journal.clock import stamp, stamped
from milepost.journal.commands.marks import refuse_held
from milepost.journal.commands.reason import with_reason
from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats
from milepost.journal.errors import Conflict, Protected, UnreadableState
from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.index.job_view import successor_of

if TYPE_CHECKING:
    from milepost.journal.batch import Batch
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView

    ProblemOf = Callable[[JobView, Entry], UnreadableState | None]


@answers_repeats(True)
def delete(
    batch: Batch,
    checkpoint_id: str,
    *,
    actor: str,
    reason: str | None,
    force: bool,
    purge: bool,
    expected_seq: int | None,
    request: Request = NO_KEY,
) -> bool:
    """Delete or purge a checkpoint; return False if there is none.

    A repeat of a request changes nothing and returns True.

    Raises:
        Conflict: `expected_seq` is stale.
        OnHold: it is held.
        Protected: it is pinned, or an execution needs it, and `force` was not given.
        InvalidArgument: the reason is out of bounds.
    """
    view = batch.view
    in_trash = purge and checkpoint_id in view.trash
    if checkpoint_id not in view.checkpoints and not in_trash:
        return False
    batch.check_seq(expected_seq)
    refuse_held(view, checkpoint_id)
    if not force:
        refuse_protected(view, checkpoint_id)
    data = with_reason({"checkpoint_id": checkpoint_id}, reason)
    event = "checkpoint.purged" if purge else "checkpoint.deleted"
    batch.remove(event, actor, request.recorded(data), [checkpoint_id])
    return True


def refuse_protected(view: JobView, checkpoint_id: str) -> None:
    """Refuse to delete a checkpoint that is pinned or that an execution needs.

    Raises:
        Protected: it is.
    """
    if checkpoint_id in view.pinned:
        raise Protected(
            f"checkpoint {checkpoint_id!r} is pinned",
            hint="unpin it, or delete it with force",
        )
    needed = view.workflows.needed()
    if view.threads is not None:
        needed = view.threads.needs([*view.threads.live()])
    if checkpoint_id in needed:
        raise Protected(
            f"checkpoint {checkpoint_id!r} is {needed[checkpoint_id]}",
            hint="end what needs it, or delete it with force",
        )


@answers_repeats(True)
def undelete(
    batch: Batch,
    checkpoint_id: str,
    *,
    actor: str,
    trash_seconds: float,
    expected_seq: int | None,
    problem_of: ProblemOf,
    request: Request = NO_KEY,
) -> bool:
    """Restore a deleted checkpoint; return False if it was not deleted.

    A repeat of a request changes nothing and returns True.  `problem_of` returns why
    its stored state is unreadable, or None.

    Raises:
        Conflict: its trash period has ended, it was purged or its state is erased; or
            `expected_seq` is stale.
        UnreadableState: its state is damaged.
    """
    trashed = batch.view.trash.get(checkpoint_id)
    if trashed is None:
        return False
    batch.check_seq(expected_seq)
    if trashed.is_purged:
        raise Conflict(f"checkpoint {checkpoint_id!r} was purged")
    if (taken := successor_of(batch.view, checkpoint_id)) is not None:
        raise Conflict(
            f"checkpoint {taken!r} has taken the place of {checkpoint_id!r}",
            hint="delete it first",
        )
    end = datetime.fromisoformat(trashed.at) + timedelta(seconds=trash_seconds)
    if batch.now >= end:
        raise Conflict(
            f"checkpoint {checkpoint_id!r} was deleted at "
            f"{stamped(trashed.at)}; its trash period ended at {stamp(end)}"
        )
    if batch.view.faults.get(trashed.entry.seq) == STATE_MISSING:
        raise _gone(checkpoint_id)
    if (problem := problem_of(batch.view, trashed.entry)) is not None:
        raise problem
    data = request.recorded({"checkpoint_id": checkpoint_id})
    batch.undelete(actor, data, checkpoint_id)
    return True


def refuse_erased(
    history: Callable[[JobView, int], Iterable[Event]],
    checkpoint_id: str,
    request: Request,
    view: JobView,
) -> None:
    """Refuse to undelete a checkpoint that only the job's history still has.

    `history` returns the events of a view after a seq.

    Raises:
        Conflict: its state was erased.
    """
    if checkpoint_id in view.checkpoints or checkpoint_id in view.trash:
        return
    if request.key in view.answered:
        return  # the decision under the lock answers
    for event in history(view, 0):
        if event["type"] != "checkpoint.saved":
            continue
        if event["data"]["checkpoint_id"] == checkpoint_id:
            raise _gone(checkpoint_id)


def _gone(checkpoint_id: str) -> Conflict:
    return Conflict(
        f"checkpoint {checkpoint_id!r} was deleted, and its state is erased; it cannot "
        "be undeleted"
    )
