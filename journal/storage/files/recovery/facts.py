"""Determine what a job's files prove, and what the bytes behind that are.  Read-only.

`judgement` decides on these facts.  Rows are those of the
recovery table in docs/recovery.md.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, cast

from milepost.journal.errors import NewerFormat, UnreadableState
from milepost.journal.events.codec import (
    STATE_MISSING,
    CorruptLine,
    has_state,
    origin_of,
    peek,
    span_of,
)
from milepost.journal.events.vocabulary import SCHEMA_VERSION
from milepost.journal.recovery.diagnosis import gives_up
from milepost.journal.states import line_codec, state_digest
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.canonical import Canonical
from milepost.journal.storage.files.recovery.head import Extent, Head
from milepost.journal.storage.files.recovery.judgement import Action, Facts, required
from milepost.journal.storage.files.recovery.passage import claims, walk

if TYPE_CHECKING:
    from milepost.journal.events.codec import Located
    from milepost.journal.events.envelope import StatefulData
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.storage.files.recovery.passage import Read
    from milepost.journal.storage.files.recovery.snapshot import Evidence

_FIRST_LINE_BYTES = 8192
# A larger state behind the head is verified by the checksum of its line alone.
_MAX_INFLATED_BYTES = 16 * 1024 * 1024


def look(
    evidence: Evidence,
    job_id: str,
    store_id: str | None,
    *,
    trusted: Extent | None = None,
    is_poisoned: bool = False,
) -> Facts:
    """Return the facts about a job's files, in one pass over its events.

    Args:
        evidence: the files.
        job_id: of the job that they must belong to.
        store_id: of the store, None if unknown.
        trusted: an acknowledged event at the offset in the head; nothing before it is
            read.
        is_poisoned: a sync failed, even if the head does not say so.

    Raises:
        NewerFormat: a newer version wrote the head.
        OSError, StorageFailed: the journal cannot be read.
    """
    raw = evidence.head
    head = head_codec.decode(raw or b"")
    if is_poisoned:
        head = (head or Head())._replace(is_poisoned=True)
    size = evidence.size or 0
    facts = Facts(
        head,
        raw is not None,
        size,
        is_short=head is None and len(raw or b"") < head_codec.FILE_BYTES,
        text=evidence,
    )
    if size == 0:
        return facts
    writes = _Writes(head, trusted, states_may_be_gone=_is_other(head, evidence))
    writes.follow(evidence.read, size)
    tail, problem = Action.NOTHING, writes.problem
    if writes.keep.size < size:
        text = Canonical(evidence.read, writes.keep.size, size)
        more = writes.further(text) if text.is_other else writes
        # A missing last newline is left by a crash only behind the acknowledged events,
        # or at creation.
        is_finished = text.size == size + 1 == more.keep.size
        is_finished &= facts.has_head and not facts.is_short
        is_finished &= writes.base is not None
        shown = Head().shown if head is None else head.shown
        is_unseen = head is not None and writes.base and shown.seq <= writes.keep.seq
        if more.keep.seq > writes.keep.seq and (is_finished or not is_unseen):
            tail = (
                Action.FINISH_LINE if is_finished else more.tail(text.read, text.size)
            )
            canonical = evidence._replace(read=text.read, size=text.size)
            facts = facts._replace(is_altered=not is_finished, text=canonical)
            writes = more
        else:
            tail = writes.tail(evidence.read, size)
    if moved := _moved(head, evidence, writes.base):
        facts = facts._replace(is_altered=True)
        problem = problem or moved
    foreign = None if trusted else _foreign(facts, job_id, store_id)
    if head is not None and not head.shown.seq:
        origin = origin_of_journal(evidence.read)
        is_removed = origin is not None and evidence.is_removed(origin)
        facts = facts._replace(is_removed=is_removed)
    return facts._replace(
        is_foreign=foreign is not None,
        newer_seq=writes.newer_seq,
        proven=writes.keep,
        problem=foreign or problem,
        base=writes.base,
        tail=tail,
        is_given_up=writes.is_given_up,
        shown=writes.shown,
    )


def _is_other(head: Head | None, evidence: Evidence) -> bool:
    """Return whether the head refers to another file: this one may be compacted."""
    return head is None or head.inode != evidence.inode


def _moved(
    head: Head | None, evidence: Evidence, base: Extent | None
) -> CorruptLine | None:
    """Return the evidence that another program wrote into this file, or None."""
    must = required(head)
    if _is_other(head, evidence) or base is None or base[:2] != must[:2]:
        return None
    if base.size == must.size:
        return None
    what = f"{must.seq} events in {must.size} bytes"
    return CorruptLine(base.size, what, f"{must.seq} events in {base.size} bytes")


class _Writes:
    """The whole writes of a journal: how far they are intact, and what they contain."""

    def __init__(
        self, head: Head | None, trusted: Extent | None, *, states_may_be_gone: bool
    ) -> None:
        self._must = required(head)
        self._shown = (head or Head()).shown
        self._durability = (head or Head()).durability
        self._may_miss = states_may_be_gone
        begin = None if self._must.seq else Extent()
        self.base = begin if trusted is None else trusted
        self.keep = trusted or Extent()
        self.shown = self.keep if self.keep.hash == self._shown.hash else None
        self.is_given_up = False
        self.newer_seq = 0
        self.problem: CorruptLine | None = None

    def further(self, text: Canonical) -> _Writes:
        """Return these writes and those that follow in a canonical text."""
        more = copy(self)
        more.follow(text.read, text.size)
        return more

    def follow(self, read: Read, size: int) -> None:
        """Add the writes that follow, as far as they are intact."""
        self.problem = None
        write: list[Located] = []
        try:
            for found, data, begin in walk(read, self.keep, size):
                for located in found:
                    write.append(located)
                    event, offset, length, fault = located
                    if self.base is not None:
                        at = offset - begin
                        lines = data[at : at + length]
                        self._check_state(event, lines, offset, fault)
                    if self._ends_write(event, offset):
                        self._take(write)
                        write = []
        except CorruptLine as exc:
            self.problem = exc

    def _ends_write(self, event: Event, offset: int) -> bool:
        """Return whether `event` is the last of its write.

        Raises:
            CorruptLine: it does not belong to the next write.
        """
        start = self.keep.seq + 1
        first, last = span_of(event)
        if first != start or not first <= event["seq"] <= last:
            what = f"a write that begins at {start}"
            raise CorruptLine(offset, what, f"one at {first}")
        return event["seq"] == last

    def _take(self, write: list[Located]) -> None:
        """Add a whole write."""
        for event, offset, size, _ in write:
            at = Extent(event["seq"], event["hash"], offset + size)
            if event["v"] != SCHEMA_VERSION:
                self.newer_seq = self.newer_seq or at.seq
            if at[:2] == self._shown[:2]:
                self.shown = at
            if gives_up(event, self._shown.hash):
                self.base, self.is_given_up = at, True
            elif self.base is None and at[:2] == self._must[:2]:
                self.base = at
            self.keep = at

    def _check_state(
        self, event: Event, lines: bytes, offset: int, fault: str | None
    ) -> None:
        """Beyond the acknowledged event, verify a state against its event's digest."""
        if self._may_miss and fault == STATE_MISSING:
            return  # the fold decides: its checkpoint may be deleted
        check_pair(event, lines, offset, fault)

    def tail(self, read: Read, size: int) -> Action:
        """Return the treatment of the bytes behind the last whole write."""
        if self.keep.size == size:
            return Action.NOTHING
        # With ``always``, each write begins after the sync of the previous one.  So an
        # intact later write proves that the damaged bytes were once on the medium.
        proves = self._durability == "always"
        if proves and _has_later_write(read, self.keep, size):
            return Action.QUARANTINE
        return Action.CUT


