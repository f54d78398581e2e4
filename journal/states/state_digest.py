"""What proves a state: the salted digest that its event holds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.errors import UnreadableState

if TYPE_CHECKING:
    from milepost.journal.states.line_codec import Parts


class DecodedState(NamedTuple):
    """A state that was read and checked."""

    state: dict[str, Any]
    metadata: dict[str, Any]


def digest(salt: bytes, metadata: bytes, raw: bytes) -> str:
    """Return what an event binds its state with: hex digits of a SHA-256."""
    # The length keeps the border between metadata and state unmistakable.
    found = hashlib.sha256(salt + len(metadata).to_bytes(8, "big") + metadata)
    found.update(raw)
    return found.hexdigest()


def prove(parts: Parts, raw: bytes, expected: str) -> None:
    """Return if a state line holds what its event bound.

    Args:
        parts: the line, in the clear.
        raw: its state's raw bytes.
        expected: the event's ``state_digest``.

    Raises:
        UnreadableState: the digest is another.
    """
    found = digest(parts.salt, parts.metadata, raw)
    if found != expected:
        raise UnreadableState(
            f"state {parts.seq} has digest {found}, its event says {expected}"
        )


def decoded(parts: Parts, raw: bytes) -> DecodedState:
    """Return what a state line holds, which was proved to be what its event bound."""
    text, seq = parts.metadata, parts.seq
    metadata = json_object(text, seq, "metadata") if text else {}
    return DecodedState(json_object(raw, seq, "state"), metadata)


def json_object(text: bytes, seq: int, what: str) -> dict[str, Any]:
    """Return what was saved as event `seq`, decoded.

    Raises:
        UnreadableState: it is no JSON object.
    """
    try:
        found = orjson.loads(text)
    except ValueError as exc:
        raise UnreadableState(f"the {what} of event {seq} is no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise UnreadableState(f"the {what} of event {seq} is no JSON object")
    return found


def same_state(parts: Parts, expected: str, raw: bytes, metadata: bytes) -> bool:
    """Tell whether `raw` and `metadata` are what a state's digest stands for.

    `parts` are its line, in the clear.
    """
    return digest(parts.salt, metadata, raw) == expected
