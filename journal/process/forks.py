"""Reset locks in a forked child.

Only the forking thread survives in the child.  A lock that another thread held at
the fork stays locked for ever, and the data it guards may be half changed.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object that owns locks."""

    def after_fork(self) -> None:
        """Replace all locks, in the child; must not acquire an old one."""


_alive: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(something: Forkable) -> None:
    """Call `something.after_fork` in every forked child while `something` lives."""
    _alive.add(something)


def _tell() -> None:
    for something in list(_alive):
        something.after_fork()


os.register_at_fork(after_in_child=_tell)
