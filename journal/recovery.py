"""What to do with the bytes behind the last acknowledged event.  Pure.

Rows are those of the recovery table in docs/recovery.md.  This module judges bytes; it
reads and changes no file.  `journal.storage_file` carries the verdict out, under the
job's lock.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from journal import state_codec, state_proof
from journal.errors import NewerFormat, UnreadableState
from journal.event_codec import STATE_MISSING, BadLine, peek, scan, span_of
from journal.events import SCHEMA_VERSION
from journal.head import Extent

if TYPE_CHECKING:
    from journal.events import Event


class Action(Enum):
    """What becomes of the bytes after `TailVerdict.keep`."""

    NOTHING = "clean"  # R10, R11: there are none
    FINISH_LINE = "finish it"  # R12: only the newline is missing
    CUT = "torn"  # R14: never acknowledged; keep a copy, then cut
    QUARANTINE = "damaged"  # R13: it was synced once, so this is rot


class TailVerdict(NamedTuple):
    """The verdict on a tail.

    Attributes:
        keep: the last whole write; all up to it stays.
        action: for what follows `keep`.
        problem: the first bad line, with its offset in the journal.
    """

    keep: Extent
    action: Action
    problem: BadLine | None = None


def judge_tail(
    data: bytes,
    acknowledged: Extent,
    *,
    later_writes_prove: bool = True,
    states_may_be_gone: bool = False,
) -> TailVerdict:
    """Judge `data`, the bytes that follow `acknowledged` in a journal.

    Args:
        data: all bytes from `acknowledged.size` to the end of the file.
        acknowledged: what certainly was there before.
        later_writes_prove: each write began after the one before was synced, so an
            intact later write behind damage means rot.  Not so unless durability is
            ``always``.
        states_may_be_gone: `data` may have been compacted, so a save without its state
            line is for the fold to judge.
    """
    may_miss = states_may_be_gone
    keep, problem = _whole_writes(data, acknowledged, may_miss=may_miss)
    rest = data[keep.size - acknowledged.size :]
    if not rest:
        return TailVerdict(keep, Action.NOTHING)
    problem = problem or BadLine(keep.size, "a whole write", f"{len(rest)} bytes of it")
    if not rest.endswith(b"\n"):
        finished, _ = _whole_writes(rest + b"\n", keep, may_miss=may_miss)
        if finished.size == keep.size + len(rest) + 1:
            return TailVerdict(finished, Action.FINISH_LINE)
    if later_writes_prove and _has_later_write(rest, keep.seq + 1):
        return TailVerdict(keep, Action.QUARANTINE, problem)
    return TailVerdict(keep, Action.CUT, problem)


def gives_up(event: Event, acknowledged: Extent) -> bool:
    """Tell whether `event` says that a person gave up what was `acknowledged`.

    Then a head that still acknowledges it is older than that repair (R21).
    """
    return (
        event["type"] == "job.repaired"
        and event["data"].get("lost_hash") == acknowledged.hash
    )


def _whole_writes(
    data: bytes, before: Extent, *, may_miss: bool
) -> tuple[Extent, BadLine | None]:
    """Return how far `data` holds whole intact writes, and why no further."""
    keep = before
    start = before.seq + 1  # where the write in hand began
    located = scan(data, seq=before.seq, prev=before.hash or None, offset=before.size)
    try:
        for event, offset, size, fault in located:
            if not (may_miss and fault == STATE_MISSING):
                _check_pair(event, data[offset - before.size :], offset, fault)
            first, last = span_of(event)
            if first != start or not first <= event["seq"] <= last:
                return keep, BadLine(
                    offset, f"a write that begins at {start}", f"one at {first}"
                )
            if event["seq"] == last:
                keep = Extent(last, event["hash"], offset + size)
                start = last + 1
    except BadLine as exc:
        return keep, exc
    return keep, None


def _check_pair(event: Event, lines: bytes, offset: int, fault: str | None) -> None:
    """Beyond the watermark a state must decode and give its event's digest."""
    if event["v"] != SCHEMA_VERSION:
        return  # a newer version's; intact by its hash, and not ours to judge
    if fault is not None:
        raise BadLine(offset, "an intact state line", fault)
    if event["type"] != "checkpoint.saved":
        return
    line, _, _ = lines.partition(b"\n")
    data = event["data"]
    try:
        parts = state_codec.read_line(line, seq=event["seq"])
        # What a delta differs from is not at hand, and neither is a key; the line's
        # checksum has to do.
        if not (parts.base or parts.wrapped):
            raw = state_codec.raw_of(parts, data["state_bytes"])
            state_proof.prove(parts, raw, data["state_sha256"])
    except NewerFormat:
        return  # intact by its checksum, and not ours to judge
    except (UnreadableState, KeyError, TypeError, ValueError) as exc:
        raise BadLine(offset, "a state with its digest", str(exc)) from exc


def _has_later_write(rest: bytes, missing: int) -> bool:
    """Tell whether a line behind the damage belongs to a write after event `missing`.

    Its hash cannot always be checked (it needs the hash of the event before, which may
    be what is damaged), so an event line in form is enough.  That errs towards
    quarantine, never towards cutting what was acknowledged.
    """
    for line in rest.split(b"\n")[:-1]:
        event = peek(line)
        if event is not None:
            first, _ = span_of(event)
            if first > missing:
                return True
    return False
