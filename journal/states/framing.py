"""Several byte strings as one: each after its length (FORMAT.md: *framed*)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.errors import UnreadableState

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH_BYTES = 8


def framed(parts: Iterable[bytes | str]) -> bytes:
    """Return the parts as one; text is encoded as UTF-8."""
    found = []
    for part in parts:
        data = part.encode() if isinstance(part, str) else bytes(part)
        found += [len(data).to_bytes(_LENGTH_BYTES, "big"), data]
    return b"".join(found)


def parts_of(raw: bytes) -> list[bytes]:
    """Return the parts of `framed` bytes.

    Raises:
        UnreadableState: they are not framed.
    """
    parts, at = [], 0
    while at < len(raw):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(raw[at:start], "big")
        parts.append(raw[start:at])
    if at != len(raw):
        raise UnreadableState("a framed state ends within a part")
    return parts
