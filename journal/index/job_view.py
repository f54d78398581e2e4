"""The in-memory index of one job, folded from its events.  Pure; can be rebuilt."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from milepost.journal.crypto.envelope import StateAddress
from milepost.journal.events.codec import STATE_MISSING, Mark, has_state, origin_of
from milepost.journal.events.vocabulary import (
    DEFAULT_WORKFLOW_VERSION,
    EVENT_TYPES,
    SCHEMA_VERSION,
    CheckpointSaved,
    Event,
)
from milepost.journal.events.workflow_events import is_workflow_event
from milepost.journal.index import executions
from milepost.journal.index.answers import Answered, remember
from milepost.journal.index.checkpoints import NO_CHECKPOINTS, Checkpoints
from milepost.journal.index.entries import Entry, Labels
from milepost.journal.index.entry_keys import EntryKeys
from milepost.journal.index.executions import Misfit, Workflows
from milepost.journal.index.lineage import Lineage
from milepost.journal.index.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from milepost.journal.index.executions import Moved


class InvalidEvent(Exception):
    """An event that does not follow from those before it; the view is unchanged."""


# What folding can raise for an event whose hash is right but whose content is invalid.
MALFORMED = (
    *(InvalidEvent, AttributeError, KeyError, TypeError, ValueError),
    *(IndexError, OverflowError, RecursionError),
)


class StoredSizes:
    """Sizes of all events with a state, of deleted checkpoints too."""

    __slots__ = ("_others", "_seqs", "_sizes")

    def __init__(self) -> None:
        self._seqs = array("Q")
        self._sizes = array("Q")
        self._others = array("Q")

    @property
    def columns(self) -> tuple[array[int], array[int], array[int]]:
        """All that is in it, to be read or filled by a snapshot."""
        return self._seqs, self._sizes, self._others

    def add(self, seq: int, size: int, *, is_save: bool = True) -> None:
        """Add the size of event `seq`, the last event with a state so far."""
        if not is_save:
            self._others.append(seq)
        self._sizes.append(size)
        self._seqs.append(seq)  # last: a concurrent reader sees all of it or nothing

    def __getitem__(self, seq: int) -> int:
        """Return the size of event `seq`; `KeyError` if it has no state."""
        at = bisect_left(self._seqs, seq)
        if at == len(self._seqs) or self._seqs[at] != seq:
            raise KeyError(seq)
        return self._sizes[at]

    def of(self, entries: Iterable[Entry]) -> Iterator[int]:
        """Yield the size of each checkpoint; they are in order of seq."""
        seqs, sizes, at = self._seqs, self._sizes, -1
        for entry in entries:
            at += 1  # of the next state, unless some between are deleted
            if seqs[at] != entry.seq:
                at = bisect_left(seqs, entry.seq, at)
            yield sizes[at]

    def number_of(self, seq: int) -> int:
        """Return the 1-based number, among the job's saves, of the one as `seq`."""
        others = bisect_left(self._others, seq)
        return bisect_left(self._seqs, seq) + 1 - others

    def others(self) -> list[int]:
        """Return the events other than saves that have a state."""
        return [*self._others]


class Trashed(NamedTuple):
    """A deleted checkpoint; undeletable until an event records its erasure."""

    entry: Entry
    at: str
    actor: str
    reason: str
    was_pinned: bool
    is_purged: bool = False  # cannot be undeleted, even within the trash period


class Completion(NamedTuple):
    """When the job was completed, whether it failed, and why."""

    at: str
    failed: bool
    reason: str | None


class LegalHold(NamedTuple):
    """A legal hold: its actor, start and reason.

    It survives a deletion, which only a version without legal holds can have written:
    an undeleted checkpoint is held again.
    """

    actor: str
    at: str
    reason: str | None


class Fold:
    """The identity of one fold: the events that it has are the same for ever.

    Another fold of a job may be of another history: after a restored backup, a repair
    or a removal, an event of the same seq is another one.
    """

    __slots__ = ()


