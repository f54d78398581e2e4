"""Put checkpoints and writes into a LangGraph thread, and remove them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.commands.cleanup import add_cleaned
from milepost.journal.commands.marks import refuse_held
from milepost.journal.commands.saving import new_id
from milepost.journal.errors import Conflict
from milepost.journal.index.threads import REPLACED, Threads
from milepost.journal.states.opaque import LANGGRAPH

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from milepost.journal.batch import Batch
    from milepost.journal.events.vocabulary import CopyOrigin
    from milepost.journal.index.job_view import Fold, JobView
    from milepost.journal.states.line_codec import EncodedState
    from milepost.journal.states.packer import Packed, Packer

_IS_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ANY: Any = object()
_NO_THREADS = Threads()


class Draft(NamedTuple):
    """A checkpoint encoded outside the job's lock.

    Attributes:
        ns: its namespace.
        id: LangGraph's id.
        parent_id: LangGraph's id of its parent.
        source: the name of its step.
        place: further fields of the event's `thread`.
        raw: the state.
        packed: the state in the form that it is stored in.
        encoded: the same, with its digest and its metadata.
        origin: where it is copied from.
    """

    ns: str
    id: str
    parent_id: str | None
    source: str
    place: dict[str, Any]
    raw: bytes
    packed: Packed
    encoded: EncodedState
    origin: CopyOrigin | None


class Stored(NamedTuple):
    """How a put was stored, in which fold, as which event and checkpoint."""

    packed: Packed
    fold: Fold
    seq: int
    checkpoint_id: str


def threads_of(view: JobView) -> Threads:
    """Return the index of a thread, an empty one of a job that holds none."""
    return _NO_THREADS if view.threads is None else view.threads


def _claim(batch: Batch, origin: CopyOrigin | None) -> None:
    batch.claim("thread")
    if origin is not None and batch.opening:
        batch.opening["copied_from"] = origin


def put(
    batch: Batch,
    draft: Draft,
    packer: Packer,
    *,
    actor: str,
    expected_parent: object = ANY,
) -> Stored:
    """Add a checkpoint; one in the same place is replaced in the same write.

    Raises:
        WrongKind: the job holds no thread.
        Conflict: `expected_parent` is not the newest of its namespace.
        OnHold: the replaced one is held.
    """
    _claim(batch, draft.origin)
    view, known = batch.view, threads_of(batch.view)
    head = known.head(draft.ns)
    if expected_parent is not ANY and head != expected_parent:
        raise Conflict(
            f"thread {view.job_id!r}: the newest checkpoint of namespace {draft.ns!r} "
            f"is {head}, not {expected_parent}",
            hint="another run has written to the thread; invoke the graph again",
        )
    replaced = known.places.get((draft.ns, draft.id))
    if replaced is not None:
        refuse_held(view, replaced)
        gone = {"checkpoint_id": replaced, "reason": REPLACED}
        batch.remove("checkpoint.deleted", actor, gone, [replaced])
    packed, encoded = draft.packed, draft.encoded
    if not packer.is_usable(packed, view) or replaced is not None:
        # A base was deleted meanwhile, perhaps just now, and compaction may drop it.
        packed = packer.whole(draft.raw, is_json=False)
        encoded = encoded.stored_as(packed.body)
    place = dict(draft.place)
    if draft.ns:
        place["ns"] = draft.ns
    is_taken = draft.id in view.checkpoints or draft.id in view.trash
    # Nor may it be that of two jobs.
    if _IS_ID.fullmatch(draft.id) and not (is_taken or draft.origin):
        checkpoint_id = draft.id
    else:
        checkpoint_id = new_id(batch, draft.source)
        place["id"] = draft.id
    parent = 0
    if draft.parent_id is not None:
        found = known.places.get((draft.ns, draft.parent_id))
        if found is None or found == replaced:
            place["parent"] = draft.parent_id
        else:
            parent = view.checkpoints[found].seq
    data: dict[str, Any] = {
        "checkpoint_id": checkpoint_id,
        "step_name": draft.source,
        "parent": parent,
        "state_digest": encoded.digest,
        "state_bytes": encoded.raw_bytes,
        "state_type": LANGGRAPH,
        "thread": place,
    }
    if encoded.metadata:
        data["has_metadata"] = True
    seq = batch.add("checkpoint.saved", actor, data, encoded)
    batch.current = seq
    batch.ids.add(checkpoint_id)
    return Stored(packed, view.fold, seq, checkpoint_id)


def put_writes(
    batch: Batch,
    data: Mapping[str, Any],
    encode: Callable[[Collection[int]], EncodedState],
    *,
    actor: str,
    origin: CopyOrigin | None = None,
) -> int:
    """Add the writes of a task that are new; return the event, 0 if there is none.

    Args:
        batch: the write.
        data: of the event, with all writes, without the fields of a state.
        encode: returns the state of the writes with these indexes.
        actor: the actor.
        origin: where they are copied from.

    Raises:
        WrongKind: the job holds no thread.
    """
    _claim(batch, origin)
    task_id, place = data["task_id"], (data.get("ns", ""), data["for"])
    taken = {
        index
        for group in threads_of(batch.view).groups(place)
        if group.task_id == task_id
        for index, _ in group.items
    }
    # A special write, of a negative index, replaces an earlier one.
    new = [[i, channel] for i, channel in data["writes"] if i < 0 or i not in taken]
    if not new:
        return 0
    encoded = encode([index for index, _ in new])
    event = {
        **data,
        "writes": new,
        "state_digest": encoded.digest,
        "state_bytes": encoded.raw_bytes,
        "state_type": LANGGRAPH,
    }
    return batch.add("writes.saved", actor, event, encoded)


def clean(
    batch: Batch,
    chosen: Callable[[Threads], Mapping[str, str]],
    policy: Mapping[str, Any],
    *,
    actor: str,
    trash_seconds: float,
    is_whole: bool = False,
) -> int:
    """Remove checkpoints of a thread; return how many.

    Args:
        batch: the write.
        chosen: returns the checkpoints to remove, each with the reason.
        policy: the call that removes them, for the event.
        actor: the actor.
        trash_seconds: how long they can be undeleted.
        is_whole: the thread is deleted: writes without a checkpoint go too.

    Raises:
        OnHold: one of them is held; nothing is removed.
    """
    known = batch.view.threads
    if known is None:
        return 0
    removed = dict(chosen(known))
    takes_waiting = is_whole and bool(known.waiting)
    if not removed and not takes_waiting:
        return 0
    for checkpoint_id in removed:
        refuse_held(batch.view, checkpoint_id)
    add_cleaned(
        batch,
        removed,
        policy,
        actor=actor,
        trash_seconds=trash_seconds,
        kept=len(batch.view.checkpoints) - len(removed),
        more={"waiting": True} if takes_waiting else {},
    )
    return len(removed)
