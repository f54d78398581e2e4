"""Read a state and the delta chain it depends on."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from milepost.journal.errors import (
    MissingKey,
    NewerFormat,
    PlaintextRefused,
    StateOverBound,
    UnreadableState,
)
from milepost.journal.events.codec import STATE_MISSING, has_state, peek
from milepost.journal.states import delta, line_codec, opaque, state_digest
from milepost.journal.states.delta import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.crypto.envelope import StateAddress
    from milepost.journal.events.envelope import StatefulData
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.access import Vault
    from milepost.journal.states.line_codec import Parts
    from milepost.journal.states.recent_states import Known
    from milepost.journal.states.state_digest import DecodedState


class Member(NamedTuple):
    """One stored state of a chain.  `parts` are decrypted."""

    parts: Parts
    data: StatefulData  # of its event
    stored_bytes: int


class Unpacked(NamedTuple):
    """A state's raw bytes, and its delta chain, beginning with the state itself.

    `rest` are the links of the chain that were not read, because a state was cached: a
    base, or if `is_cached` the state itself.  `rest_bytes` are the stored bytes of all
    that was not read.  `plus` are the states before a base that were read.
    """

    raw: bytes
    members: tuple[Member, ...]
    rest: tuple[Link, ...] = ()
    rest_bytes: int = 0
    is_cached: bool = False
    plus: tuple[Member, ...] = ()

    @property
    def links(self) -> tuple[Link, ...]:
        """The chain as `milepost.journal.states.delta` sees it."""
        links = [
            Link(m.parts.seq, m.parts.depth, str(m.data.get("checkpoint_id", "")))
            for m in self.members
        ]
        return (*links, *self.rest)

    @property
    def stored_bytes(self) -> int:
        """The bytes that reading the state takes."""
        read = (*self.members, *self.plus)
        return self.rest_bytes + sum(m.stored_bytes for m in read)

    @property
    def key_ids(self) -> set[str]:
        """The keys of all that was read; see `Parts.key_id`."""
        return {m.parts.key_id for m in (*self.members, *self.plus)}


def unpack(
    seq: int,
    read: Callable[[int], Member],
    recall: Callable[[int], Known | None] = lambda _: None,
) -> Unpacked:
    """Return the raw bytes of the state of event `seq`, without checking its digest.

    Args:
        seq: of the event.
        read: returns a state, as `member` does.
        recall: returns a cached state; it need not be the stored one.

    Raises:
        UnreadableState: a state of the chain is missing or damaged.
        NewerFormat: a codec that this version does not know.
    """
    members = [read(seq)]
    if (known := recall(seq)) is not None:
        rest_bytes = known.stored_bytes - members[0].stored_bytes
        rest = known.links[1:]
        return Unpacked(known.raw, (members[0],), rest, rest_bytes, is_cached=True)
    while (base := members[-1].parts.base) != 0:
        if base >= members[-1].parts.seq or len(members) > delta.MAX_LINKS:
            raise UnreadableState(f"state {seq} has a delta chain without an end")
        if (known := recall(base)) is not None:
            break
        members.append(read(base))
    raw, rest, rest_bytes = (None, (), 0) if known is None else known
    plus: list[Member] = []
    for member in reversed(members):
        if member.parts.plus:
            cached_bytes, first = _before_base(member, read, recall, plus)
            rest_bytes += cached_bytes
            raw = first + (raw or b"")
        raw = line_codec.raw_of(member.parts, member.data["state_bytes"], raw)
    assert raw is not None
    return Unpacked(raw, tuple(members), rest, rest_bytes, plus=tuple(plus))


def _before_base(
    delta_of: Member,
    read: Callable[[int], Member],
    recall: Callable[[int], Known | None],
    plus: list[Member],
) -> tuple[int, bytes]:
    """Return the start of a delta's prefix, and the stored bytes of its cached states.

    Args:
        delta_of: the delta.
        read: as `unpack`.
        recall: as `unpack`.
        plus: the states that are read are added to it.

    Raises:
        UnreadableState, NewerFormat: one of its states is not whole, or unreadable.
    """
    seq, raws, cached_bytes = delta_of.parts.seq, [], 0
    left = delta.most_to_read(delta_of.data["state_bytes"])
    for each in delta_of.parts.plus:
        if each >= seq:
            raise UnreadableState(f"state {seq} needs state {each}, which is later")
        if (known := recall(each)) is not None:
            is_whole, left = len(known.links) == 1, left - len(known.raw)
        else:
            plus.append(read(each))
            parts, size_bytes = plus[-1].parts, plus[-1].data["state_bytes"]
            is_whole, left = not parts.base, left - size_bytes
        if not is_whole or left < 0:
            raise UnreadableState(
                f"state {seq} needs state {each}, which is a delta or too large"
            )
        if known is not None:
            raws.append(known.raw)
            cached_bytes += known.stored_bytes
        else:
            raws.append(line_codec.raw_of(parts, size_bytes))
    return cached_bytes, b"".join(raws)


def member(lines: tuple[bytes, bytes], address: StateAddress, vault: Vault) -> Member:
    """Return a parsed and decrypted state.

    Args:
        lines: its state line, empty if there is none, and its event line.
        address: the address of the state.
        vault: decrypts it.

    Raises:
        UnreadableState: there is no such state, or `vault` cannot decrypt it.
        NewerFormat: a codec that this version does not know.
    """
    state_line, event_line = lines
    seq = address.seq
    event = peek(event_line)
    if event is None or event["seq"] != seq or not has_state(event):
        raise UnreadableState(f"event {seq} is missing, or has no state")
    if not state_line:
        raise UnreadableState(f"state {seq} was removed")
    data = cast("StatefulData", event["data"])
    vault.check(data, seq)
    parts = line_codec.read_line(state_line, seq=seq)
    parts = vault.opened(parts, address, data["state_bytes"])
    return Member(parts, data, len(state_line))


def prove(
    seq: int,
    read: Callable[[int], Member],
    recall: Callable[[int], Known | None] | None = None,
) -> Unpacked:
    """Return the raw bytes of the state of event `seq`, verified by its digest.

    Args:
        seq: of the event.
        read: returns a state, as `member` does.
        recall: as `unpack`; without it, all bytes are stored ones.

    Raises:
        UnreadableState, NewerFormat: as `unpack`; or the digest does not match.
    """
    if recall is not None:
        with suppress(UnreadableState):  # perhaps the cached state is another one
            return _proven(unpack(seq, read, recall))
    return _proven(unpack(seq, read))


def _proven(unpacked: Unpacked) -> Unpacked:
    parts, data, _ = unpacked.members[0]
    state_digest.prove(parts, unpacked.raw, data["state_digest"])
    return unpacked


def open_state(seq: int, read: Callable[[int], Member]) -> DecodedState:
    """Return the state and the metadata of save `seq`, verified by its digest.

    Raises:
        UnreadableState, NewerFormat: as `prove`; or it is not JSON.
    """
    return decoded(prove(seq, read))


def decoded(unpacked: Unpacked) -> DecodedState:
    """Return the state and the metadata of a verified state.

    Raises:
        UnreadableState: it is not JSON.
        NewerFormat: it has a type that this version does not know.
    """
    parts, data, _ = unpacked.members[0]
    if (kind := data.get("state_type")) is not None:
        if kind == opaque.LANGGRAPH:
            state = opaque.shown(unpacked.raw)
            return state_digest.DecodedState(state, metadata_of(unpacked))
        kind = kind[:80]
        raise NewerFormat(
            f"state {parts.seq} is {kind!r}, which this version cannot read"
        )
    return state_digest.decoded(parts, unpacked.raw)


def metadata_of(unpacked: Unpacked) -> dict[str, Any]:
    """Return the metadata of a verified state.

    Raises:
        UnreadableState: it is not JSON.
    """
    parts = unpacked.members[0].parts
    if not parts.metadata:
        return {}
    return state_digest.json_object(parts.metadata, parts.seq, "metadata")


def problem_of(
    seq: int,
    read: Callable[[int], Member],
    check: Callable[[int, Callable[[int], Member]], object] = open_state,
) -> UnreadableState | None:
    """Return why save `seq` does not restore; None if no damage is known.

    A state that needs another key, a higher bound or a newer version is intact by its
    checksum and counts as undamaged.
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
    """Yield the damage of states whose events save no checkpoint.

    A missing one is not reported: the version that wrote it may have dropped it.

    Args:
        view: of the job.
        read: returns a state, as `member` does.
        deep: verify digests, not only the checksums of the lines.
    """
    for seq in view.sizes.others():
        fault = view.faults.get(seq)
        if fault is None and deep:
            problem = problem_of(seq, read, prove)
            fault = None if problem is None else str(problem)
        if fault not in (None, STATE_MISSING):
            yield f"the state of event {seq} (no checkpoint) is damaged: {fault}"
