"""What a forked child has to forget: locks that threads of its parent held.

Only the thread that forked lives on in the child.  A lock that another one held just
then stays locked for ever, and what it guarded may be half changed.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that holds locks."""

    def after_fork(self) -> None:
        """Take new locks, in the child; must not ask for an old one."""


_alive: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(something: Forkable) -> None:
    """Have `something` told of every fork, for as long as it lives."""
    _alive.add(something)


def _tell() -> None:
    for something in list(_alive):
        something.after_fork()


os.register_at_fork(after_in_child=_tell)
