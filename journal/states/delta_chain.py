"""Reading a state, and the others that it is told as a difference from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from milepost.journal.errors import (
    MissingKey,
    NewerFormat,
    PlaintextRefused,
    StateOverBound,
    UnreadableState,
)
from milepost.journal.events.codec import STATE_MISSING, has_state, peek
from milepost.journal.states import delta, line_codec, state_digest
from milepost.journal.states.delta import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.crypto.envelope import StateAddress
    from milepost.journal.events.vocabulary import StatefulData
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.access import Vault
    from milepost.journal.states.line_codec import Parts
    from milepost.journal.states.state_digest import DecodedState


class Member(NamedTuple):
    """One state of a chain, as it is stored.  `parts` are in the clear."""

    parts: Parts
    data: StatefulData  # of its event
    stored_bytes: int


class Unpacked(NamedTuple):
    """A state's raw bytes, and the chain that led to them, itself first."""

    raw: bytes
    members: tuple[Member, ...]

    @property
    def links(self) -> tuple[Link, ...]:
        """The chain as `milepost.journal.states.delta` sees it."""
        return tuple(
            Link(m.parts.seq, m.parts.depth, str(m.data.get("checkpoint_id", "")))
            for m in self.members
        )

    @property
    def stored_bytes(self) -> int:
        """How much is read to have it."""
        return sum(m.stored_bytes for m in self.members)


def unpack(seq: int, read: Callable[[int], Member]) -> Unpacked:
    """Return the raw bytes of the state of event `seq`, its digest not checked yet.

    Args:
        seq: which event.
        read: returns a state, as `member` does.

    Raises:
        UnreadableState: one of the states on the way is not what was written.
        NewerFormat: a codec that this version does not know.
    """
    members = [read(seq)]
    while (base := members[-1].parts.base) != 0:
        if base >= members[-1].parts.seq or len(members) > delta.MAX_LINKS:
            raise UnreadableState(f"state {seq} hangs on a chain without an end")
        members.append(read(base))
    raw: bytes | None = None
    for member in reversed(members):
        raw = line_codec.raw_of(member.parts, member.data["state_bytes"], raw)
    assert raw is not None
    return Unpacked(raw, tuple(members))


def member(lines: tuple[bytes, bytes], address: StateAddress, vault: Vault) -> Member:
    """Return a state taken apart and decrypted.

    Args:
        lines: its state line, empty if there is none, and its event line.
        address: whose they are.
        vault: opens what is encrypted.

    Raises:
        UnreadableState: there is no such state, or `vault` does not open it.
        NewerFormat: a codec that this version does not know.
    """
    state_line, event_line = lines
    seq = address.seq
    event = peek(event_line)
    if event is None or event["seq"] != seq or not has_state(event):
        raise UnreadableState(f"event {seq} is not there any more, or has no state")
    if not state_line:
        raise UnreadableState(f"state {seq} is gone")
    data = cast("StatefulData", event["data"])
    vault.check(data, seq)
    parts = line_codec.read_line(state_line, seq=seq)
    parts = vault.opened(parts, address, data["state_bytes"])
    return Member(parts, data, len(state_line))


def prove(seq: int, read: Callable[[int], Member]) -> Unpacked:
    """Return the raw bytes of the state of event `seq`, proved by its digest.

    Raises:
        UnreadableState, NewerFormat: as `unpack`; or the digest is another.
    """
    unpacked = unpack(seq, read)
    parts, data, _ = unpacked.members[0]
    state_digest.prove(parts, unpacked.raw, data["state_digest"])
    return unpacked


def open_state(seq: int, read: Callable[[int], Member]) -> DecodedState:
    """Return the state and the metadata of save `seq`, proved by its event's digest.

    Raises:
        UnreadableState, NewerFormat: as `prove`; or it is no JSON.
    """
    raw, members = prove(seq, read)
    parts, data, _ = members[0]
    if "state_type" in data:
        kind = data["state_type"][:80]
        raise NewerFormat(f"state {seq} is {kind!r}, which this version cannot read")
    return state_digest.decoded(parts, raw)


def problem_of(
    seq: int,
    read: Callable[[int], Member],
    check: Callable[[int, Callable[[int], Member]], object] = open_state,
) -> UnreadableState | None:
    """Return why save `seq` does not restore; None if nothing is known to be wrong.

    A state that needs another key, a higher bound or a newer version is intact by its
    checksum; it is not judged here.
    """
    try:
        check(seq, read)
    except (MissingKey, PlaintextRefused, StateOverBound, NewerFormat):
        return None
    except UnreadableState as exc:
        return exc
    return None


def damaged_others(
    view: JobView, read: Callable[[int], Member], *, deep: bool
) -> Iterator[str]:
    """Yield what is wrong with the states of events that save no checkpoint.

    One that is missing is not reported: the version that wrote it may have dropped it.

    Args:
        view: of the job.
        read: returns a state, as `member` does.
        deep: check their digests, not only the checksums of their lines.
    """
    for seq in view.places.others():
        fault = view.faults.get(seq)
        if fault is None and deep:
            problem = problem_of(seq, read, prove)
            fault = None if problem is None else str(problem)
        if fault not in (None, STATE_MISSING):
            yield f"the state of event {seq} (no checkpoint) is damaged: {fault}"
