"""One write under construction: events on top of a view that does not include them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from milepost.journal import ids
from milepost.journal.clock import stamp
from milepost.journal.errors import Conflict, WrongKind
from milepost.journal.events import codec
from milepost.journal.events.codec import Mark
from milepost.journal.index import job_view
from milepost.journal.states import line_codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from milepost.journal.events.codec import Stored
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.index.content import Content
    from milepost.journal.index.executions import Moved
    from milepost.journal.index.job_view import JobView
    from milepost.journal.index.transitions import Machine
    from milepost.journal.states.line_codec import EncodedState


class Batch:
    """One write under construction: events on top of the durable view.

    Args:
        view: the durable view.
        now: see below.
        may_seal: called before a state is added; raises if no state may be written.

    Attributes:
        view: the durable view.
        now: the time of all its events; the clock is read once.
        seq: the last event, including those of this batch.
        current: seq of the current checkpoint after this batch, 0 for none.
        keys: idempotency keys used by this batch: checkpoint id and content.
        ids: checkpoint ids created by this batch.
        leases: attempts begun by this batch, by execution.
    """

    def __init__(
        self,
        view: JobView,
        now: datetime,
        may_seal: Callable[[], None] = lambda: None,
    ) -> None:
        self._may_seal = may_seal
        self.view = view
        self.now = now
        self.seq = self._preamble = view.seq
        self.current = 0 if view.current is None else view.current.seq
        self._current_id = None if view.current is None else view.current.checkpoint_id
        self._removed: set[str] = set()
        self.keys: dict[str, tuple[str, Content]] = {}
        self.ids: set[str] = set()
        self.size_bytes = 0
        self.opening: dict[str, object] = {}  # data of this batch's job.opened
        self._moved: Moved = {}  # states of executions after this batch
        self.leases: dict[str, int] = {}
        self._drafts: list[
            tuple[str, str, Mapping[str, object], EncodedState | None]
        ] = []

    def add(
        self,
        type_: str,
        actor: str,
        data: Mapping[str, object],
        encoded: EncodedState | None = None,
    ) -> int:
        """Add one event and the state that it commits; return its seq.

        Raises:
            KeyNeeded, DroppedKey: no state may be written with the configured key.
            InvalidEvent: the journal would not open with it; nothing is added.
        """
        job_view.check(self.view, type_, data, self._moved)
        if encoded is not None:
            self._may_seal()
        self.seq += 1
        self._drafts.append((type_, actor, data, encoded))
        if encoded is not None:
            self.size_bytes += len(encoded.rest)
        return self.seq

    def state_of(self, machine: Machine, id_: str) -> str:
        """Return the state of an execution, a step or an approval after this batch."""
        return self.view.workflows.state(machine, id_, self._moved)

    def since(self, seq: int) -> list[tuple[int, str, Mapping[str, object]]]:
        """Return seq, type and data of the events of this batch after `seq`."""
        added = self._drafts[seq - self.view.seq :]
        return [
            (n, type_, data) for n, (type_, _, data, _) in enumerate(added, seq + 1)
        ]

    def remove(
        self,
        type_: str,
        actor: str,
        data: Mapping[str, object],
        checkpoint_ids: Iterable[str],
    ) -> None:
        """Add an event that removes checkpoints and records the new current one.

        Args:
            type_: type of the event.
            actor: the actor of the removal.
            data: other data of the event.
            checkpoint_ids: the removed checkpoints; a purge may name a deleted one.

        Raises:
            InvalidEvent: as `add`.
        """
        live = self.view.checkpoints
        self._removed.update(c for c in checkpoint_ids if c in live)
        if self.current > self.view.seq:  # saved by this batch, so it stays current
            self.add(type_, actor, data)
            return
        current = job_view.current_without(self.view, self._removed)
        self._add_moving(type_, actor, data, current)

    def undelete(
        self, actor: str, data: Mapping[str, object], checkpoint_id: str
    ) -> None:
        """Add an event that undeletes a checkpoint and records the new current one.

        Raises:
            InvalidEvent: as `add`.
        """
        current = job_view.current_without(self.view, (), checkpoint_id)
        self._add_moving("checkpoint.undeleted", actor, data, current)

    def _add_moving(
        self, type_: str, actor: str, data: Mapping[str, object], current: str | None
    ) -> None:
        if current != self._current_id:
            data = {**data, "current": current}
        self._current_id = current
        self.add(type_, actor, data)

    def open(self, store_id: str) -> None:
        """Add the first event of a journal."""
        self.view.store_id = store_id
        nonce = ids.new_nonce()
        self.opening = {"job": self.view.job_id, "store": store_id, "nonce": nonce}
        self.add("job.opened", "journal", self.opening)

    def claim(self, kind: str = "") -> None:
        """Give a new job this kind; refuse a job of another kind.

        Raises:
            WrongKind: the job holds something else.
        """
        if self.view.seq == 0 and self.seq == self._preamble:
            # A refused caller may have opened the job as another kind.
            self.opening.pop("kind", None)
            if kind:
                self.opening["kind"] = kind
        held = self.opening.get("kind", "") if self.opening else self.view.kind
        if held != kind:
            raise WrongKind(self.view.job_id, str(held), kind)

    def add_repairs(self, repairs: Iterable[JobRepairedData]) -> bool:
        """Add outstanding ``job.repaired`` events; return whether there were any."""
        before = self.seq
        for repair in repairs:
            if repair.get("salvage_file") not in self.view.salvage_files:
                self.add("job.repaired", "recovery", cast("dict[str, object]", repair))
        return self.seq > before

    def begin(self) -> None:
        """End the preamble (job.opened, job.repaired) of this write."""
        self._preamble = self.seq

    @property
    def seen_seq(self) -> int:
        """The seq that a caller could have read before its turn."""
        return self.view.seq if self.seq == self._preamble else self.seq

    def check_seq(self, expected_seq: int | None) -> None:
        """Refuse a writer whose view is stale.

        Raises:
            Conflict: the job is not at `expected_seq`.
        """
        if expected_seq is not None and self.seen_seq != expected_seq:
            raise Conflict(
                f"job {self.view.job_id!r} is at seq {self.seen_seq}, "
                f"not {expected_seq}",
                hint="re-read the job and retry",
            )

    def mark(self) -> tuple[int, int]:
        """Return a mark for `rewind`."""
        return self.seq, self.current

    def rewind(self, mark: tuple[int, int]) -> None:
        """Remove everything added since `mark`."""
        self.seq, self.current = mark
        del self._drafts[self.seq - self.view.seq :]
        self._moved = {}
        for type_, _, data, _ in self._drafts:
            job_view.check(self.view, type_, data, self._moved)

    def __len__(self) -> int:
        return len(self._drafts)

    def encode(self) -> Written:
        """Return the lines of the write, and its events."""
        first = self.view.seq + 1
        span = (first, self.seq) if len(self._drafts) > 1 else None
        prev, at = self.view.hash, stamp(self.now)
        lines: list[bytes] = []
        events: list[Stored] = []
        for seq, (type_, actor, data, encoded) in enumerate(self._drafts, first):
            if prev is None:
                opened = cast("dict[str, str]", data)
                prev = codec.genesis(opened["store"], opened["job"], opened["nonce"])
            line, event = codec.encode(
                prev,
                seq=seq,
                at=at,
                type_=type_,
                actor=actor,
                data=data,
                span=span,
            )
            if encoded is not None:
                state = line_codec.state_line(encoded, self.view.address_of(seq))
                line = state + line
            lines.append(line)
            events.append((event, len(line), None))
            prev = event["hash"]
        assert prev is not None
        return Written(lines, Mark(self.seq, prev), events)


class Written(NamedTuple):
    """A write: the lines of each event, its last event, its events as a scan yields."""

    lines: list[bytes]
    last: Mark
    events: list[Stored]