def check_pair(event: Event, lines: bytes, offset: int, fault: str | None) -> None:
    """Verify an event's state line.

    Raises:
        CorruptLine: it is damaged, or is not the state that the event binds.
    """
    if event["v"] != SCHEMA_VERSION:
        return  # its hash is valid, and only the newer version knows its state
    if fault is not None:
        raise CorruptLine(offset, "an intact state line", fault)
    if not has_state(event):
        return
    line, _, _ = lines.partition(b"\n")
    data = cast("StatefulData", event["data"])
    try:
        parts = line_codec.read_line(line, seq=event["seq"])
        # The base of a delta and the keys are not available here, so the checksum of
        # the line must suffice.
        is_small = data["state_bytes"] <= _MAX_INFLATED_BYTES
        if is_small and not (parts.base or parts.wrapped):
            raw = line_codec.raw_of(parts, data["state_bytes"])
            state_digest.prove(parts, raw, data["state_digest"])
    except NewerFormat:
        return  # its checksum is valid, and only a newer version can decode it
    except (UnreadableState, KeyError, TypeError, ValueError) as exc:
        raise CorruptLine(offset, "a state with its digest", str(exc)) from exc


def _has_later_write(read: Read, keep: Extent, size: int) -> bool:
    """Return whether a line behind the damage belongs to a later write.

    Its hash cannot always be checked, because it needs the previous hash, which may be
    damaged.  So any line in the form of an event counts.  That errs towards quarantine,
    never towards cutting acknowledged events.
    """
    found = (span_of(event)[0] for _, event in claims(read, keep.size, size))
    return any(first > keep.seq + 1 for first in found)


def origin_of_journal(read: Read) -> str | None:
    """Return the origin of the job that a journal opens; None if it opens none."""
    event = _first_event(read)
    try:
        return None if event is None else origin_of(event)
    except (KeyError, TypeError, AttributeError):
        return None


def _first_event(read: Read) -> Event | None:
    line, _, _ = read(0, _FIRST_LINE_BYTES).partition(b"\n")
    event = peek(line)
    return event if event is not None and event["type"] == "job.opened" else None


def _foreign(facts: Facts, job_id: str, store_id: str | None) -> CorruptLine | None:
    """Return the evidence that the journal is that of another job, or None."""
    assert facts.text is not None
    event = _first_event(facts.text.read)
    if event is None:
        return None
    data: object = event["data"]
    if not isinstance(data, dict):
        return None
    job, store = data.get("job"), data.get("store")
    if job != job_id:
        return CorruptLine(0, f"job {job_id!r}", f"the journal of job {job!r}")
    if store_id not in (None, store):
        found = f"this journal belongs to store {store}, not {store_id}"
        return CorruptLine(0, f"job {job_id!r} of this store", found)
    return None
