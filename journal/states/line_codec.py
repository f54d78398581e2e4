"""State lines: encoding, parsing and encryption of a state in the journal.

A state line is ``{"state":SEQ,"codec":"json","salt":…,"metadata_bytes":…,
"metadata":{…},"body":…,"crc":"<8 hex>"}``, without the two metadata fields if there is
no metadata.  With the codecs ``zstd`` and ``zstd-delta`` the body is base64 of a
Zstandard frame.  A delta names its base and its depth (`milepost.journal.states.delta`)
before the salt: ``"base":SEQ,"depth":N``; and then ``"plus":[SEQ,…]`` if its prefix has
other states before the base.

An encrypted one begins ``{"state":SEQ,"alg":"A256GCM","key":ID,"wrapped":…,"codec":…``.
It has no plain salt, and its metadata and body are ciphertext
(`milepost.journal.crypto.envelope`).

The event below binds metadata and state by a salted digest of their raw bytes,
independent of the encoding.  So a state line can be re-encoded, re-encrypted or dropped
without changing an event.
"""

from __future__ import annotations

import binascii
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from milepost.journal.crypto import envelope
from milepost.journal.crypto.envelope import BodyHeader, DataKey, StateAddress
from milepost.journal.crypto.keys import MAX_KEY_ID_BYTES, Key
from milepost.journal.errors import NewerFormat, UnreadableState
from milepost.journal.events.codec import CRC_SUFFIX_BYTES
from milepost.journal.states import delta, encoding, state_digest
from milepost.journal.states.encoding import Body
from milepost.journal.states.json_states import metadata_json

_SALT_BYTES = 16


class EncodedState(NamedTuple):
    """A state ready to be written: all parts that do not depend on its address."""

    rest: bytes  # the state line from its codec up to its checksum
    digest: str
    raw_bytes: int
    salt: bytes
    metadata: bytes
    secret: DataKey | None = None  # encrypts `rest`

    def stored_as(self, body: Body) -> EncodedState:
        """Return the same state, with the same digest, in another encoding."""
        if self.secret is None:
            return self._replace(rest=_rest(body, self.salt, self.metadata))
        return self.encrypted(body, self.secret.key)

    def encrypted(self, body: Body, key: Key) -> EncodedState:
        """Return the same state, with the same digest, under a fresh data key."""
        secret = DataKey.new(key)
        rest = _secret_rest(secret, body, self)
        return self._replace(rest=rest, secret=secret)


def encode_state(
    raw: bytes,
    metadata: Mapping[str, Any] | None,
    body: Body | None = None,
    *,
    key: Key | None = None,
) -> EncodedState:
    """Return `raw` and `metadata` with a fresh salt and their digest.

    Args:
        raw: the state's bytes, as `json_states.to_json` returns them.
        metadata: shown in lists.
        body: the encoding of `raw`; plain JSON if None.
        key: encrypts both; None stores them in plain text.

    Raises:
        InvalidState: `metadata` would not read back equal.
        StateTooLarge: `metadata` has more than 64 KiB.
    """
    body = body or encoding.plain(raw)
    salt = os.urandom(_SALT_BYTES)
    meta = metadata_json(metadata)
    digest = state_digest.digest(salt, meta, raw)
    if key is None:
        return EncodedState(_rest(body, salt, meta), digest, len(raw), salt, meta)
    return EncodedState(b"", digest, len(raw), salt, meta).encrypted(body, key)


def _rest(body: Body, salt: bytes, meta: bytes) -> bytes:
    return b'%b,"salt":"%b"%b,"body":%b' % (
        _form(body),
        salt.hex().encode(),
        _metadata_field(meta),
        body.text,
    )


def _secret_rest(secret: DataKey, body: Body, encoded: EncodedState) -> bytes:
    raw_bytes = encoded.raw_bytes
    form = BodyHeader(body.codec, body.base, body.depth, raw_bytes, body.plus)
    meta = encoded.metadata
    if meta:
        meta = b'"%b"' % envelope.seal_metadata(secret, meta)
    text = envelope.seal_body(secret, form, encoded.salt + body.content)
    return b'%b%b,"body":"%b"' % (_form(body), _metadata_field(meta), text)


def _form(body: Body) -> bytes:
    base = b',"base":%d,"depth":%d' % (body.base, body.depth) if body.base else b""
    if body.plus:
        base += b',"plus":[%b]' % ",".join(map(str, body.plus)).encode()
    return b'"codec":"%b"%b' % (body.codec.encode(), base)


def _metadata_field(text: bytes) -> bytes:
    return b',"metadata_bytes":%d,"metadata":%b' % (len(text), text) if text else b""


def state_line(encoded: EncodedState, address: StateAddress) -> bytes:
    """Return the whole state line for `address`, checksum and newline included."""
    return _line(_head(address, encoded.secret), encoded.rest) + b"\n"


