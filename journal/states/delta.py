"""The choice of a delta's base among earlier states.  Pure.

A delta against the previous state would make chains as long as the history, and whole
states in between cost the space that deltas save.  Instead a state has a depth: 0 if it
is whole, else one more than the state before it.  With the depth in base 4, its base is
the state whose lowest nonzero digit is one less (depth 27 = 123₄ from 122₄, 28 = 130₄
from 120₄, 32 = 200₄ from 100₄).  The idea is that of Subversion's skip-deltas
(notes/skip-deltas in its repository), which clear the digit at once.  So each addition
is stored once for each of four digits, and no state needs more than twelve others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_RADIX = 4
# A state of this depth is stored whole.
PERIOD = _RADIX**4
# Readers reject longer chains.  Chains have at most 13 states unless some are deleted.
MAX_LINKS = 32
# A delta's prefix has at most this number of states before its base: one for each state
# of the longest stride.
MAX_PLUS = _RADIX**3
# A restore reads at most this multiple of the state, or this many bytes.
_READ_FACTOR, _READ_BYTES = 4, 64 * 1024


class Link(NamedTuple):
    """One state of a delta chain: its save and its depth."""

    seq: int
    depth: int
    checkpoint_id: str


def stride(depth: int) -> int:
    """Return by how much `depth` (1 to `PERIOD` - 1) exceeds that of its base."""
    found = 1
    while depth % (found * _RADIX) == 0:
        found *= _RADIX
    return found


def most_to_read(raw_bytes: int) -> int:
    """Return how many stored bytes a state of `raw_bytes` may depend on.

    Also how many bytes the states that its prefix has before its base may be.
    """
    return max(_READ_FACTOR * raw_bytes, _READ_BYTES)


def base_of(chain: Sequence[Link], is_lasting: Callable[[Link], bool]) -> Link | None:
    """Return the base for a state packed after the first state of `chain`.

    Args:
        chain: the states needed to read the first one, itself included, the whole
            state last.
        is_lasting: returns whether a state stays stored as long as it is needed.

    Returns:
        None if the state is to be stored whole.
    """
    depth = chain[0].depth + 1
    if depth >= PERIOD or len(chain) >= MAX_LINKS:
        return None
    last = depth - stride(depth)
    lasting = [link for link in chain if is_lasting(link)]
    # If the ideal base is deleted, use an earlier one, or else the nearest one left.
    found = [link for link in lasting if link.depth <= last] or lasting
    return found[0] if found else None
