"""The index: what a journal's events amount to.  Pure; can be thrown away any time."""

from __future__ import annotations

from typing import NamedTuple, assert_never

from journal.events import (
    EVENT_TYPES,
    SCHEMA_VERSION,
    CheckpointRestoredData,
    CheckpointSaved,
    Event,
)

# Every so many events the place of one is remembered, so that reading history from the
# middle need not begin at the start.
MARK_EVERY = 512


class Misfit(Exception):
    """An event that does not follow from those before it; the view is unchanged."""


class Labels(NamedTuple):
    """What checkpoints of one workflow have in common; shared between entries."""

    workflow_name: str | None = None
    workflow_version: str | None = None
    tags: tuple[str, ...] = ()
    has_metadata: bool = False


class Entry:
    """One checkpoint: where it stands, and what lists and policies ask for.

    Slots and shared values keep it under 400 bytes, its place in the dict included.
    """

    __slots__ = (
        "at",
        "checkpoint_id",
        "labels",
        "offset",
        "parent",
        "seq",
        "size",
        "step_name",
    )

    def __init__(
        self,
        checkpoint_id: str,
        step_name: str,
        seq: int,
        parent: int,
        at: str,
        offset: int,
        size: int,
        labels: Labels,
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.step_name = step_name
        self.seq = seq
        self.parent = parent
        self.at = at
        self.offset = offset
        self.size = size
        self.labels = labels


class Trashed(NamedTuple):
    """A deleted checkpoint: it can come back until its state is compacted away."""

    entry: Entry
    at: str
    actor: str
    reason: str
    was_current: bool


class Mark(NamedTuple):
    """Where the lines after event `seq` begin, and that event's hash."""

    seq: int
    offset: int
    hash: str | None


class JobView:
    """All that is known of one job, as of event `seq`."""

    __slots__ = (
        "checkpoints",
        "created_at",
        "current",
        "deleted",
        "end",
        "faults",
        "hash",
        "job_id",
        "keys",
        "labels",
        "last_at",
        "marks",
        "newer_seq",
        "pinned",
        "restored",
        "saved",
        "seq",
        "side_files",
        "steps",
        "store_id",
        "trash",
        "trash_ids",
    )

    def __init__(self, job_id: str, store_id: str | None) -> None:
        self.job_id = job_id
        self.store_id = store_id
        self.seq = 0
        self.hash: str | None = None
        self.end = 0  # bytes of the journal that are folded
        self.checkpoints: dict[str, Entry] = {}  # live ones, oldest first
        self.trash: dict[str, Trashed] = {}
        self.trash_ids: dict[int, str] = {}  # by seq: parents may be among them
        self.current: Entry | None = None
        self.pinned: set[str] = set()
        self.keys: dict[str, str] = {}  # idempotency key -> checkpoint id
        self.faults: dict[int, str] = {}  # seq of a state line that rotted -> how
        self.side_files: set[str] = set()  # those that a job.repaired names
        self.newer_seq = 0  # the first event in a schema newer than ours
        self.saved = self.deleted = self.restored = 0
        self.created_at: str | None = None
        self.last_at: str | None = None
        self.marks: list[Mark] = [Mark(0, 0, None)]
        self.steps: dict[str, str] = {}
        self.labels: dict[Labels, Labels] = {}

    def id_of(self, seq: int) -> str | None:
        """Return the id of the checkpoint saved as event `seq`, deleted or not."""
        if seq in self.trash_ids or seq == 0:
            return self.trash_ids.get(seq)
        # Who asks wants a parent, and parents are near: search from the newest.
        for entry in reversed(self.checkpoints.values()):
            if entry.seq <= seq:
                return entry.checkpoint_id if entry.seq == seq else None
        return None

    @property
    def latest(self) -> Entry | None:
        """The newest live checkpoint."""
        return next(reversed(self.checkpoints.values()), None)


NO_LABELS = Labels()
_PLAIN_FIELDS = 5  # a saved event with no more fields than these has no labels


def apply(
    view: JobView, event: Event, offset: int, size: int, fault: str | None = None
) -> None:
    """Fold one event into `view`.

    Deterministic: no clock, no I/O, no randomness.  Updates in place, because copying
    the view for every event would make replay quadratic.  Checks first, then changes.

    Args:
        view: what the events before amount to.
        event: the next one.
        offset: where its lines begin in the journal (its state line, if it has one).
        size: how many bytes they take.
        fault: what is wrong with its state line.

    Raises:
        Misfit: the event does not follow; the view is unchanged.
    """
    seq = event["seq"]
    if seq != view.seq + 1:
        raise Misfit(f"event {view.seq + 1} was next, not {seq}")
    if event["v"] != SCHEMA_VERSION:
        view.newer_seq = view.newer_seq or seq
    elif event["type"] == "checkpoint.saved":
        _save(view, event, offset, size)
    elif event["type"] in EVENT_TYPES:
        _apply_rare(view, event)
    # An unknown type is kept and chained, and means nothing here.
    if fault is not None:
        view.faults[seq] = fault
    view.seq = seq
    view.hash = event["hash"]
    view.last_at = event["at"]
    view.end = offset + size
    if seq % MARK_EVERY == 0:
        view.marks.append(Mark(seq, view.end, view.hash))


def _save(view: JobView, event: CheckpointSaved, offset: int, size: int) -> None:
    data = event["data"]
    checkpoint_id = data["checkpoint_id"]
    if checkpoint_id in view.checkpoints or checkpoint_id in view.trash:
        raise Misfit(f"checkpoint {checkpoint_id!r} is saved a second time")
    labels = NO_LABELS
    if len(data) > _PLAIN_FIELDS:
        labels = Labels(
            data.get("workflow_name"),
            data.get("workflow_version"),
            tuple(data.get("tags", ())),
            data.get("has_metadata", False),
        )
        labels = view.labels.setdefault(labels, labels)
        if data.get("pinned"):
            view.pinned.add(checkpoint_id)
        if (key := data.get("key")) is not None:
            view.keys[key] = checkpoint_id
    parent = data["parent"]
    current = view.current
    if current is not None and current.seq == parent:
        parent = current.seq  # the same number, but no second object for it
    step = data["step_name"]
    entry = Entry(
        checkpoint_id,
        view.steps.setdefault(step, step),
        event["seq"],
        parent,
        event["at"],
        offset,
        size,
        labels,
    )
    view.checkpoints[checkpoint_id] = view.current = entry
    view.saved += 1


def _apply_rare(view: JobView, event: Event) -> None:
    match event["type"]:
        case "checkpoint.restored":
            _restore(view, event["data"])
        case "checkpoint.deleted":
            data = event["data"]
            reason = {data["checkpoint_id"]: data.get("reason", "deleted")}
            _remove(view, reason, event["at"], event["actor"])
        case "checkpoints.cleaned":
            _remove(view, event["data"]["removed"], event["at"], event["actor"])
        case "checkpoint.undeleted":
            _undelete(view, event["data"]["checkpoint_id"])
        case "checkpoint.pinned":
            view.pinned.add(_live(view, event["data"]["checkpoint_id"]).checkpoint_id)
        case "checkpoint.unpinned":
            view.pinned.discard(event["data"]["checkpoint_id"])
        case "job.opened":
            _open(view, event["data"]["job"], event["data"]["store"])
            view.created_at = event["at"]
        case "job.repaired":
            if (name := event["data"].get("side_file")) is not None:
                view.side_files.add(name)
        case "checkpoint.saved":
            raise AssertionError("folded by the caller")
        case _:
            assert_never(event["type"])


def _live(view: JobView, checkpoint_id: str) -> Entry:
    entry = view.checkpoints.get(checkpoint_id)
    if entry is None:
        raise Misfit(f"checkpoint {checkpoint_id!r} is not there")
    return entry


def _open(view: JobView, job_id: str, store_id: str) -> None:
    if view.seq != 0:
        raise Misfit("a job is opened once, by its first event")
    if job_id != view.job_id:
        raise Misfit(f"this is the journal of job {job_id!r}")
    if view.store_id is not None and store_id != view.store_id:
        raise Misfit(f"this journal belongs to store {store_id}, not {view.store_id}")


def _restore(view: JobView, data: CheckpointRestoredData) -> None:
    view.current = _live(view, data["checkpoint_id"])
    view.restored += 1


def _remove(view: JobView, removed: dict[str, str], at: str, actor: str) -> None:
    entries = [_live(view, checkpoint_id) for checkpoint_id in removed]
    for entry in entries:
        checkpoint_id = entry.checkpoint_id
        del view.checkpoints[checkpoint_id]
        view.pinned.discard(checkpoint_id)
        view.trash[checkpoint_id] = Trashed(
            entry, at, actor, removed[checkpoint_id], entry is view.current
        )
        view.trash_ids[entry.seq] = checkpoint_id
    view.deleted += len(entries)
    if view.current is not None and view.current.checkpoint_id in removed:
        view.current = _nearest_ancestor(view, view.current) or view.latest


def _nearest_ancestor(view: JobView, entry: Entry) -> Entry | None:
    """Return the closest checkpoint that is still there and led to `entry`."""
    parent = entry.parent
    while parent in view.trash_ids:
        parent = view.trash[view.trash_ids[parent]].entry.parent
    checkpoint_id = view.id_of(parent)
    return None if checkpoint_id is None else view.checkpoints[checkpoint_id]


def _undelete(view: JobView, checkpoint_id: str) -> None:
    trashed = view.trash.pop(checkpoint_id, None)
    if trashed is None:
        raise Misfit(f"checkpoint {checkpoint_id!r} was not deleted")
    del view.trash_ids[trashed.entry.seq]
    entries = [*view.checkpoints.values(), trashed.entry]
    entries.sort(key=lambda entry: entry.seq)
    view.checkpoints = {entry.checkpoint_id: entry for entry in entries}
    current_seq = view.current.seq if view.current is not None else 0
    if trashed.was_current and trashed.entry.seq > current_seq:
        view.current = trashed.entry  # undone, unless the job has moved on since
    view.deleted -= 1