class JobView:
    """Everything known about one job, as of event `seq`."""

    __slots__ = (
        "answered",
        "checkpoints",
        "chosen",
        "completion",
        "confirmed",
        "created_at",
        "current",
        "deleted",
        "entry_keys",
        "faults",
        "fold",
        "hash",
        "held",
        "job_id",
        "keys",
        "kind",
        "last_at",
        "latest",
        "lineage",
        "losses",
        "misfit",
        "newer_seq",
        "origin",
        "pinned",
        "restored",
        "salvage_files",
        "saved",
        "seq",
        "shared",
        "sizes",
        "store_id",
        "stored_bytes",
        "threads",
        "trash",
        "workflows",
    )

    def __init__(self, job_id: str, store_id: str | None) -> None:
        self.job_id = job_id
        self.store_id = store_id
        self.fold = Fold()
        self.origin = ""  # tells jobs of one id apart; see `codec.origin_of`
        self.kind = ""  # what it holds; empty: states
        self.entry_keys: EntryKeys | None = None  # of a log
        self.threads: Threads | None = None  # of a job that holds a thread
        self.seq = 0
        self.hash: str | None = None
        self.stored_bytes = 0  # of all events
        # Step names and labels, each of them once.
        self.shared: dict[Any, Any] = {}
        self.checkpoints = Checkpoints(NO_CHECKPOINTS, self.shared)
        self.trash: dict[str, Trashed] = {}
        self.sizes = StoredSizes()
        self.latest: Entry | None = None  # the newest live one
        self.current: Entry | None = None
        self.chosen: Entry | None = None  # the last one saved or restored
        self.confirmed: frozenset[str] = frozenset()  # hashes of confirmed policies
        self.pinned: set[str] = set()
        self.held: dict[str, LegalHold] = {}
        # Idempotency key -> the last checkpoint saved with it.
        self.keys: dict[str, str] = {}
        # Idempotency key -> the events of its request, except saves.
        self.answered: dict[str, Answered] = {}
        self.lineage = Lineage()
        # Problems of stored state lines, by seq.  They describe the bytes stored now,
        # which compaction may have changed since the events were written: `apply`
        # records them and never depends on them.
        self.faults: dict[int, str] = {}
        # From job.repaired -> its time; "" if the next compaction removes the file.
        self.salvage_files: dict[str, str] = {}
        self.losses: list[tuple[int, int]] = []  # (seq of a job.repaired, events lost)
        self.newer_seq = 0  # the first event that this version cannot fold
        self.misfit = ""  # why, unless its schema is newer
        self.saved = self.deleted = self.restored = 0
        self.created_at: str | None = None
        self.completion: Completion | None = None  # None after a later save or restore
        self.last_at: str | None = None
        self.workflows = Workflows()

    @property
    def mark(self) -> Mark:
        """The last event."""
        return Mark(self.seq, self.hash or "")

    def needed(self) -> dict[str, str]:
        """Return the checkpoints that no policy removes, each with the reason."""
        if self.threads is not None:
            return self.threads.needed()
        return self.workflows.needed()

    def keyed(self, key: str) -> Entry | None:
        """Return the checkpoint that an idempotency key refers to; see `save`."""
        entry = self.checkpoints.get(self.keys.get(key))
        if entry is None or self.current is None:
            return None
        is_on_line = self.lineage.leads(entry.seq, self.current.seq)
        return entry if is_on_line else None

    def address_of(self, seq: int) -> StateAddress:
        """Return the address of event `seq`, which its encrypted state is bound to."""
        assert self.store_id is not None, "a job has a store"
        return StateAddress(self.store_id, self.job_id, seq)


NO_LABELS = Labels()
_PLAIN_FIELDS = 5  # of every saved event; a plain one adds only its version


