"""Encode a state's bytes with one of the codecs."""

from __future__ import annotations

import binascii
from typing import NamedTuple


class Body(NamedTuple):
    """A state's bytes in the encoding of one codec.

    Attributes:
        codec: ``json``, ``zstd`` or ``zstd-delta``.
        content: the state's JSON, or a Zstandard frame.
        base: seq of the state that a delta's prefix ends with, else 0.
        depth: of a delta (`milepost.journal.states.delta`), else 0.
        plus: seqs of the states that a delta's prefix begins with, in order.
    """

    codec: str
    content: bytes
    base: int = 0
    depth: int = 0
    plus: tuple[int, ...] = ()

    @property
    def text_bytes(self) -> int:
        """Its size in bytes on a line that is not encrypted."""
        size = len(self.content)
        return size if self.codec == "json" else (size + 2) // 3 * 4 + 2

    @property
    def text(self) -> bytes:
        """Its form on a line that is not encrypted."""
        if self.codec == "json":
            return self.content
        return b'"%b"' % binascii.b2a_base64(self.content, newline=False)


def plain(raw: bytes) -> Body:
    """Return `raw` unencoded, readable with any JSON tool."""
    return Body("json", raw)


def compressed(raw: bytes, *, is_json: bool = True) -> Body:
    """Return `raw` as a Zstandard frame; unencoded if it is JSON and no longer."""
    from milepost.journal.states import zstd

    body = Body("zstd", zstd.compress(raw))
    return plain(raw) if is_json and body.text_bytes >= len(raw) else body


def delta(
    raw: bytes, prefix: bytes, *, base: int, depth: int, plus: tuple[int, ...] = ()
) -> Body | None:
    """Return `raw` as a delta against `prefix`.

    Args:
        raw: the state.
        prefix: the states of `plus` and then that of event `base`.
        base: see `Body`.
        depth: see `Body`.
        plus: see `Body`.

    Returns:
        None if the prefix is too short, or both are too long.
    """
    from milepost.journal.states import zstd

    reach = len(raw) + len(prefix)
    if len(prefix) < zstd.SHORTEST_BASE or reach > zstd.LIMIT_BYTES:
        return None
    return Body("zstd-delta", zstd.compress(raw, prefix), base, depth, plus)
