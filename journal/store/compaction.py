"""Rewrite a journal without expired states; its events stay the same.

Event lines are copied byte for byte.  A state line is copied, dropped, or re-encoded if
a state of its delta's prefix is dropped.  A copied encrypted state is rewrapped with
the current key if its own key is available; its ciphertext is not changed.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from milepost.journal import clock
from milepost.journal.errors import (
    MissingKey,
    NewerFormat,
    PlaintextRefused,
    UnreadableState,
)
from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.states import delta, delta_chain, encoding, line_codec
from milepost.journal.states.delta import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from milepost.journal.crypto.envelope import StateAddress
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.access import Vault
    from milepost.journal.states.encoding import Body
    from milepost.journal.states.line_codec import Parts


# ``optional``: it only frees space; ``required``: it erases, whatever that costs.
Need = Literal["none", "optional", "required"]


class Compaction(NamedTuple):
    """Result of a compaction: states dropped and re-encoded, bytes before and after.

    Attributes:
        growth_bytes: None, unless the compaction was skipped: nothing was changed,
            because the journal would have grown by so much.
    """

    job_id: str
    dropped: int
    reencoded: int
    bytes_before: int
    bytes_after: int
    growth_bytes: int | None = None

    @property
    def bytes_freed(self) -> int:
        """Number of bytes saved, not counting the compaction's own event."""
        return self.bytes_before - self.bytes_after


class Unworthy(NamedTuple):
    """A compaction that was skipped: what it would have dropped, and its result."""

    generation: int | None
    drop: frozenset[int]
    growth_bytes: int


def due(view: JobView, now: datetime, trash_seconds: float) -> frozenset[int]:
    """Return the events whose states are due: purged, or out of the trash period.

    Those of executions that were removed go with their checkpoints.  Excludes states
    that are dropped already or on hold.  States of unknown events are kept: this
    version does not know how long they are needed.
    """
    latest = clock.before(now, trash_seconds)
    payloads = _payloads(view, latest)
    ended = [
        trashed.entry
        for trashed in view.trash.values()
        if (trashed.is_purged or datetime.fromisoformat(trashed.at) <= latest)
        and trashed.entry.checkpoint_id not in view.held
    ]
    seqs = {entry.seq for entry in ended}
    if (threads := view.threads) is not None:
        for entry in ended:
            seqs |= {g.seq for g in threads.writes.get(entry.checkpoint_id, ())}
    missing = {seq for seq in seqs if view.faults.get(seq) == STATE_MISSING}
    return payloads | (seqs - missing)


def _payloads(view: JobView, latest: datetime) -> frozenset[int]:
    """Return the events whose states are due and belong to no checkpoint.

    They are those of executions, and writes of a thread whose checkpoint never came.
    """
    known = view.workflows
    gone = () if view.threads is None else view.threads.gone
    return frozenset(
        seq
        for seq, at in gone
        if (not at or datetime.fromisoformat(at) <= latest)
        and view.faults.get(seq) != STATE_MISSING
    ) | frozenset(
        seq
        for execution in known.executions.values()
        for seq in execution.payload_seqs()
        if (
            seq <= known.erased_seq
            or (
                execution.removed_at is not None
                and datetime.fromisoformat(execution.removed_at) <= latest
            )
        )
        and view.faults.get(seq) != STATE_MISSING
    )


def dead_bytes(view: JobView, drop: Iterable[int]) -> int:
    """Estimate the journal bytes that `drop` occupies, events included."""
    return sum(view.sizes[seq] for seq in drop)


class Threshold(NamedTuple):
    """When a compaction is worthwhile.

    Attributes:
        min_bytes: at least this many bytes are freed,
        min_fraction: and at least this fraction of the journal;
        erase_within_seconds: or a state has been out of its trash period for this long;
            None if time alone is not a reason.  A purge always is.
    """

    min_bytes: int = 0
    min_fraction: float = 0.0
    erase_within_seconds: float | None = 7 * 86_400.0

    def need(
        self, view: JobView, drop: Collection[int], now: datetime, trash_seconds: float
    ) -> Need:
        """Return whether the journal is to be rewritten without `drop`."""
        if not drop:
            return "none"
        within = self.erase_within_seconds
        since = clock.before(now, trash_seconds + (within or 0.0))
        is_late = any(
            trashed.is_purged
            or (within is not None and datetime.fromisoformat(trashed.at) <= since)
            for trashed in view.trash.values()
            if trashed.entry.seq in drop
        )
        # Likewise states without a checkpoint: erased, or removed long enough ago.
        erased = _payloads(view, clock.EARLIEST if within is None else since)
        if is_late or not erased.isdisjoint(drop):
            return "required"
        least = max(self.min_bytes, self.min_fraction * view.stored_bytes)
        return "optional" if dead_bytes(view, drop) >= least else "none"


