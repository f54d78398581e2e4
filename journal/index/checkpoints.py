"""The live checkpoints of a job, by id and in the order of their saves.  Pure.

Blocks of neighbouring seqs keep every change small: a removal or an undeletion moves
entries of one block, and an empty block is dropped, so a walk costs what it returns.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import chain, repeat
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.index.entries import Entry

# Seqs of one block.
_SPAN = 256


_seq_of = attrgetter("seq")


class Checkpoints:
    """The live checkpoints of a job; iteration yields their ids, oldest first.

    A change takes O(log n), and a walk O(log n) and what it returns.  Walks of other
    threads than the one that folds may miss what changes meanwhile.
    """

    __slots__ = ("_blocks", "_by_id", "_order")

    def __init__(self) -> None:
        self._by_id: dict[str, Entry] = {}
        # By seq // _SPAN, none of them empty; each in order of seq.
        self._blocks: dict[int, list[Entry]] = {}
        self._order: list[int] = []  # the numbers of the blocks, ascending

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, checkpoint_id: object) -> bool:
        return checkpoint_id in self._by_id

    def __getitem__(self, checkpoint_id: str) -> Entry:
        return self._by_id[checkpoint_id]

    def __iter__(self) -> Iterator[str]:
        return (entry.checkpoint_id for entry in self.after(0))

    def get(self, checkpoint_id: str | None) -> Entry | None:
        """Return the checkpoint with this id, None if it is not live."""
        return self._by_id.get(checkpoint_id or "")

    def after(self, seq: int) -> Iterator[Entry]:
        """Yield the checkpoints saved after event `seq`, oldest first; 0: all."""
        number = seq // _SPAN
        order = self._order[bisect_right(self._order, number) :]
        first = self._blocks.get(number, ())
        return chain(
            first[bisect_right(first, seq, key=_seq_of) :],
            chain.from_iterable(map(self._blocks.get, order, repeat(()))),
        )

    def newest_first(self) -> Iterator[Entry]:
        """Yield the checkpoints, newest first."""
        blocks = map(self._blocks.get, reversed(self._order), repeat(()))
        return chain.from_iterable(map(reversed, blocks))

    def saved_as(self, seq: int) -> Entry | None:
        """Return the checkpoint that event `seq` saved, None if it is not live."""
        block = self._blocks.get(seq // _SPAN, ())
        at = bisect_left(block, seq, key=_seq_of)
        return block[at] if at < len(block) and block[at].seq == seq else None

    def add(self, entry: Entry) -> None:
        """Add the newest checkpoint."""
        number = entry.seq // _SPAN
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = []
            self._order.append(number)
        block.append(entry)
        self._by_id[entry.checkpoint_id] = entry

    def remove(self, checkpoint_id: str) -> Entry:
        """Remove a checkpoint and return it.

        Raises:
            KeyError: it is not live.
        """
        entry = self._by_id.pop(checkpoint_id)
        number = entry.seq // _SPAN
        block = self._blocks[number]
        del block[bisect_left(block, entry.seq, key=_seq_of)]
        if not block:
            del self._order[bisect_left(self._order, number)]
            del self._blocks[number]
        return entry

    def put_back(self, entry: Entry) -> None:
        """Add a checkpoint again that was removed, at its place."""
        number = entry.seq // _SPAN
        if number not in self._blocks:
            self._blocks[number] = []
            insort(self._order, number)
        insort(self._blocks[number], entry, key=_seq_of)
        self._by_id[entry.checkpoint_id] = entry
