"""The salted digest by which an event binds its state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.errors import UnreadableState

if TYPE_CHECKING:
    from milepost.journal.states.line_codec import Parts


class DecodedState(NamedTuple):
    """A decoded and verified state."""

    state: dict[str, Any]
    metadata: dict[str, Any]


def digest(salt: bytes, metadata: bytes, raw: bytes) -> str:
    """Return the digest of a state and its metadata: hex digits of a SHA-256."""
    # Without the length, bytes could move between metadata and state.
    found = hashlib.sha256(salt + len(metadata).to_bytes(8, "big") + metadata)
    found.update(raw)
    return found.hexdigest()


def prove(parts: Parts, raw: bytes, expected: str) -> None:
    """Verify the digest of a state.

    Args:
        parts: its line, decrypted.
        raw: its raw bytes.
        expected: the event's ``state_digest``.

    Raises:
        UnreadableState: the digest does not match.
    """
    found = digest(parts.salt, parts.metadata, raw)
    if found != expected:
        raise UnreadableState(
            f"state {parts.seq} has digest {found}, its event has {expected}"
        )


def decoded(parts: Parts, raw: bytes) -> DecodedState:
    """Return the decoded state and metadata of a line that `prove` verified."""
    text, seq = parts.metadata, parts.seq
    metadata = json_object(text, seq, "metadata") if text else {}
    return DecodedState(json_object(raw, seq, "state"), metadata)


def json_object(text: bytes, seq: int, what: str) -> dict[str, Any]:
    """Return the JSON object in `text`, which belongs to event `seq`.

    Raises:
        UnreadableState: it is not a JSON object.
    """
    try:
        found = orjson.loads(text)
    except ValueError as exc:
        raise UnreadableState(f"the {what} of event {seq} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise UnreadableState(f"the {what} of event {seq} is not a JSON object")
    return found


def same_state(parts: Parts, expected: str, raw: bytes, metadata: bytes) -> bool:
    """Return whether `raw` and `metadata` have the digest `expected`.

    `parts` is the state's line, decrypted.
    """
    return digest(parts.salt, metadata, raw) == expected
