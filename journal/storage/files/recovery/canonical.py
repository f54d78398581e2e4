r"""A journal's text without the bytes that editors and file transfers add to it.

A byte order mark, ``\r\n``, blank lines, blanks around a line and a missing last
newline change no event: no line contains a raw line break, and each begins with ``{``
and ends with ``}``.  So the original bytes can be reconstructed.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.events.codec import WHITE
from milepost.journal.storage.files.recovery.passage import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.storage.files.recovery.passage import Read


class _Part(NamedTuple):
    """A range of raw bytes, and whether it begins inside a line."""

    offset: int
    size: int
    is_inside: bool


class Canonical:
    """The canonical text of a file, read by offset like a file.

    Args:
        read: returns bytes of the file.
        start: the file is canonical up to this offset.
        size: of the file.

    Attributes:
        size: of the canonical text.
        is_other: the canonical text differs from the file.
    """

    def __init__(self, read: Read, start: int, size: int) -> None:
        self._read = read
        self._starts: list[int] = []  # in the canonical text, by part
        self._parts: list[_Part] = []
        self._kept = (-1, b"")  # the text of the part that was read last
        self._start = self.size = start
        self.is_other = False
        for part, raw in self._divide(start, size):
            text = self._text(part, raw, is_last=part.offset + part.size == size)
            self.is_other |= text != raw
            self._starts.append(self.size)
            self._parts.append(part)
            self.size += len(text)
        self._end = size

    def _divide(self, at: int, end: int) -> Iterator[tuple[_Part, bytes]]:
        """Yield the raw bytes in parts that end at a line break where possible."""
        is_inside = False
        while at < end:
            raw = self._read(at, min(PIECE_BYTES, end - at))
            if not raw:
                return
            if at + len(raw) < end:
                last = max(raw.rfind(b"\n"), raw.rfind(b"\r"))
                raw = raw[: last + 1] or raw
            yield _Part(at, len(raw), is_inside), raw
            is_inside = raw[-1:] not in (b"\n", b"\r")
            at += len(raw)

    @staticmethod
    def _text(part: _Part, raw: bytes, *, is_last: bool) -> bytes:
        lines = raw.replace(b"\r", b"\n").split(b"\n")
        begun, rest = [], lines.pop()
        if part.is_inside and lines:
            begun = [lines.pop(0)]  # even an empty one ends the line begun before
        found = [*begun, *filter(None, (line.strip(WHITE) for line in lines))]
        text = b"".join(line + b"\n" for line in found)
        if not is_last:
            return text + rest  # the next part continues this line
        rest = rest.strip(WHITE) if not part.is_inside or found else rest
        return text + rest + b"\n" if rest else text

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the text from `offset`, fewer at its end."""
        found = []
        if offset < self._start:
            want = min(size, self._start - offset)
            found.append(self._read(offset, want))
            offset, size = offset + want, size - want
        at = bisect_right(self._starts, offset) - 1
        while size > 0 and 0 <= at < len(self._parts):
            text = self._text_of(at)[offset - self._starts[at] :][:size]
            found.append(text)
            offset, size, at = offset + len(text), size - len(text), at + 1
        return b"".join(found)

    def _text_of(self, at: int) -> bytes:
        if self._kept[0] != at:
            part = self._parts[at]
            raw = self._read(part.offset, part.size)
            is_last = part.offset + part.size == self._end
            self._kept = at, self._text(part, raw, is_last=is_last)
        return self._kept[1]
