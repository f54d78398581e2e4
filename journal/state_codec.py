"""States as bytes: the promise that what comes back equals what was saved.

A state line is ``{"state":SEQ,"codec":"json","salt":…,"metadata_bytes":…,
"metadata":{…},"body":…,"crc":"<8 hex>"}``, the two in the middle only where there is
metadata.  Under the codecs ``zstd`` and ``zstd-delta`` the body is base64 of a
Zstandard frame, and a delta says, before the salt, from which state it differs and how
many steps it is from a whole one: ``"base":SEQ,"step":N``.  The event below binds
metadata and state by a salted digest of their raw bytes, never by how they are stored,
so a state line may be encoded anew or dropped without touching an event.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from journal.errors import InvalidState, NewerFormat, StateTooLarge, UnreadableState
from journal.event_codec import CRC_SUFFIX_BYTES

MAX_METADATA_BYTES = 64 * 1024
_SALT_BYTES = 16
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_ORJSON_DEPTH = 254
# A few levels less than that: answers wrap a state into objects of their own.
DEPTH_LIMIT = 250


class Limits(NamedTuple):
    """How large a state may be: bytes of its JSON, levels of nesting."""

    max_bytes: int = 16 * 1024 * 1024
    max_depth: int = 200


class Body(NamedTuple):
    """A state's bytes as one codec stores them.

    Attributes:
        codec: ``json``, ``zstd`` or ``zstd-delta``.
        text: what stands on the line, quotes included.
        base: the seq of the state that a delta differs from, else 0.
        step: how many steps a delta is from a whole state (`journal.delta`), else 0.
    """

    codec: str
    text: bytes
    base: int = 0
    step: int = 0


class Sealed(NamedTuple):
    """A state ready to be written: all that does not depend on its seq."""

    rest: bytes  # the state line after its number, before its checksum
    sha256: str
    raw_bytes: int
    salt: bytes
    metadata: bytes

    def stored_as(self, body: Body) -> Sealed:
        """Return the same state, bound by the same digest, in another form."""
        return self._replace(rest=_rest(body, self.salt, self.metadata))


class Opened(NamedTuple):
    """A state line that was read and checked."""

    state: dict[str, Any]
    metadata: dict[str, Any]


def to_json(state: object, limits: Limits, *, what: str = "state") -> bytes:
    """Return `state` as JSON that reads back equal to it.

    Raises:
        InvalidState: it would not read back equal; names the path and what to do.
        StateTooLarge: more bytes or levels than `limits`.
    """
    if not isinstance(state, dict):
        raise InvalidState(
            "$", f"{what} must be a dict, got {type(state).__name__}", hint=_WRAP
        )
    # orjson has a bound of its own, so wrapped in as many lists as ours is lower, a
    # state meets ours at C speed; walking it would cost more than all the rest.
    extra = _ORJSON_DEPTH - limits.max_depth
    wrapped: object = state
    for _ in range(extra):
        wrapped = [wrapped]
    try:
        raw = orjson.dumps(wrapped)
    except (TypeError, ValueError, RecursionError) as exc:
        raise _explain(state, limits, str(exc), what) from exc
    raw = raw[extra : len(raw) - extra]
    if len(raw) > limits.max_bytes:
        raise StateTooLarge(
            "$",
            f"{what} has {len(raw)} bytes as JSON, more than {limits.max_bytes}",
            hint="save less, keep large data in files, or raise max_state_bytes",
        )
    # Comparing with what a reader would get is the promise itself, at C speed.
    if orjson.loads(raw) != state:
        raise _explain(state, limits, "it changed while it was being saved", what)
    return raw


_WRAP = "wrap it: {'value': …}"


def _explain(
    state: dict[str, Any], limits: Limits, otherwise: str, what: str
) -> InvalidState:
    """Find the first place that JSON cannot hold; `otherwise` if there is none."""
    where = "" if what == "state" else f"in the {what}, "
    stack: list[tuple[str, object, int]] = [("$", state, 1)]
    while stack:
        path, value, depth = stack.pop()
        if depth > limits.max_depth + 1:
            deep = f"{where}it nests deeper than {limits.max_depth} levels"
            return StateTooLarge(path[:60], deep)
        if (problem := _problem(value)) is not None:
            return InvalidState(path, where + problem[0], hint=problem[1])
        if isinstance(value, dict):
            for key, child in reversed(value.items()):
                if (problem := _key_problem(key)) is not None:
                    at = f"{path}.{key!r}"
                    return InvalidState(at, where + problem[0], hint=problem[1])
                name = key if key.isprintable() else repr(key)
                stack.append((f"{path}.{name}", child, depth + 1))
        elif isinstance(value, list):
            stack.extend(
                (f"{path}[{i}]", value[i], depth + 1)
                for i in reversed(range(len(value)))
            )
    return InvalidState("$", where + otherwise)


def _key_problem(key: object) -> tuple[str, str | None] | None:
    if type(key) is not str:
        return f"the key is {type(key).__name__}, not a plain string", "use str(key)"
    return _problem(key)


def _problem(  # noqa: PLR0911 - one return per kind of value, like a table
    value: object,
) -> tuple[str, str | None] | None:
    match value:
        case None | bool() | dict() | list():
            return None
        case str():
            return _text_problem(value)
        case int():
            if _INT_MIN <= value <= _INT_MAX:
                return None
            return "an integer beyond 64 bits", "save it as a string"
        case float():
            if type(value) is not float:
                return f"a {type(value).__name__} has no JSON form", "save float(value)"
            if value - value == 0:
                return None
            return f"{value} has no JSON form", "save None or a string"
        case tuple():
            return "a tuple would come back as a list", "save list(value)"
        case bytes() | bytearray():
            return "bytes have no JSON form", "save base64 text"
        case set() | frozenset():
            return "a set has no JSON form", "save sorted(value)"
    kind = type(value).__name__
    if hasattr(value, "isoformat"):
        return f"a {kind} would come back as a string", "save value.isoformat()"
    return f"a {kind} would not come back as it is", "save plain JSON values"


def _text_problem(value: str) -> tuple[str, str | None] | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text with a lone surrogate has no UTF-8 form", "clean it first"
    return None


def metadata_json(metadata: Mapping[str, Any] | None) -> bytes:
    """Return the bytes of `metadata`, none if there is none.

    Raises:
        InvalidState: it would not come back equal.
        StateTooLarge: more than 64 KiB.
    """
    if metadata is None or metadata == {}:
        return b""
    plain = dict(metadata) if isinstance(metadata, Mapping) else metadata
    return to_json(plain, Limits(MAX_METADATA_BYTES), what="metadata")


def plain(raw: bytes) -> Body:
    """Return `raw` as it is, readable with any JSON tool."""
    return Body("json", raw)


def compressed(raw: bytes) -> Body:
    """Return `raw` as a Zstandard frame, or as it is if that is no longer."""
    from journal import zstd

    text = _quoted(zstd.compress(raw))
    return Body("zstd", text) if len(text) < len(raw) else plain(raw)


def delta(raw: bytes, base_raw: bytes, *, base: int, step: int) -> Body:
    """Return `raw` as what differs from `base_raw`, the state of event `base`."""
    from journal import zstd

    return Body("zstd-delta", _quoted(zstd.compress(raw, base_raw)), base, step)


def line_of(parts: Parts, body: Body) -> bytes:
    """Return the line `parts` with its state in another form, newline included."""
    return _line(parts.seq, _rest(body, parts.salt, parts.metadata))


def _quoted(frame: bytes) -> bytes:
    return b'"%b"' % binascii.b2a_base64(frame, newline=False)


def seal(
    raw: bytes, metadata: Mapping[str, Any] | None, body: Body | None = None
) -> Sealed:
    """Return `raw` and `metadata` with a fresh salt and the digest that binds them.

    Args:
        raw: the state's bytes, as `to_json` gives them.
        metadata: shown in lists.
        body: how `raw` is stored; plain unless given.

    Raises:
        InvalidState: `metadata` would not come back equal.
        StateTooLarge: `metadata` has more than 64 KiB.
    """
    salt = os.urandom(_SALT_BYTES)
    meta = metadata_json(metadata)
    return Sealed(
        _rest(body or plain(raw), salt, meta),
        _digest(salt, meta, raw),
        len(raw),
        salt,
        meta,
    )


def _rest(body: Body, salt: bytes, meta: bytes) -> bytes:
    return b'"codec":"%b"%b,"salt":"%b"%b,"body":%b' % (
        body.codec.encode(),
        b',"base":%d,"step":%d' % (body.base, body.step) if body.base else b"",
        salt.hex().encode(),
        b',"metadata_bytes":%d,"metadata":%b' % (len(meta), meta) if meta else b"",
        body.text,
    )


def _digest(salt: bytes, metadata: bytes, raw: bytes) -> str:
    # The length keeps the border between metadata and state unmistakable.
    digest = hashlib.sha256(salt + len(metadata).to_bytes(8, "big") + metadata)
    digest.update(raw)
    return digest.hexdigest()


def state_line(seq: int, sealed: Sealed) -> bytes:
    """Return the whole state line of event `seq`, checksum and newline included."""
    return _line(seq, sealed.rest)


def _line(seq: int, rest: bytes) -> bytes:
    head = b'{"state":%d,' % seq
    crc = zlib.crc32(rest, zlib.crc32(head))
    return b'%b%b,"crc":"%08x"}\n' % (head, rest, crc)


def prove(parts: Parts, raw: bytes, sha256: str) -> Opened:
    """Return what a state line holds, once it is proved to be what its event bound.

    Args:
        parts: the line.
        raw: its state's raw bytes.
        sha256: the event's ``state_sha256``.

    Raises:
        UnreadableState: the digest is another.
    """
    found = _digest(parts.salt, parts.metadata, raw)
    if found != sha256:
        raise UnreadableState(
            f"state {parts.seq} has digest {found}, its event says {sha256}"
        )
    metadata = orjson.loads(parts.metadata) if parts.metadata else {}
    return Opened(orjson.loads(raw), metadata)


def raw_of(parts: Parts, raw_bytes: int, base: bytes | None = None) -> bytes:
    """Return the raw bytes of a state; its digest is the caller's to check.

    Args:
        parts: its line.
        raw_bytes: how many there are; a frame that claims more is refused.
        base: the raw bytes that a delta differs from.

    Raises:
        UnreadableState: they cannot be had from what is stored.
    """
    if parts.codec == "json":
        raw = parts.body
        if len(raw) != raw_bytes:
            raise UnreadableState(
                f"state {parts.seq} has {len(raw)} bytes, its event says {raw_bytes}"
            )
        return raw
    from journal import zstd

    if parts.base and base is None:
        raise UnreadableState(f"state {parts.seq} needs state {parts.base}")
    try:
        frame = binascii.a2b_base64(parts.body[1:-1], strict_mode=True)
        return zstd.decompress(frame, raw_bytes, base or b"")
    except ValueError as exc:
        raise UnreadableState(f"state {parts.seq}: {exc}") from exc


class Parts(NamedTuple):
    """A state line taken apart; `body` is still as its codec stores it."""

    seq: int
    codec: str
    base: int
    step: int
    salt: bytes
    metadata: bytes
    body: bytes


# Metadata may hold a key named "body", so its length says where it ends.
_HEADER = re.compile(
    rb'\{"state":(\d+),"codec":"(json|zstd|zstd-delta)"'
    rb'(?:,"base":(\d+),"step":(\d+))?,"salt":"([0-9a-f]{32})"'
    rb'(?:,"metadata_bytes":(\d+),"metadata":)?'
)
_BODY = b',"body":'


# No header is longer: a few numbers, a codec's name, a salt, and their names.
HEADER_BYTES = 256


def read_line(line: bytes, *, seq: int) -> Parts:
    """Take apart the state line of event `seq`, its checksum verified.

    Raises:
        UnreadableState: the checksum or the number is wrong.
        NewerFormat: a codec that this version does not know.
    """
    crc = b',"crc":"%08x"}' % zlib.crc32(line[:-CRC_SUFFIX_BYTES])
    if line[-CRC_SUFFIX_BYTES:] != crc:
        raise UnreadableState(f"state {seq} fails its checksum")
    parts = _split(line)
    if parts.seq != seq:
        raise UnreadableState(f"state {parts.seq} stands where {seq} must")
    return parts


def _header(line: bytes) -> re.Match[bytes]:
    header = _HEADER.match(line)
    if header is None:
        raise NewerFormat(f"a state line begins {line[:60]!r}, unknown here")
    return header


def _split(line: bytes) -> Parts:
    header = _header(line)
    border = header.end() + int(header[6] or 0)
    is_delta = header[2] == b"zstd-delta"
    if not line.startswith(_BODY, border) or is_delta != bool(header[3]):
        raise NewerFormat(f"a state line begins {line[:60]!r}, unknown here")
    return Parts(
        int(header[1]),
        header[2].decode(),
        int(header[3] or 0),
        int(header[4] or 0),
        bytes.fromhex(header[5].decode()),
        line[header.end() : border],
        line[border + len(_BODY) : -CRC_SUFFIX_BYTES],
    )


def metadata_span(start_of_line: bytes, *, seq: int) -> tuple[int, int]:
    """Return where on the state line of event `seq` its metadata begins and ends.

    Args:
        start_of_line: at least `HEADER_BYTES` of the line, or all of it.
        seq: whose line it must be.

    Raises:
        UnreadableState: it is another's.
        NewerFormat: a codec that this version does not know.
    """
    header = _header(start_of_line)
    if int(header[1]) != seq:
        raise UnreadableState(f"state {int(header[1])} stands where {seq} must")
    return header.end(), header.end() + int(header[6] or 0)


def same_state(line: bytes, sha256: str, raw: bytes, metadata: bytes) -> bool:
    """Tell whether `raw` and `metadata` are what a state line's digest stands for."""
    return _digest(_split(line).salt, metadata, raw) == sha256