def _head(address: StateAddress, secret: DataKey | None) -> bytes:
    if secret is None:
        return b'{"state":%d,' % address.seq
    return b'{"state":%d,"alg":"%b","key":"%b","wrapped":"%b",' % (
        address.seq,
        envelope.ALGORITHM.encode(),
        secret.key.key_id.encode(),
        envelope.wrap(secret, address),
    )


def _line(head: bytes, rest: bytes) -> bytes:
    return b'%b%b,"crc":"%08x"}' % (head, rest, zlib.crc32(rest, zlib.crc32(head)))


def rewrapped(line: bytes, old: Key, new: Key, address: StateAddress) -> bytes:
    """Return an encrypted state line with its data key under `new` instead of `old`.

    The ciphertexts of metadata and body do not change, nor does the digest.

    Args:
        line: as `read_line` takes it.
        old: the key that the line names.
        new: the key that it will name.
        address: the address of the state.

    Raises:
        UnreadableState, NewerFormat: the line is damaged, not encrypted with `old`, or
            of a newer version.
    """
    _check_crc(line, address.seq)
    header = _header(line, address.seq)
    assert header["key"] == old.key_id.encode()
    secret = envelope.unwrap(header["wrapped"], old, address)
    rest = line[header.start("codec") : -CRC_SUFFIX_BYTES]
    return _line(_head(address, DataKey(new, secret.data_key)), rest)


def line_of(
    parts: Parts, body: Body, address: StateAddress, *, raw_bytes: int, key: Key | None
) -> bytes:
    """Return a re-encoded state line, newline included.

    Args:
        parts: the old line, decrypted.
        body: the new encoding.
        address: the address of the state.
        raw_bytes: size of the state, from its event.
        key: encrypts it; None stores it in plain text.
    """
    encoded = EncodedState(b"", "", raw_bytes, parts.salt, parts.metadata)
    stored = encoded.stored_as(body) if key is None else encoded.encrypted(body, key)
    return state_line(stored, address)


def raw_of(parts: Parts, raw_bytes: int, prefix: bytes | None = None) -> bytes:
    """Return the raw bytes of a state; the caller checks the digest.

    Args:
        parts: its line, decrypted.
        raw_bytes: their number; a frame of another size is refused.
        prefix: of a delta: the raw bytes of `Parts.plus` and then of its base.

    Raises:
        UnreadableState: the stored bytes do not decode to a state of this size.
    """
    assert not parts.wrapped, "decrypt it first"
    if parts.codec == "json":
        raw = parts.content
        if len(raw) != raw_bytes:
            raise UnreadableState(
                f"state {parts.seq} has {len(raw)} bytes, its event says {raw_bytes}"
            )
        return raw
    from milepost.journal.states import zstd

    if parts.base and prefix is None:
        raise UnreadableState(f"state {parts.seq} needs state {parts.base}")
    try:
        return zstd.decompress(parts.content, raw_bytes, prefix or b"")
    except ValueError as exc:
        raise UnreadableState(f"state {parts.seq}: {exc}") from exc


class Parts(NamedTuple):
    """A parsed state line.

    While it is encrypted, `salt` is empty, and `metadata` and `content` are base64 of
    ciphertext; see `decrypted`.
    """

    seq: int
    codec: str
    base: int
    depth: int
    salt: bytes
    metadata: bytes
    content: bytes  # see `Body`
    key_id: str = ""  # of the key that the line is encrypted with; empty if none
    wrapped: bytes = b""  # the wrapped data key; empty once decrypted
    plus: tuple[int, ...] = ()  # as in `Body`


def decrypted(parts: Parts, key: Key, address: StateAddress, raw_bytes: int) -> Parts:
    """Return the decrypted parts of an encrypted line.

    Args:
        parts: the line.
        key: the key that it names.
        address: the address of the state.
        raw_bytes: size of the state, from its event.

    Raises:
        UnreadableState: it does not decrypt with `key` for `address`.
    """
    secret = envelope.unwrap(parts.wrapped, key, address)
    form = BodyHeader(parts.codec, parts.base, parts.depth, raw_bytes, parts.plus)
    body = envelope.open_body(secret, form, parts.content, parts.seq)
    meta = parts.metadata
    if meta:
        meta = envelope.open_metadata(secret, meta, parts.seq)
    salt, content = body[:_SALT_BYTES], body[_SALT_BYTES:]
    return parts._replace(salt=salt, metadata=meta, content=content, wrapped=b"")


