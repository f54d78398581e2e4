"""One write in the making: events on top of a view that does not show them yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from milepost.journal import ids
from milepost.journal.clock import stamp
from milepost.journal.errors import Conflict
from milepost.journal.events import codec
from milepost.journal.index import job_view
from milepost.journal.recovery.head import Extent
from milepost.journal.states import line_codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from milepost.journal.events.codec import Located
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.index.content import Content
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.line_codec import EncodedState


class Batch:
    """One write in the making: events on top of a view that does not show them yet.

    Args:
        view: what is durable.
        now: see below.
        may_seal: called before a state is added; raises if none may be.

    Attributes:
        view: what is durable.
        now: when its events happen; one reading of the clock for all of them.
        seq: the last event, those of this batch included.
        current: seq of the checkpoint that is current then, 0 for none.
        keys: idempotency keys used by this batch: the checkpoint, and what was saved.
        ids: checkpoint ids made by this batch.
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
        self.opening: dict[str, object] = {}  # data of the job.opened in this batch
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
        """Add one event, with the state it commits; return its seq.

        Raises:
            KeyNeeded, DroppedKey: no state may be written with the key at hand.
            InvalidEvent: the journal would not open with it; nothing is added.
        """
        job_view.check(self.view, type_, data)
        if encoded is not None:
            self._may_seal()
        self.seq += 1
        self._drafts.append((type_, actor, data, encoded))
        if encoded is not None:
            self.size_bytes += len(encoded.rest)
        return self.seq

    def remove(
        self,
        type_: str,
        actor: str,
        data: Mapping[str, object],
        checkpoint_ids: Iterable[str],
    ) -> None:
        """Add an event that removes checkpoints; it says what is current then.

        Args:
            type_: of the event.
            actor: who removes them.
            data: the event's own.
            checkpoint_ids: which; a purge names one that was deleted before.

        Raises:
            InvalidEvent: as `add`.
        """
        self._removed |= self.view.checkpoints.keys() & set(checkpoint_ids)
        current = job_view.current_without(self.view, self._removed)
        self._add_moving(type_, actor, data, current)

    def undelete(
        self, actor: str, data: Mapping[str, object], checkpoint_id: str
    ) -> None:
        """Add an event that brings a checkpoint back; it says what is current then.

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

    def add_repairs(self, repairs: Iterable[JobRepairedData]) -> bool:
        """Add the ``job.repaired`` that recovery owes; tell whether there is any."""
        before = self.seq
        for repair in repairs:
            if repair.get("salvage_file") not in self.view.salvage_files:
                self.add("job.repaired", "recovery", cast("dict[str, object]", repair))
        return self.seq > before

    def begin(self) -> None:
        """Say that what was added so far is nothing that a caller asked for."""
        self._preamble = self.seq

    @property
    def seen_seq(self) -> int:
        """The seq that a caller could have read before its turn came."""
        return self.view.seq if self.seq == self._preamble else self.seq

    def check_seq(self, expected_seq: int | None) -> None:
        """Refuse a stale writer.

        Raises:
            Conflict: the job is not at `expected_seq`.
        """
        if expected_seq is not None and self.seen_seq != expected_seq:
            raise Conflict(
                f"job {self.view.job_id!r} is at seq {self.seen_seq}, "
                f"not {expected_seq}",
                hint="read it again, then decide again",
            )

    def mark(self) -> tuple[int, int]:
        """Return what `rewind` needs to take back what is added from here on."""
        return self.seq, self.current

    def rewind(self, mark: tuple[int, int]) -> None:
        """Take back what was added since `mark`."""
        self.seq, self.current = mark
        del self._drafts[self.seq - self.view.seq :]

    def __len__(self) -> int:
        return len(self._drafts)

    def encode(self) -> Written:
        """Return the bytes of the write, and its events as a reader would find them."""
        first = self.view.seq + 1
        span = (first, self.seq) if len(self._drafts) > 1 else None
        prev, offset, at = self.view.hash, self.view.end, stamp(self.now)
        parts: list[bytes] = []
        events: list[Located] = []
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
            size = len(line)
            if encoded is not None:
                parts.append(line_codec.state_line(encoded, self.view.address_of(seq)))
                size += len(parts[-1])
            parts.append(line)
            events.append((event, offset, size, None))
            prev, offset = event["hash"], offset + size
        assert prev is not None
        return Written(b"".join(parts), Extent(self.seq, prev), events)


class Written(NamedTuple):
    """A write: its bytes, its last seq and hash, its events with their places."""

    data: bytes
    last: Extent
    events: list[Located]
