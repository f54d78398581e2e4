"""Which earlier state a delta is taken from.  Pure.

Deltas from the state just before would make chains as long as the history; whole states
in between cost what deltas save.  Instead a state has a depth: 0 if it is whole, else
one more than the state before it.  Written in base 4, it differs from the state whose
lowest digit that is not 0 is one less (depth 27 = 123₄ from 122₄, 28 = 130₄ from 120₄,
32 = 200₄ from 100₄): the idea of Subversion's skip-deltas (notes/skip-deltas in its
repository), which clear the digit at once.  So what a save added is stored once for
each of four digits, and no state needs more than twelve others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_RADIX = 4
# A state that would be that deep is stored whole.
PERIOD = _RADIX**4
# A reader gives up beyond.  Chains stay at 13 unless states in between are deleted.
MAX_LINKS = 32


class Link(NamedTuple):
    """One state of a chain: which save it is, and how deep."""

    seq: int
    depth: int
    checkpoint_id: str


def stride(depth: int) -> int:
    """Return how much less deep the base is; `depth` is 1 to `PERIOD` - 1."""
    found = 1
    while depth % (found * _RADIX) == 0:
        found *= _RADIX
    return found


def base_of(chain: Sequence[Link], is_lasting: Callable[[Link], bool]) -> Link | None:
    """Return the base for a state that follows on the first of `chain`.

    Args:
        chain: what that first one needs to be read, itself included, the whole state
            last.
        is_lasting: tells whether one will be there as long as it is needed.

    Returns:
        None: the state is to be stored whole.
    """
    depth = chain[0].depth + 1
    if depth >= PERIOD or len(chain) >= MAX_LINKS:
        return None
    last = depth - stride(depth)
    lasting = [link for link in chain if is_lasting(link)]
    # The very one may be gone: then an earlier one, or at least the one just before.
    found = [link for link in lasting if link.depth <= last] or lasting
    return found[0] if found else None
