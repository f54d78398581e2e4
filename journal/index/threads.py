"""The checkpoints of a LangGraph thread: their places, parents and writes.  Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from milepost.journal.events.vocabulary import CheckpointSaved, WritesSaved

REPLACED = "replaced"
NEWEST = "newest of its namespace"
UNFINISHED = "has writes of tasks that are not finished"


class Fact(NamedTuple):
    """What a checkpoint is in its thread.

    Attributes:
        ns: its namespace.
        id: LangGraph's id.
        parent_id: LangGraph's id of its parent, which may not be live.
        run_id: of the run that made it.
        root_id: the root checkpoint that the call of its namespace started from.
        lacks: channels whose value is in the writes of its ancestors.
    """

    ns: str
    id: str
    parent_id: str | None
    run_id: str | None
    root_id: str | None
    lacks: tuple[str, ...]


class Group(NamedTuple):
    """The writes of one event: index and channel of each, in the order of its state."""

    seq: int
    task_id: str
    task_path: str
    items: tuple[tuple[int, str], ...]


Place = tuple[str, str]


class Threads:
    """The index of a job that holds a thread.

    Attributes:
        facts: of live and deleted checkpoints, by checkpoint id.
        places: namespace and LangGraph's id -> checkpoint id, of live ones.
        order: LangGraph's ids of live ones, ascending, by namespace.
        writes: by checkpoint id, of live and deleted ones.
        waiting: writes whose checkpoint has not been put, by its place.
        gone: writes that belong to nothing any more: their seqs, and since when; empty
            if they are purged.
    """

    __slots__ = ("facts", "gone", "order", "places", "waiting", "writes")

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}
        self.places: dict[Place, str] = {}
        self.order: dict[str, list[str]] = {}
        self.writes: dict[str, list[Group]] = {}
        self.waiting: dict[Place, list[Group]] = {}
        self.gone: list[tuple[int, str]] = []

    # -- questions ---------------------------------------------------------------------

    def head(self, ns: str) -> str | None:
        """Return the greatest id of a namespace, None if it has no checkpoint."""
        ids = self.order.get(ns)
        return ids[-1] if ids else None

    def parent_of(self, checkpoint_id: str) -> str | None:
        """Return the checkpoint id of the parent, None if it is not live."""
        fact = self.facts[checkpoint_id]
        if fact.parent_id is None:
            return None
        return self.places.get((fact.ns, fact.parent_id))

    def groups(self, place: Place) -> list[Group]:
        """Return the writes at a place, of its checkpoint or waiting for it."""
        checkpoint_id = self.places.get(place)
        if checkpoint_id is None:
            return self.waiting.get(place, [])
        return self.writes.get(checkpoint_id, [])

    def needs(self, kept: Collection[str]) -> dict[str, str]:
        """Return the ancestors that checkpoints need for channels, each with why."""
        found: dict[str, str] = {}
        seen: dict[str, set[str]] = {}  # the channels that a walk has looked for
        for checkpoint_id in kept:
            lacks = {*self.facts[checkpoint_id].lacks}
            parent = self.parent_of(checkpoint_id)
            while parent is not None and not lacks <= seen.setdefault(parent, set()):
                seen[parent] |= lacks
                names = ", ".join(sorted(lacks))
                found.setdefault(parent, f"needed by {checkpoint_id} for {names}")
                lacks &= {*self.facts[parent].lacks}
                parent = self.parent_of(parent)
        return found

    def needed(self) -> dict[str, str]:
        """Return the checkpoints that no policy removes, each with the reason."""
        found: dict[str, str] = {}
        for ns, ids in self.order.items():
            newest = self.places[ns, ids[-1]]
            root_id = self.facts[newest].root_id
            if root_id is None or ("", root_id) in self.places:
                found[newest] = NEWEST
        parents = {(f.ns, f.parent_id) for f in map(self.facts.get, self.live()) if f}
        for checkpoint_id in self.writes:
            fact = self.facts[checkpoint_id]
            place = fact.ns, fact.id
            if self.places.get(place) == checkpoint_id and place not in parents:
                root_id = fact.root_id
                if root_id is None or ("", root_id) in self.places:
                    found.setdefault(checkpoint_id, UNFINISHED)
        return self.needs(found) | found

    def live(self) -> Iterator[str]:
        """Yield the ids of live checkpoints."""
        return iter(self.places.values())

    # -- the fold ----------------------------------------------------------------------

    def save(self, event: CheckpointSaved, parent_id: str | None) -> None:
        """Add a checkpoint; `parent_id` is the id of the checkpoint `data.parent`."""
        data = event["data"]
        checkpoint_id, at = data["checkpoint_id"], data["thread"]
        ns, id_ = at.get("ns", ""), at.get("id", checkpoint_id)
        parent = self.facts.get(parent_id or "")
        self.facts[checkpoint_id] = Fact(
            ns,
            id_,
            at.get("parent", parent and parent.id),
            at.get("run_id"),
            at.get("root"),
            tuple(at.get("lacks", ())),
        )
        self.put_back(checkpoint_id)

    def write(self, event: WritesSaved) -> None:
        """Add the writes of a task."""
        data = event["data"]
        items = tuple((index, channel) for index, channel in data["writes"])
        path = data.get("task_path", "")
        group = Group(event["seq"], data["task_id"], path, items)
        place = data.get("ns", ""), data["for"]
        checkpoint_id = self.places.get(place)
        if checkpoint_id is None:
            self.waiting.setdefault(place, []).append(group)
        else:
            self.writes.setdefault(checkpoint_id, []).append(group)

    def remove(self, checkpoint_id: str, reason: str) -> None:
        """Remove a live checkpoint; its writes are kept, for its return."""
        fact = self.facts[checkpoint_id]
        del self.places[fact.ns, fact.id]
        ids = self.order[fact.ns]
        del ids[bisect_left(ids, fact.id)]
        if not ids:
            del self.order[fact.ns]
        if reason == REPLACED and checkpoint_id in self.writes:
            # They belong to the place, whose next checkpoint comes in the same write.
            self.waiting[fact.ns, fact.id] = self.writes.pop(checkpoint_id)

    def put_back(self, checkpoint_id: str) -> None:
        """Add a checkpoint at its place, with the writes that wait there."""
        fact = self.facts[checkpoint_id]
        place = fact.ns, fact.id
        self.places[place] = checkpoint_id
        insort(self.order.setdefault(fact.ns, []), fact.id)
        if (waiting := self.waiting.pop(place, None)) is not None:
            self.writes.setdefault(checkpoint_id, []).extend(waiting)

    def forget_waiting(self, at: str) -> None:
        """Give up the writes without a checkpoint, as their thread is deleted."""
        for groups in self.waiting.values():
            self.gone += [(group.seq, at) for group in groups]
        self.waiting.clear()

    def purge(self) -> None:
        """Purge the writes without a checkpoint, as the job is erased."""
        self.forget_waiting("")
        self.gone = [(seq, "") for seq, _ in self.gone]

    def erase(self, checkpoint_ids: Collection[str]) -> list[int]:
        """Remove erased checkpoints; return the events of their writes."""
        seqs = []
        for checkpoint_id in checkpoint_ids:
            del self.facts[checkpoint_id]
            groups = self.writes.pop(checkpoint_id, ())
            seqs += [group.seq for group in groups]
        return seqs


def to_rows(threads: Threads | None) -> list[Any] | None:
    """Return an index as plain JSON; `of_rows` is the inverse."""
    if threads is None:
        return None
    waiting = [[*place, groups] for place, groups in threads.waiting.items()]
    return [threads.facts, threads.writes, waiting, threads.gone]


def of_rows(rows: list[Any] | None, trash: Mapping[str, object]) -> Threads | None:
    """Return an index from `to_rows`; `trash` has the deleted checkpoints."""
    if rows is None:
        return None
    facts, writes, waiting, gone = rows
    made = Threads()
    for checkpoint_id, row in facts.items():
        fact = Fact(*row)
        made.facts[checkpoint_id] = fact._replace(lacks=tuple(fact.lacks))
        if checkpoint_id not in trash:
            made.put_back(checkpoint_id)
    made.writes = {name: [*map(_group, groups)] for name, groups in writes.items()}
    made.waiting = {(ns, id_): [*map(_group, found)] for ns, id_, found in waiting}
    made.gone = [(seq, at) for seq, at in gone]
    return made


def _group(row: list[Any]) -> Group:
    seq, task_id, path, items = row
    return Group(seq, task_id, path, tuple((index, name) for index, name in items))