def apply(view: JobView, event: Event, size: int, fault: str | None = None) -> None:
    """Fold one event into `view`.

    Deterministic: no clock, no I/O, no randomness, and independent of which states are
    stored now (I5).  Updates in place, because copying the view for every event would
    make replay quadratic.  Checks first, then changes.

    An intact event that does not follow from those before it ends the fold, not the
    journal: later events are only chained, as after an event of a newer schema.

    Args:
        view: the fold of the preceding events.
        event: the next event.
        size: of its stored lines in bytes, with its state line if it has one.
        fault: the problem of its state line, if it has one.

    Raises:
        InvalidEvent: the event is not the next one, or the first one belongs to another
            journal; the view is unchanged.
    """
    seq = event["seq"]
    if seq != view.seq + 1:
        raise InvalidEvent(f"expected event {view.seq + 1}, got event {seq}")
    if view.newer_seq or event["v"] != SCHEMA_VERSION:
        # Later events may depend on the one that was not folded: only chain them.
        view.newer_seq = view.newer_seq or seq
    else:
        try:
            if event["type"] == "checkpoint.saved":
                _save(view, event, size)
            else:
                if event["type"] in EVENT_TYPES:
                    _apply_rare(view, event)
                # An unknown type is chained and has no effect on the view.
                if has_state(event):
                    view.sizes.add(seq, size, is_save=False)
        except MALFORMED as exc:
            if seq == 1:
                raise
            name = "" if isinstance(exc, InvalidEvent) else f"{type(exc).__name__}: "
            view.newer_seq, view.misfit = seq, f"{name}{exc}"
    if fault is not None:
        view.faults[seq] = fault
    view.seq = seq
    view.hash = event["hash"]
    view.last_at = event["at"]
    view.stored_bytes += size


def _save(view: JobView, event: CheckpointSaved, size: int) -> None:
    data = event["data"]
    checkpoint_id = data["checkpoint_id"]
    if (
        checkpoint_id in view.checkpoints
        or checkpoint_id in view.trash
        or "execution_id" in data
    ):
        check(view, "checkpoint.saved", data)
    labels, at = NO_LABELS, event["at"]
    version = data.get("workflow_version")
    if len(data) > _PLAIN_FIELDS + (version == DEFAULT_WORKFLOW_VERSION):
        labels = Labels(
            data.get("workflow_name"),
            DEFAULT_WORKFLOW_VERSION if version is None else version,
            tuple(data.get("tags", ())),
            data.get("has_metadata", False),
            data.get("failed", False),
            data.get("trigger"),
            data.get("aside", False),
        )
        labels = view.shared.setdefault(labels, labels)
        if view.entry_keys is not None and "entry_keys" in data:
            view.entry_keys.add(event["seq"], data["entry_keys"])
        if data.get("pinned"):
            view.pinned.add(checkpoint_id)
        if "request_digest" in data:
            remember(view.answered, event)
        elif (key := data.get("idempotency_key")) is not None:
            view.keys[key] = checkpoint_id
        at = data.get("saved_at", at)
        if "execution_id" in data:
            executions.save(view.workflows, event)
    seq, parent = event["seq"], data["parent"]
    if parent != view.lineage.tip:
        view.lineage.branch(seq, parent)
    view.lineage.tip = seq
    current = view.current
    if current is not None and current.seq == parent:
        parent_id: str | None = current.checkpoint_id
    else:
        parent_id = _id_of(view, parent)
    step = data["step_name"]
    entry = Entry(
        checkpoint_id,
        view.shared.setdefault(step, step),
        seq,
        parent_id,
        at,
        labels,
    )
    view.sizes.add(seq, size)
    view.checkpoints.add(entry)
    view.latest = entry
    if not labels.is_aside:
        view.current = view.chosen = entry
        view.completion = None
    view.saved += 1
    if view.threads is not None and "thread" in data:
        view.threads.save(event, parent_id)


def _id_of(view: JobView, seq: int) -> str | None:
    """Return the id of the checkpoint saved as event `seq`, deleted or not."""
    trashed = (found.entry for found in view.trash.values())
    entry = view.checkpoints.saved_as(seq) or next(
        (entry for entry in trashed if entry.seq == seq), None
    )
    return None if entry is None else entry.checkpoint_id


