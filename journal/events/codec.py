r"""Event lines: encoding, and the loop that reads and verifies them.

An event line ends in ``,"hash":"<64 hex>"}\n``.  The hash is SHA-256 over the previous
event's hash (64 hex digits) and the exact bytes of the line up to that suffix.  It is
both checksum and chain, and needs no re-serialisation (docs/adr/0001).  The suffix is
found by position, never by searching.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from milepost.journal.events import upcasts
from milepost.journal.events.vocabulary import EVENT_TYPES, SCHEMA_VERSION, Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The length of `,"hash":"<64 hex>"}` and of `,"crc":"<8 hex>"}`, without the newline.
HASH_SUFFIX_BYTES = 75
CRC_SUFFIX_BYTES = 18
_FIRST_OF_EVENT = ord("v")  # the third byte of `{"v":`
_FIRST_OF_STATE = ord("s")  # the third byte of `{"state":`
# Bytes that editors and transfers add around lines: blanks, carriage returns, the DOS
# end mark, the byte order mark.
WHITE = b" \t\v\f\r\x1a\xef\xbb\xbf"
STATE_MISSING = "its state line is missing"


# A verified event, the size of its lines in bytes (with its state line if it has one),
# and the fault of the state line or None.  A plain tuple, because replay makes one for
# every event.
Stored = tuple[Event, int, str | None]
# The same, with the offset of its lines after the event.
Located = tuple[Event, int, int, str | None]


class Mark(NamedTuple):
    """An event, by its seq and hash; seq 0 is before the first one."""

    seq: int = 0
    hash: str = ""


class CorruptLine(Exception):
    """The bytes at `offset` are not the expected line."""

    def __init__(self, offset: int, expected: str, found: str) -> None:
        super().__init__(f"byte {offset}: expected {expected}, found {found}")
        self.offset = offset
        self.expected = expected
        self.found = found


def genesis(store_id: str, job_id: str, nonce: str) -> str:
    """Return the previous hash of a journal's first event.

    It binds store, job and nonce, each preceded by its length, so that a journal
    cannot be passed off as another job's.
    """
    digest = hashlib.sha256(b"milepost journal 1")
    for part in (store_id, job_id, nonce):
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def origin_of(event: Event) -> str:
    """Return the previous hash of a ``job.opened``, which tells jobs of one id apart.

    Raises:
        KeyError, TypeError, AttributeError: it is malformed.
    """
    data = cast("dict[str, str]", event["data"])
    return genesis(data["store"], data["job"], data["nonce"])


def encode(
    prev: str,
    *,
    seq: int,
    at: str,
    type_: str,
    actor: str,
    data: Mapping[str, object],
    span: tuple[int, int] | None = None,
) -> tuple[bytes, Event]:
    """Return the line of one event, newline included, and the event as read back.

    Raises:
        orjson.JSONEncodeError: `data` holds a value that JSON cannot represent.
    """
    envelope: Any = {  # an `Event` whose type is known at run time only
        "v": SCHEMA_VERSION,
        "seq": seq,
        "at": at,
        "type": type_,
        "actor": actor,
        "data": data,
    }
    if span is not None:
        envelope["span"] = span
    body = orjson.dumps(envelope)[:-1]
    digest = hashlib.sha256(prev.encode() + body).hexdigest()
    envelope["hash"] = digest
    line = b'%b,"hash":"%b"}\n' % (body, digest.encode())
    return line, envelope


def scan(  # noqa: PLR0915 - one loop, each line of it measured
    data: bytes, *, seq: int, prev: str | None, offset: int = 0
) -> Iterator[Located]:
    """Verify and decode whole lines of `data`, one event at a time.

    Events of older schemas are converted (`milepost.journal.events.upcasts`).

    The lines above an event are its state line if its data has a state (`has_state`),
    whatever its type.  Damage of a state line does not affect the chain of events.

    Args:
        data: journal bytes that begin at a line.  An unterminated last line, and a
            state line whose event is not complete, are ignored.
        seq: seq of the last event before `data`.
        prev: hash of that event; None at the start of a journal.
        offset: offset of `data` in the journal.

    Raises:
        CorruptLine: a line is not the next in the chain; the events before it were
            yielded.
    """
    # The replay loop.  Names are bound once, slices are few, and nothing is built that
    # the caller may not need: each of these was measured.
    sha256, crc32, loads, find = hashlib.sha256, zlib.crc32, orjson.loads, data.find
    window, current = memoryview(data), SCHEMA_VERSION
    before = b"" if prev is None else prev.encode()
    position, start, states, odd, fault = 0, -1, 0, -1, None
    while (end := find(b"\n", position)) >= 0:
        start = start if start >= 0 else position
        kind = data[position + 2] if end - position > HASH_SUFFIX_BYTES else 0
        if kind == _FIRST_OF_EVENT:
            line = data[position:end]
            before = before or _genesis_of(data[start:end], offset + start)
            digest = sha256(before + line[:-HASH_SUFFIX_BYTES]).hexdigest()
            try:
                event = loads(line)
                # The parsed hash also checks the suffix: a wrong byte there leaves no
                # JSON, or no "hash" key.
                is_next = event["hash"] == digest and event["seq"] == seq + 1
                fields = event.get("data")
                is_stateful = type(fields) is dict and "state_digest" in fields
                is_older = event["v"] != current
            except (ValueError, KeyError, TypeError):
                is_next = is_stateful = is_older = False
            if fault is not None and not (is_next and (is_stateful or odd < 0)):
                raise _no_state(data, start, odd, seq + 1, fault, offset)
            if not is_next:
                raise CorruptLine(
                    offset + position,
                    f"event {seq + 1} with hash {digest}",
                    _claims(line),
                )
            if is_older:
                event = _lifted(event, offset + position)
                is_stateful = has_state(event)
            if states != is_stateful:
                fault = _judge_states(event, states, fault, offset + position)
            yield event, offset + start, end + 1 - start, fault
            seq += 1
            before, start, states, odd, fault = digest.encode(), -1, 0, -1, None
        elif kind == _FIRST_OF_STATE:
            states += 1
            crc = b',"crc":"%08x"}' % crc32(window[position : end - CRC_SUFFIX_BYTES])
            found = data[end - CRC_SUFFIX_BYTES : end]
            if crc != found:
                fault = f"its state line ends in {_excerpt(found)}, expected {crc!r}"
        else:  # a damaged state line of the event below, or an alien line
            _refuse_white(data[position:end], offset + position, seq + 1)
            states += 1
            odd = odd if odd >= 0 else position
            fault = f"its state line begins with {_excerpt(data[position:end])}"
        position = end + 1


def has_state(event: Event) -> bool:
    """Return whether an event has a state, stored in the state line above it.

    Its data decides, not its type: events of unknown types keep their states too
    (docs/adr/0041).
    """
    data: object = event.get("data")
    return isinstance(data, dict) and "state_digest" in data


def _judge_states(
    event: Event, states: int, fault: str | None, offset: int
) -> str | None:
    """Return the fault of a wrong number of state lines above an event."""
    if event["v"] != SCHEMA_VERSION:
        return fault  # only the newer version knows which lines belong together
    if has_state(event):
        return f"{states} lines in place of its state line" if states else STATE_MISSING
    if event["type"] not in EVENT_TYPES:
        return fault  # as for a newer schema
    expected = "no state line above an event without a state_digest"
    raise CorruptLine(offset, expected, f"{states} for {event['type']}")


def _refuse_white(line: bytes, offset: int, seq: int) -> None:
    """Refuse added white space, which a recovery of files may remove."""
    if not line.strip(WHITE) or line.strip(WHITE) != line:
        raise CorruptLine(offset, f"a state line or event {seq}", _excerpt(line))


def _no_state(
    data: bytes, start: int, odd: int, seq: int, fault: str, offset: int
) -> CorruptLine:
    """Return the error for lines from `start` that are not the state of an event."""
    if odd < 0:
        # A state line that lost its newline swallows the event below it.
        return CorruptLine(offset + start, "an intact state line", fault)
    line = data[odd : data.find(b"\n", odd)]
    return CorruptLine(offset + odd, f"a state line or event {seq}", _excerpt(line))


def _lifted(event: Any, offset: int) -> Event:
    """Return an event of another schema converted to the current one, if possible."""
    version = event["v"]
    try:
        return cast("Event", upcasts.lift(event))
    except upcasts.MALFORMED as exc:
        raise CorruptLine(
            offset, f"an event of schema {version}", f"{type(exc).__name__}: {exc}"
        ) from exc


def _claims(line: bytes) -> str:
    event = peek(line)
    if event is None:
        return _excerpt(line)
    return f"event {event['seq']} with hash {event.get('hash')}"


def _decode(line: bytes, offset: int) -> Event:
    try:
        event = orjson.loads(line)
        if (
            isinstance(event["seq"], int)
            and isinstance(event["type"], str)
            and "data" in event
        ):
            return _lifted_if(event)
    except (ValueError, KeyError, TypeError):
        pass
    raise CorruptLine(offset, "an event as JSON", _excerpt(line))


def _lifted_if(event: Any) -> Event:
    if event.get("v") == SCHEMA_VERSION:
        return cast("Event", event)
    # The bytes are unverified, and callers need the position of a malformed event too.
    try:
        return cast("Event", upcasts.lift(event))
    except upcasts.MALFORMED:
        return cast("Event", event)


def _genesis_of(lines: bytes, offset: int) -> bytes:
    line, _, _ = lines.partition(b"\n")
    event = _decode(line, offset)
    if event["type"] != "job.opened":
        raise CorruptLine(offset, "a job.opened event", _excerpt(line))
    try:
        return origin_of(event).encode()
    except (KeyError, TypeError, AttributeError) as exc:
        raise CorruptLine(offset, "a job.opened event", _excerpt(line)) from exc


def follows(line: bytes, prev: str) -> bool:
    """Return whether an event line is intact and follows the hash `prev`."""
    digest = hashlib.sha256(prev.encode() + line[:-HASH_SUFFIX_BYTES]).hexdigest()
    return line.endswith(b',"hash":"%b"}' % digest.encode())


def peek(line: bytes) -> Event | None:
    """Return the unverified event in `line`, in the current schema; None if none."""
    if line[2:3] != b"v" or line[-HASH_SUFFIX_BYTES:][:9] != b',"hash":"':
        return None
    try:
        return _decode(line, 0)
    except CorruptLine:
        return None


def span_of(event: Event) -> tuple[int, int]:
    """Return the first and last seq of the write that contains `event`.

    An event without a valid span is a write of its own.
    """
    match event.get("span"):
        case [int(first), int(last)]:
            return first, last
    return event["seq"], event["seq"]


def _excerpt(raw: bytes) -> str:
    """Return the first bytes of `raw` for a one-line message."""
    return repr(raw[:40])[1:] + ("…" if len(raw) > 40 else "")  # noqa: PLR2004