# Metadata may contain a key named "body", so its length is stored, not searched for.
_HEADER = re.compile(
    rb'\{"state":(?P<seq>\d{1,19}),'
    rb'(?:"alg":"A256GCM","key":"(?P<key>[A-Za-z0-9._-]{1,%d})",'
    rb'"wrapped":"(?P<wrapped>[A-Za-z0-9+/]{%d})",)?'
    rb'(?P<codec>"codec":"(?P<name>json|zstd|zstd-delta)")'
    rb'(?:,"base":(?P<base>[1-9]\d{0,18}),"depth":(?P<depth>\d{1,19})'
    rb'(?:,"plus":\[(?P<plus>\d{1,19}(?:,\d{1,19}){0,%d})\])?)?'
    rb'(?:,"salt":"(?P<salt>[0-9a-f]{32})")?'
    rb'(?:,"metadata_bytes":(?P<metadata>\d{1,19}),"metadata":)?'
    % (MAX_KEY_ID_BYTES, envelope.WRAPPED_BYTES, delta.MAX_PLUS - 1)
)
_BODY = b',"body":'
# Matches any codec, including those of newer versions.
_BASE = re.compile(
    rb'\{"state":\d{1,19},(?:"alg":"[^"]*","key":"[^"]*","wrapped":"[^"]*",)?'
    rb'"codec":"[^"]*","base":(\d{1,19}),(?:"depth":\d{1,19},"plus":\[([\d,]*)\],)?'
)


# The bound of a header: a few numbers and names, a salt or a wrapped key, `Body.plus`.
HEADER_BYTES = 320 + 20 * delta.MAX_PLUS


def read_line(line: bytes, *, seq: int) -> Parts:
    """Parse the state line of event `seq`, and verify its checksum.

    Raises:
        UnreadableState: the checksum, the seq or the base64 is wrong.
        NewerFormat: a codec that this version does not know.
    """
    _check_crc(line, seq)
    header = _header(line, seq)
    border = header.end() + int(header["metadata"] or 0)
    is_delta = header["name"] == b"zstd-delta"
    if not line.startswith(_BODY, border) or is_delta != bool(header["base"]):
        raise _unknown(line)
    metadata = line[header.end() : border]
    body = line[border + len(_BODY) : -CRC_SUFFIX_BYTES]
    if header["wrapped"]:
        metadata, body = _unquoted(metadata, seq), _unquoted(body, seq)
    elif header["name"] != b"json":
        body = _frame(body, seq)
    return Parts(
        seq,
        header["name"].decode(),
        int(header["base"] or 0),
        int(header["depth"] or 0),
        bytes.fromhex((header["salt"] or b"").decode()),
        metadata,
        body,
        (header["key"] or b"").decode(),
        header["wrapped"] or b"",
        tuple(map(int, plus.split(b","))) if (plus := header["plus"]) else (),
    )


def prefix_of(line: bytes) -> list[int]:
    """Return the states that the prefix of a state line of any codec consists of."""
    match = _BASE.match(line)
    if match is None:
        return []
    plus = (match[2] or b"").split(b",")
    return [int(seq) for seq in (match[1], *plus) if seq]


def _check_crc(line: bytes, seq: int) -> None:
    crc = b',"crc":"%08x"}' % zlib.crc32(line[:-CRC_SUFFIX_BYTES])
    if line[-CRC_SUFFIX_BYTES:] != crc:
        raise UnreadableState(f"state {seq} fails its checksum")


def _unquoted(text: bytes, seq: int) -> bytes:
    if text and (text[:1] != b'"' or text[-1:] != b'"'):
        raise UnreadableState(f"state {seq}: a value is not a string")
    return text[1:-1]


def _frame(body: bytes, seq: int) -> bytes:
    try:
        return binascii.a2b_base64(_unquoted(body, seq), strict_mode=True)
    except ValueError as exc:
        raise UnreadableState(f"state {seq}: {exc}") from exc


def _header(line: bytes, seq: int) -> re.Match[bytes]:
    header = _HEADER.match(line)
    # An encrypted state must not have a plain salt, and a plain one needs it.
    if header is None or bool(header["wrapped"]) == bool(header["salt"]):
        raise _unknown(line)
    if int(header["seq"]) != seq:
        raise UnreadableState(f"found state {int(header['seq'])}, expected {seq}")
    return header


def _unknown(line: bytes) -> NewerFormat:
    return NewerFormat(f"unknown state line {line[:60]!r}")


class Header(NamedTuple):
    """The position of the metadata on a state line, and its key.

    `key_id` and `wrapped` are as in `Parts`; `metadata_of` decrypts.
    """

    start: int
    end: int
    key_id: str
    wrapped: bytes


def read_header(start_of_line: bytes, *, seq: int) -> Header:
    """Return the header of the state line of event `seq`.

    Args:
        start_of_line: at least `HEADER_BYTES` of the line, or all of it.
        seq: expected on the line.

    Raises:
        UnreadableState: the line has another seq.
        NewerFormat: a codec that this version does not know.
    """
    header = _header(start_of_line, seq)
    return Header(
        header.end(),
        header.end() + int(header["metadata"] or 0),
        (header["key"] or b"").decode(),
        header["wrapped"] or b"",
    )


def metadata_of(header: Header, text: bytes, key: Key, address: StateAddress) -> bytes:
    """Return decrypted metadata.

    Args:
        header: of its line.
        text: the bytes of the line from `header.start` to `header.end`.
        key: the key that the line names.
        address: the address of the state.

    Raises:
        UnreadableState: it does not decrypt with `key` for `address`.
    """
    secret = envelope.unwrap(header.wrapped, key, address)
    return envelope.open_metadata(secret, _unquoted(text, address.seq), address.seq)
