"""The live checkpoints of a job, by id and in the order of their saves.  Pure.

Blocks of neighbouring seqs keep every change small: a removal or an undeletion moves
entries of one block, and an empty block is dropped, so a walk costs what it returns.
A block of a snapshot stays packed until something in it is asked for.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right, insort
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.index import entries
from milepost.journal.process.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from milepost.journal.index.entries import Entry

# Seqs of one block.
_SPAN = 128
# A block's number follows the CRC-32 of an id.
_NUMBER_BITS = 32
_NUMBER = (1 << _NUMBER_BITS) - 1

_seq_of = attrgetter("seq")


class Packed(NamedTuple):
    """Live checkpoints, packed.

    Attributes:
        size: number of checkpoints.
        blocks: by number, ascending; see `entries.pack`.
        crcs: for each checkpoint the CRC-32 of its id, and its block's number in the
            lower 32 bits; ascending.  May have more.
    """

    size: int
    blocks: dict[int, bytes]
    crcs: Sequence[int]


NO_CHECKPOINTS = Packed(0, {}, ())


class Checkpoints:
    """The live checkpoints of a job; iteration yields their ids, oldest first.

    A change takes O(log n), and a walk O(log n) and what it returns.  Walks of other
    threads than the one that folds may miss what changes meanwhile.

    Args:
        packed: the first ones.
        shared: see `entries.of_columns`.
    """

    __slots__ = (
        *("_blocks", "_by_id", "_count", "_crcs"),
        *("_order", "_packed", "_shared", "_unpacking"),
    )

    def __init__(self, packed: Packed, shared: dict[Any, Any]) -> None:
        self._count = packed.size
        # Unpacked ones.  Blocks by seq // _SPAN, none of them empty; each in order of
        # seq.
        self._by_id: dict[str, Entry] = {}
        self._blocks: dict[int, list[Entry]] = {}
        self._packed, self._crcs = {**packed.blocks}, packed.crcs
        self._order = [*self._packed]  # the numbers of all blocks, ascending
        self._shared = shared
        self._unpacking = Mutex()  # readers unpack too, outside the lock of the fold

    def __len__(self) -> int:
        return self._count

    def __contains__(self, checkpoint_id: str) -> bool:
        has_packed = bool(self._packed)  # first, as in `get`
        return checkpoint_id in self._by_id or (
            has_packed and self.get(checkpoint_id) is not None
        )

    def __getitem__(self, checkpoint_id: str) -> Entry:
        entry = self.get(checkpoint_id)
        if entry is None:
            raise KeyError(checkpoint_id)
        return entry

    def __iter__(self) -> Iterator[str]:
        return (entry.checkpoint_id for entry in self.after(0))

    def get(self, checkpoint_id: str | None) -> Entry | None:
        """Return the checkpoint with this id, None if it is not live."""
        has_packed = bool(self._packed)  # first: another thread may unpack the last one
        entry = self._by_id.get(checkpoint_id or "")
        if entry is None and has_packed and isinstance(checkpoint_id, str):
            crc = _crc(checkpoint_id)
            at = bisect_left(self._crcs, crc << _NUMBER_BITS)
            while at < len(self._crcs) and self._crcs[at] >> _NUMBER_BITS == crc:
                self._block(self._crcs[at] & _NUMBER)
                at += 1
            entry = self._by_id.get(checkpoint_id)
        return entry

    def after(self, seq: int) -> Iterator[Entry]:
        """Yield the checkpoints saved after event `seq`, oldest first; 0: all."""
        number = seq // _SPAN
        order = self._order[bisect_right(self._order, number) :]
        first = self._block(number)
        return chain(
            first[bisect_right(first, seq, key=_seq_of) :],
            chain.from_iterable(map(self._block, order)),
        )

    def newest_first(self) -> Iterator[Entry]:
        """Yield the checkpoints, newest first."""
        blocks = map(self._block, reversed(self._order))
        return chain.from_iterable(map(reversed, blocks))

    def saved_as(self, seq: int) -> Entry | None:
        """Return the checkpoint that event `seq` saved, None if it is not live."""
        block = self._block(seq // _SPAN)
        at = bisect_left(block, seq, key=_seq_of)
        return block[at] if at < len(block) and block[at].seq == seq else None

    def add(self, entry: Entry) -> None:
        """Add the newest checkpoint."""
        number = entry.seq // _SPAN
        block = self._blocks.get(number) or self._block(number)
        if not block:
            block = self._blocks[number] = []
            self._order.append(number)
        block.append(entry)
        self._by_id[entry.checkpoint_id] = entry
        self._count += 1

    def remove(self, checkpoint_id: str) -> Entry:
        """Remove a checkpoint and return it.

        Raises:
            KeyError: it is not live.
        """
        entry = self[checkpoint_id]
        number = entry.seq // _SPAN
        block = self._block(number)
        del self._by_id[checkpoint_id]
        del block[bisect_left(block, entry.seq, key=_seq_of)]
        if not block:
            del self._order[bisect_left(self._order, number)]
            del self._blocks[number]
        self._count -= 1
        return entry

    def put_back(self, entry: Entry) -> None:
        """Add a checkpoint again that was removed, at its place."""
        number = entry.seq // _SPAN
        block = self._block(number)
        if not block:
            block = self._blocks[number] = []
            insort(self._order, number)
        insort(block, entry, key=_seq_of)
        self._by_id[entry.checkpoint_id] = entry
        self._count += 1

    def _block(self, number: int) -> list[Entry]:
        """Return the entries of a block; an empty list, not kept, if there is none."""
        block = self._blocks.get(number)
        if number in self._packed:
            self._unpacking.hold(partial(self._unpack, number))
            block = self._blocks.get(number)
        return [] if block is None else block

    def _unpack(self, number: int) -> None:
        """Unpack a block, unless it is; an interrupted call is repeated."""
        if (packed := self._packed.get(number)) is None:
            return
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = entries.unpack(packed, self._shared)
        self._by_id.update([(entry.checkpoint_id, entry) for entry in block])
        del self._packed[number]

    def packed(self) -> Packed:
        """Return the checkpoints packed; no other thread may fold meanwhile."""
        return self._unpacking.hold(self._pack)

    def _pack(self) -> Packed:
        packed = self._packed
        index = [key for key in self._crcs if key & _NUMBER in packed]
        index += [
            _crc(entry.checkpoint_id) << _NUMBER_BITS | number
            for number, block in self._blocks.items()
            if number not in packed
            for entry in block
        ]
        index.sort()
        blocks = {
            number: packed.get(number) or entries.pack(self._blocks[number])
            for number in self._order
        }
        return Packed(self._count, blocks, array("Q", index))


def _crc(checkpoint_id: str) -> int:
    return zlib.crc32(checkpoint_id.encode(errors="surrogatepass"))
