"""The states that this process saved or read last, decoded: prefixes of later deltas.

They prove nothing: a reader verifies the digest of what it decodes with them.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.process import forks
from milepost.journal.process.mutex import Mutex

if TYPE_CHECKING:
    from milepost.journal.index.job_view import Fold
    from milepost.journal.states.delta import Link

_CACHE_BYTES = 32 * 1024 * 1024
# Overhead of a state: the key, the chain, the entry.
_ENTRY_BYTES = 1024


class Known(NamedTuple):
    """A decoded state: its raw bytes, its delta chain, and the cost of reading it."""

    raw: bytes
    links: tuple[Link, ...]
    stored_bytes: int


class RecentStates:
    """The recent states of the jobs of a store, at most 32 MiB.  Safe for threads.

    They are those of one fold of a job: after a restored backup or a repair, an event
    of the same seq may be another one.
    """

    def __init__(self) -> None:
        self._guard = Mutex()
        self._states: OrderedDict[tuple[Fold, int], Known] = OrderedDict()
        self._bytes = 0
        forks.watch(self)

    def get(self, fold: Fold, seq: int) -> Known | None:
        """Return the state of event `seq`; None if it is not here."""
        key = (fold, seq)
        known = self._states.get(key)
        if known is not None:
            with suppress(KeyError):  # it is just being dropped: still good
                self._states.move_to_end(key)
        return known

    def put(self, fold: Fold, known: Known) -> None:
        """Keep a state, in place of those that were used least recently."""
        if len(known.raw) > _CACHE_BYTES // 4:
            return
        try:
            self._guard.hold(partial(self._put, (fold, known.links[0].seq), known))
        except BaseException:
            self.forget()  # the count may not match the content
            raise

    def _put(self, key: tuple[Fold, int], known: Known) -> None:
        old = self._states.pop(key, None)
        self._bytes += _size_of(known) - (0 if old is None else _size_of(old))
        self._states[key] = known
        while self._bytes > _CACHE_BYTES:
            _, dropped = self._states.popitem(last=False)
            self._bytes -= _size_of(dropped)

    def after_fork(self) -> None:
        """Reset in a forked child: a thread of the parent may have held the guard."""
        self._guard = Mutex()
        self._clear()

    def forget(self) -> None:
        """Remove all states."""
        self._guard.hold(self._clear)

    def _clear(self) -> None:
        self._states = OrderedDict()
        self._bytes = 0


def _size_of(known: Known) -> int:
    return len(known.raw) + _ENTRY_BYTES
