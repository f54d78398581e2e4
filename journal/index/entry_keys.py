"""Which appends of a log may have an entry with a given key.  Pure.

Digests, not keys: a log may have millions of entries, and each takes 16 bytes here.
"""

from __future__ import annotations

import hashlib
from binascii import a2b_base64
from typing import TYPE_CHECKING

from milepost.journal.process.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGEST_BYTES = 8
_SEQ_BYTES = 8
_RECORD_BYTES = _DIGEST_BYTES + _SEQ_BYTES
# A lookup searches one bucket.
_BUCKET_BYTES = 256 * _RECORD_BYTES


def digest_of(key: str) -> bytes:
    """Return the digest of a key; others may have the same."""
    text = key.encode(errors="surrogatepass")
    return hashlib.sha256(text).digest()[:_DIGEST_BYTES]


class EntryKeys:
    """The digests of the keys of a log's entries, each with the seq of its append.

    The fold only collects them.  The first lookup of a process that appends sorts them
    into buckets; processes that only read never do.

    Args:
        packed: the first ones, from `packed`.
    """

    __slots__ = ("_buckets", "_sorting", "_unsorted")

    def __init__(self, packed: bytes = b"") -> None:
        self._unsorted = bytearray(packed)
        self._buckets = [bytearray()]  # by the first bytes of the digest
        self._sorting = Mutex()  # lookups sort too, outside the lock of the fold

    def add(self, seq: int, digests: str) -> None:
        """Add the digests of an append, joined and in base64.

        Raises:
            ValueError: they are malformed.
        """
        raw = a2b_base64(digests, strict_mode=True)
        if len(raw) % _DIGEST_BYTES:
            raise ValueError(f"entry_keys has {len(raw)} bytes")
        place = seq.to_bytes(_SEQ_BYTES, "little")
        starts = range(0, len(raw), _DIGEST_BYTES)
        self._unsorted += b"".join(raw[s : s + _DIGEST_BYTES] + place for s in starts)

    def appends_with(self, key: str) -> Iterator[int]:
        """Yield the seqs of the appends that may have an entry with this key."""
        if self._unsorted:
            self._sorting.hold(self._sort)
        digest, buckets = digest_of(key), self._buckets
        bucket = buckets[_number(digest, len(buckets))]
        at = bucket.find(digest)
        while at >= 0:
            if at % _RECORD_BYTES == 0:
                seq = bucket[at + _DIGEST_BYTES : at + _RECORD_BYTES]
                yield int.from_bytes(seq, "little")
            at = bucket.find(digest, at + 1)

    def packed(self) -> bytes:
        """Return all of them; no other thread may fold meanwhile."""
        return self._sorting.hold(lambda: b"".join((*self._buckets, self._unsorted)))

    def _sort(self) -> None:
        """Move the collected ones into buckets.

        Those of an interrupted call are moved again, and found twice.
        """
        new, buckets = bytes(self._unsorted), self._buckets
        count = len(buckets)
        size = len(new) + sum(map(len, buckets))
        while size > count * _BUCKET_BYTES:
            count *= 2
        records = new
        if count > len(buckets):
            records = b"".join((*buckets, new))
            buckets = [bytearray() for _ in range(count)]
        for at in range(0, len(records), _RECORD_BYTES):
            record = records[at : at + _RECORD_BYTES]
            buckets[_number(record, count)] += record
        self._buckets = buckets
        del self._unsorted[: len(new)]


def _number(digest: bytes, count: int) -> int:
    return int.from_bytes(digest[:4], "little") % count