def check(
    view: JobView, type_: str, data: Mapping[str, Any], moved: Moved | None = None
) -> None:
    """Refuse an event that does not follow from those before it.

    Writers check before they write, so no journal gets such an event; the fold checks
    again, for journals written by other programs.

    Args:
        view: the job.
        type_: the event's type.
        data: the event's data.
        moved: what earlier events of the same write moved; extended by this one.

    Raises:
        InvalidEvent: the event does not follow.
    """
    if "execution_id" in data:
        _check_execution(view, type_, data, {} if moved is None else moved)
    match type_:
        case "checkpoint.saved":
            checkpoint_id = data["checkpoint_id"]
            if checkpoint_id in view.checkpoints or checkpoint_id in view.trash:
                raise InvalidEvent(
                    f"checkpoint {checkpoint_id!r} is saved a second time"
                )
        case "checkpoints.cleaned":
            for checkpoint_id in data["removed"]:
                _live(view, checkpoint_id)
        case "checkpoint.undeleted":
            trashed = view.trash.get(data["checkpoint_id"])
            if trashed is None or trashed.is_purged:
                raise InvalidEvent(
                    f"checkpoint {data['checkpoint_id']!r} is not deleted"
                )
            _check_place(view, data["checkpoint_id"])
        case "checkpoint.purged":
            if data["checkpoint_id"] not in view.trash:
                _live(view, data["checkpoint_id"])
        case "job.opened":
            _check_opening(view, data["job"], data["store"])
        case _:
            if type_ in _ABOUT_A_LIVE_ONE:
                _live(view, data["checkpoint_id"])


def _check_execution(
    view: JobView, type_: str, data: Mapping[str, Any], moved: Moved
) -> None:
    try:
        moved |= executions.check(view.workflows, type_, data, moved)
    except Misfit as exc:
        raise InvalidEvent(str(exc)) from None


_ABOUT_A_LIVE_ONE = frozenset(
    {
        "checkpoint.restored",
        "checkpoint.deleted",
        "checkpoint.pinned",
        "checkpoint.unpinned",
        "checkpoint.held",
    }
)


def _check_place(view: JobView, checkpoint_id: str) -> None:
    if (taken := successor_of(view, checkpoint_id)) is not None:
        raise InvalidEvent(f"checkpoint {taken!r} has taken its place")


def successor_of(view: JobView, checkpoint_id: str) -> str | None:
    """Return the live checkpoint of a thread in the place of a deleted one, if any."""
    if (threads := view.threads) is None:
        return None
    fact = threads.facts.get(checkpoint_id)
    return fact and threads.places.get((fact.ns, fact.id))


def _live(view: JobView, checkpoint_id: str) -> Entry:
    entry = view.checkpoints.get(checkpoint_id)
    if entry is None:
        raise InvalidEvent(f"checkpoint {checkpoint_id!r} does not exist")
    return entry


def _check_opening(view: JobView, job_id: str, store_id: str) -> None:
    if view.seq != 0:
        raise InvalidEvent("only the first event opens a job")
    if job_id != view.job_id:
        raise InvalidEvent(f"this is the journal of job {job_id!r}")
    if view.store_id is not None and store_id != view.store_id:
        raise InvalidEvent(
            f"this journal belongs to store {store_id}, not {view.store_id}"
        )