class Compactor:
    """Converts the lines of an old journal to those of the new one, in order.

    Args:
        drop: the saves whose states are dropped.
        live: the saves that can be restored, whose states must be readable.
        read: returns the state line and the event line of an event with a state, from
            the old journal.
        vault: the available keys.
        address: returns the address of an event's state.
    """

    def __init__(
        self,
        drop: frozenset[int],
        live: Collection[int],
        read: Callable[[int], tuple[bytes, bytes]],
        vault: Vault,
        address: Callable[[int], StateAddress],
    ) -> None:
        self._drop = drop
        self._live = live
        self._lines = read
        self._vault = vault
        self._address = address
        # The states of the new journal.
        self._copied: dict[int, _Copied] = {}
        self._last_live = 0
        self.dropped = self.reencoded = self.bytes_freed = 0

    def lines_of(self, seq: int, lines: bytes) -> bytes:
        """Return the new lines of event `seq`, from its state line and event line.

        Raises:
            UnreadableState: the state must be re-encoded and is unreadable, although it
                can be restored: by a live checkpoint, or with a key that is missing.
            NewerFormat: the same, for a codec that this version does not know.
        """
        new = self._new_lines(seq, lines)
        self.bytes_freed += len(lines) - len(new)
        return new

    def _new_lines(self, seq: int, lines: bytes) -> bytes:
        state_line, _, event_line = lines[:-1].rpartition(b"\n")
        event_line += b"\n"
        if not state_line:
            return lines  # an earlier compaction dropped its state
        if seq in self._drop:
            self.dropped += 1
            return event_line
        try:
            return self._kept(seq, state_line) + b"\n" + event_line
        except (UnreadableState, NewerFormat) as exc:
            # With the key it can be undeleted; without its prefix it would be lost.
            if seq in self._live or isinstance(exc, (MissingKey, PlaintextRefused)):
                raise
            # A newer version can still read it.
            if not self._drop.isdisjoint(line_codec.prefix_of(state_line)):
                raise
            return lines  # damaged, or unknown and complete

    def _kept(self, seq: int, state_line: bytes) -> bytes:
        parts = line_codec.read_line(state_line, seq=seq)
        if self._has_prefix(parts):
            line = self._vault.rewrap(state_line, self._address(seq))
            base, depth, plus = parts.base, parts.depth, parts.plus
        else:
            line, base, depth, plus = self._reencode(seq)
            self.reencoded += 1
        more = sum(self._copied[each].size_bytes for each in plus)
        self._copied[seq] = _Copied(base, depth, len(line) + more)
        if seq in self._live:
            self._last_live = seq
        return line

    def _has_prefix(self, parts: Parts) -> bool:
        """Return whether the new journal has all that a state needs."""
        if not parts.base:
            return True
        is_near = 0 < len(self._chain(parts.base)) < delta.MAX_LINKS
        return is_near and all(map(self._copied.get, parts.plus))

    def _chain(self, seq: int) -> list[Link]:
        """Return the delta chain of a state in the new journal; empty without one."""
        chain = []
        while (copied := self._copied.get(seq)) is not None:
            chain.append(Link(seq, copied.depth, ""))
            seq = copied.base
        return chain

    def _read(self, seq: int) -> delta_chain.Member:
        return delta_chain.member(self._lines(seq), self._address(seq), self._vault)

    def _reencode(self, seq: int) -> tuple[bytes, int, int, tuple[int, ...]]:
        unpacked = delta_chain.prove(seq, self._read)
        parts, data, _ = unpacked.members[0]
        body = self._body(unpacked)
        line = line_codec.line_of(
            parts,
            body,
            self._address(seq),
            raw_bytes=data["state_bytes"],
            key=self._vault.key if parts.key_id else None,
        )
        return line[:-1], body.base, body.depth, body.plus

    def _body(self, unpacked: delta_chain.Unpacked) -> Body:
        """Return the shortest of: whole, or a delta after a state that remains.

        That is the nearest one of its old chain, or the last one that was copied.
        """
        raw, data = unpacked.raw, unpacked.members[0].data
        best = encoding.compressed(raw, is_json="state_type" not in data)
        chain = (member.parts.seq for member in unpacked.members[1:])
        nearest = next(filter(self._copied.get, chain), 0)
        for start in {nearest, self._last_live} - {0}:
            # A state that is unreadable itself is no base.
            with suppress(UnreadableState, NewerFormat):
                body = self._delta(unpacked, self._chain(start))
                if body is not None and body.text_bytes < best.text_bytes:
                    best = body
        return best

    def _delta(self, unpacked: delta_chain.Unpacked, chain: list[Link]) -> Body | None:
        """Return a state as a delta in `chain`; None if that is impossible."""
        base = delta.base_of(chain, lambda _: True)
        if base is None:
            return None
        found = delta_chain.unpack(base.seq, self._read)
        # A lost key must lose its own states only.
        is_secret = bool(unpacked.members[0].parts.key_id)
        if any(bool(key_id) != is_secret for key_id in found.key_ids):
            return None
        raw, depth = unpacked.raw, chain[0].depth + 1
        plus, before = self._remaining(unpacked.members[0].parts)
        prefix = before + found.raw
        body = encoding.delta(raw, prefix, base=base.seq, depth=depth, plus=plus)
        if body is None:
            return None
        needed = (*plus, *(link.seq for link in self._chain(base.seq)))
        stored = sum(self._copied[each].size_bytes for each in needed)
        is_readable = stored + body.text_bytes <= delta.most_to_read(len(raw))
        return body if is_readable else None

    def _remaining(self, parts: Parts) -> tuple[tuple[int, ...], bytes]:
        """Return the states before a delta's base that are copied, and their bytes."""
        plus = tuple(filter(self._copied.get, parts.plus))
        raws = (delta_chain.unpack(each, self._read).raw for each in plus)
        return plus, b"".join(raws)


class _Copied(NamedTuple):
    """A state line in the new journal; `base` and `depth` are as in `Body`.

    `size_bytes` are those of its line, and of the states before a delta's base.
    """

    base: int
    depth: int
    size_bytes: int
