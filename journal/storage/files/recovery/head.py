"""The content of a head file: the acknowledged extent of a journal, in two slots.

Each slot is one JSON line, padded to 512 bytes (a sector), ending in a CRC of its own.
They are written in turn after each sync of the journal, so that a torn write leaves the
other one intact.  Writers lock this file.  So it is never removed, and only the lock
holder may replace it (`HeadFile.lock`).
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import orjson

from milepost.journal.errors import NewerFormat

FORMAT = 1
SLOT_BYTES = 512
SLOTS = 2
FILE_BYTES = SLOT_BYTES * SLOTS
READ_BYTES = FILE_BYTES + SLOTS  # a file transfer may add a carriage return per line
_CRC_SUFFIX_BYTES = 18


class Extent(NamedTuple):
    """An extent of a journal: seq and hash of its last event, and its bytes."""

    seq: int = 0
    hash: str = ""
    size: int = 0


class Head(NamedTuple):
    """One slot.

    Attributes:
        writing: number of this write of the head; the highest valid slot counts.
        shown: the acknowledged extent.
        inode: of the journal that the sizes refer to.  If the journal has another one,
            it was rewritten or copied, and only seq and hash count.
        durability: the mode of the writer.
        synced: the extent known to be on the medium; equals `shown` under ``always``.
        is_poisoned: a sync failed; nothing may be written until the journal has been
            rewritten from the medium.
    """

    writing: int = 0
    shown: Extent = Extent()
    inode: int = 0
    durability: str = "always"
    synced: Extent = Extent()
    is_poisoned: bool = False


def encode(head: Head) -> bytes:
    """Return the bytes of one slot."""
    body = (
        b'{"head":1,"n":%d,"seq":%d,"hash":"%b","bytes":%d,"inode":%d,"mode":"%b"'
        b',"synced_seq":%d,"synced_hash":"%b","synced_bytes":%d,"poisoned":%b'
    ) % (
        head.writing,
        head.shown.seq,
        head.shown.hash.encode(),
        head.shown.size,
        head.inode,
        head.durability.encode(),
        head.synced.seq,
        head.synced.hash.encode(),
        head.synced.size,
        b"true" if head.is_poisoned else b"false",
    )
    body = body.ljust(SLOT_BYTES - _CRC_SUFFIX_BYTES - 1)
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def slot_offset(writing: int) -> int:
    """Return the offset in the head file of write number `writing`."""
    return writing % SLOTS * SLOT_BYTES


def decode(data: bytes) -> Head | None:
    """Return the newest valid slot of a head file's bytes; None if none is valid.

    Raises:
        NewerFormat: a slot is intact, but of another format.
    """
    return max(decode_all(data), default=None)


def decode_all(data: bytes) -> list[Head]:
    """Return all valid slots.  Raises as `decode`."""
    return _valid(data) or _valid(data.replace(b"\r\n", b"\n"))


def _valid(data: bytes) -> list[Head]:
    slots = (data[i * SLOT_BYTES : (i + 1) * SLOT_BYTES] for i in range(SLOTS))
    return [head for slot in slots if (head := _decode_slot(slot)) is not None]


def _decode_slot(slot: bytes) -> Head | None:
    body, suffix = slot[: -_CRC_SUFFIX_BYTES - 1], slot[-_CRC_SUFFIX_BYTES - 1 :]
    if suffix != b',"crc":"%08x"}\n' % zlib.crc32(body):
        return None
    try:
        values = orjson.loads(slot)
        numbers = [values[k] for k in _NUMBERS]
        texts = [values[k] for k in _TEXTS]
        is_poisoned = bool(values["poisoned"])
    except (ValueError, KeyError, TypeError):
        values, numbers, texts, is_poisoned = {}, [], [], False
    if (
        values.get("head") != FORMAT
        or not all(type(n) is int and n >= 0 for n in numbers)
        or not all(isinstance(t, str) for t in texts)
    ):
        raise NewerFormat(
            f"a head begins {slot[:24]!r}, this version writes {FORMAT}: it was "
            "written by a newer Milepost",
            hint="upgrade",
        )
    return Head(
        values["n"],
        Extent(values["seq"], values["hash"], values["bytes"]),
        values["inode"],
        values["mode"],
        Extent(values["synced_seq"], values["synced_hash"], values["synced_bytes"]),
        is_poisoned,
    )


_NUMBERS = ("n", "seq", "bytes", "inode", "synced_seq", "synced_bytes")
_TEXTS = ("hash", "mode", "synced_hash")