def _apply_rare(  # noqa: C901, PLR0912, PLR0915 - one case per type, like a table
    view: JobView, event: Event
) -> None:
    check(view, event["type"], event["data"])
    if is_workflow_event(event):
        executions.apply(view.workflows, event)
        remember(view.answered, event)
        return
    match event["type"]:
        case "checkpoint.restored":
            view.current = view.checkpoints[event["data"]["checkpoint_id"]]
            view.chosen = view.current
            view.completion = None
            view.restored += 1
        case "checkpoint.deleted":
            data = event["data"]
            reason = {data["checkpoint_id"]: data.get("reason", "deleted")}
            _remove(view, reason, event["at"], event["actor"])
        case "checkpoints.cleaned":
            _remove(view, event["data"]["removed"], event["at"], event["actor"])
            if "executions" in event["data"]:
                gone = event["data"]["executions"]
                executions.remove(view.workflows, gone, event["at"])
            if event["data"].get("waiting") and view.threads is not None:
                view.threads.forget_waiting(event["at"])
            if event["data"].get("confirmed"):
                view.confirmed |= {str(event["data"]["policy"].get("hash"))}
        case "checkpoint.undeleted":
            _undelete(view, event["data"]["checkpoint_id"])
        case "checkpoint.pinned":
            view.pinned.add(event["data"]["checkpoint_id"])
        case "checkpoint.unpinned":
            view.pinned.discard(event["data"]["checkpoint_id"])
        case "checkpoint.held":
            why_held = event["data"].get("reason")
            holding = LegalHold(event["actor"], event["at"], why_held)
            view.held[event["data"]["checkpoint_id"]] = holding
        case "checkpoint.released":
            view.held.pop(event["data"]["checkpoint_id"], None)
        case "job.opened":
            view.created_at = event["at"]
            view.store_id = event["data"]["store"]
            view.origin = origin_of(event)
            view.kind = event["data"].get("kind", "")
            if view.kind == "thread":
                view.threads = Threads()
            elif view.kind == "log":
                view.entry_keys = EntryKeys()
        case "writes.saved":
            if view.threads is not None:
                view.threads.write(event)
        case "job.repaired":
            if (name := event["data"].get("salvage_file")) is not None:
                view.salvage_files[name] = event["at"]
            if (lost := event["data"].get("lost_events", 0)) > 0:
                view.losses.append((event["seq"], lost))
        case "checkpoint.purged":
            data = event["data"]
            reason = {data["checkpoint_id"]: data.get("reason", "purged")}
            _purge(view, reason, event["at"], event["actor"])
        case "job.completed":
            end = event["data"]
            view.completion = Completion(
                event["at"], end.get("failed", False), end.get("reason")
            )
        case "job.erased":
            view.workflows.erased_seq = event["seq"]
            if view.threads is not None:
                view.threads.purge()
            why = event["data"].get("reason", "erased")
            reason = dict.fromkeys([*view.checkpoints, *view.trash], why)
            _purge(view, reason, event["at"], event["actor"])
        case "job.compacted":
            _erase(view, event["data"].get("erased", []))
            for name in event["data"].get("salvage_files", ()):
                view.salvage_files.pop(name, None)
        case "checkpoint.saved":
            raise AssertionError("folded by the caller")
        case _:
            assert_never(event["type"])
    remember(view.answered, event)


def _remove(view: JobView, removed: dict[str, str], at: str, actor: str) -> None:
    for checkpoint_id, reason in removed.items():
        entry = view.checkpoints.remove(checkpoint_id)
        was_pinned = checkpoint_id in view.pinned
        view.pinned.discard(checkpoint_id)
        view.trash[checkpoint_id] = Trashed(entry, at, actor, reason, was_pinned)
        if view.threads is not None and checkpoint_id in view.threads.facts:
            view.threads.remove(checkpoint_id, reason)
    view.deleted += len(removed)
    _settle_current(view)


def _purge(view: JobView, purged: dict[str, str], at: str, actor: str) -> None:
    live = {c: reason for c, reason in purged.items() if c in view.checkpoints}
    _remove(view, live, at, actor)
    for checkpoint_id in purged:
        trashed = view.trash[checkpoint_id]
        view.trash[checkpoint_id] = trashed._replace(is_purged=True)
    # A torn tail may have the same state: saved, lost in a crash, and saved again.
    view.salvage_files = dict.fromkeys(view.salvage_files, "")


def erased_runs(view: JobView, gone: Collection[int]) -> list[list[int]]:
    """Return the deleted saves `gone` as runs from first to last seq.

    A run covers only deleted checkpoints and may span live ones; this keeps runs few.
    """
    runs: list[list[int]] = []
    is_run = False
    for seq in sorted(trashed.entry.seq for trashed in view.trash.values()):
        if seq in gone and is_run:
            runs[-1][1] = seq
        elif seq in gone:
            runs.append([seq, seq])
        is_run = seq in gone
    return runs


