"""Read a journal of any size in pieces: verified events, or unverified event lines.

Memory is bounded by one piece, or by the longest line if that is longer.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from milepost.journal.events.codec import CorruptLine, peek, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.events.codec import Located
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.storage.contract import OnPiece
    from milepost.journal.storage.files.recovery.head import Extent

    Read = Callable[[int, int], bytes]

PIECE_BYTES = 1024 * 1024
# More decoded events leave the processor's cache before they are folded.
_GROUP_EVENTS = 256
# In unverified bytes, longer lines are skipped.
_LONGEST_CLAIM_BYTES = 16 * PIECE_BYTES


def pieces(read: Read, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from `start` to `end`, fewer if the file is shorter."""
    while start < end:
        data = read(start, min(PIECE_BYTES, end - start))
        if not data:
            return
        yield data
        start += len(data)


def walk(
    read: Read,
    after: Extent,
    size: int,
    on_piece: OnPiece | None = None,
) -> Iterator[tuple[list[Located], bytes, int]]:
    """Yield the events after `after` in pieces, verified.

    Args:
        read: returns bytes of the journal, by offset and size.
        after: an event, and the offset after it.
        size: where the journal ends.
        on_piece: called with the bytes read since the last call.

    Yields:
        Events, the bytes that they were read from, and the offset of these.

    Raises:
        CorruptLine: a line is not next in the chain, or the last one has no end.
    """
    seq, prev, end, want = after.seq, after.hash or None, after.size, PIECE_BYTES
    while end < size:
        before = end
        data = read(before, min(want, size - before))
        events = scan(data, seq=seq, prev=prev, offset=before)
        problem = None
        while problem is None:
            found: list[Located] = []
            try:
                found.extend(islice(events, _GROUP_EVENTS))
            except CorruptLine as exc:
                problem = exc  # raised after the events before it
            if not found:
                break
            event, offset, length, _ = found[-1]
            seq, prev, end = event["seq"], event["hash"], offset + length
            yield found, data, before
        if problem is not None:
            raise problem
        if on_piece is not None:
            on_piece(end - before)
        if end > before:
            continue
        # An event with its state is longer than a piece, or no line follows.
        line = data[data.rfind(b"\n") + 1 :]
        is_all = before + len(data) >= size or len(data) < want
        is_long = want >= _LONGEST_CLAIM_BYTES  # a large state may be damaged
        if is_all or (is_long and not _begins_a_line(line)):
            raise CorruptLine(before, "a whole write", f"{size - before} bytes of one")
        want *= 2


def _begins_a_line(line: bytes) -> bool:
    return all(start.startswith(line[: len(start)]) for start in (b'{"',)) and (
        line[2:3] in (b"", b"v", b"s")
    )


def claims(read: Read, start: int, end: int) -> Iterator[tuple[bytes, Event]]:
    """Yield lines in the form of an event, unverified, from arbitrary bytes."""
    line, is_skipped = b"", False
    for data in pieces(read, start, end):
        *ended, rest = data.split(b"\n")
        for each in ended:
            whole, line = line + each, b""
            event = None if is_skipped else peek(whole)
            is_skipped = False
            if event is not None:
                yield whole, event
        line += rest
        if line and (not _begins_a_line(line) or len(line) > _LONGEST_CLAIM_BYTES):
            line, is_skipped = b"", True


def line_number(read: Read, offset: int) -> int:
    """Return the 1-based number of the line at `offset`."""
    return 1 + sum(data.count(b"\n") for data in pieces(read, 0, offset))