def _erase(view: JobView, runs: list[list[int]]) -> None:
    """Remove the deleted checkpoints of `runs` (see `erased_runs`) from the trash.

    Only the event decides what is erased: a state that is missing now may have existed
    then, and its checkpoint may have been undeleted since.  Children of an erased
    checkpoint become children of its parent.
    """
    firsts, lasts = [first for first, _ in runs], [0, *(last for _, last in runs)]
    gone = {
        checkpoint_id: trashed.entry.parent_id
        for checkpoint_id, trashed in view.trash.items()
        if trashed.entry.seq <= lasts[bisect_right(firsts, trashed.entry.seq)]
    }
    kept = (t.entry for t in view.trash.values() if t.entry.checkpoint_id not in gone)
    for entry in itertools.chain(view.checkpoints.after(0), kept):
        while entry.parent_id in gone:
            entry.parent_id = gone[entry.parent_id]
    chosen = view.chosen
    while chosen is not None and chosen.checkpoint_id in gone:
        parent_id = chosen.parent_id
        chosen = view.checkpoints.get(parent_id) or (
            view.trash[parent_id].entry if parent_id in view.trash else None
        )
    view.chosen = chosen
    for checkpoint_id in gone:
        view.faults.pop(view.trash.pop(checkpoint_id).entry.seq, None)
        view.held.pop(checkpoint_id, None)
    if view.threads is not None:
        for seq in view.threads.erase([*gone.keys() & view.threads.facts.keys()]):
            view.faults.pop(seq, None)


def newer_reason(view: JobView) -> str:
    """Return why this version cannot fold the job's last events."""
    if not view.misfit:
        return f"event {view.newer_seq} was written by a newer Milepost"
    return (
        f"event {view.newer_seq} is intact, but does not follow from those before it "
        f"({view.misfit}): another version of Milepost wrote it"
    )


def parent_of(view: JobView, entry: Entry) -> str | None:
    """Return the nearest ancestor of `entry` whose state was not erased.

    Compactions of earlier versions did not record what they erased.  They left deleted
    checkpoints without a state line; these stay in the trash until a compaction records
    their erasure, and are skipped here.
    """
    found = entry.parent_id
    while (trashed := view.trash.get(found or "")) is not None:
        if view.faults.get(trashed.entry.seq) != STATE_MISSING:
            break
        found = trashed.entry.parent_id
    return found


def _undelete(view: JobView, checkpoint_id: str) -> None:
    trashed = view.trash.pop(checkpoint_id)
    view.checkpoints.put_back(trashed.entry)
    if view.threads is not None and checkpoint_id in view.threads.facts:
        view.threads.put_back(checkpoint_id)
    if trashed.was_pinned:
        view.pinned.add(checkpoint_id)
    view.deleted -= 1
    _settle_current(view)


def _settle_current(view: JobView) -> None:
    view.latest = next(view.checkpoints.newest_first(), None)
    found = current_without(view, ())
    view.current = None if found is None else view.checkpoints[found]


def current_without(
    view: JobView, removed: Collection[str], undeleted: str | None = None
) -> str | None:
    """Return the id of the current checkpoint after a removal or an undeletion.

    It is the last one saved or restored, else its nearest remaining ancestor, else the
    newest; None if none remains.  Those saved aside do not count until they are
    restored.  The result depends on which checkpoints exist, not on the order of
    deletions and undeletions.

    Args:
        view: the job.
        removed: ids of live checkpoints that are removed.
        undeleted: the id of a deleted checkpoint that is undeleted.
    """
    found = None if view.chosen is None else view.chosen.checkpoint_id
    while found is not None and found != undeleted:
        if found in view.trash:
            found = view.trash[found].entry.parent_id
        elif found in removed:
            found = view.checkpoints[found].parent_id
        else:
            break
    if found is not None:
        return found
    left = (
        entry.checkpoint_id
        for entry in view.checkpoints.newest_first()
        if entry.checkpoint_id not in removed and not entry.labels.is_aside
    )
    newest = next(left, None)
    if undeleted is None or view.trash[undeleted].entry.labels.is_aside:
        return newest
    if (
        newest is not None
        and view.checkpoints[newest].seq > view.trash[undeleted].entry.seq
    ):
        return newest
    return undeleted
