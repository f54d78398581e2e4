"""One call of a thread at a time: a call from inside another one is refused.

A signal handler, a destructor or a callback that runs while its thread changes what
this process holds of a job would wait for its own thread, or see half of a change.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, TypeVar

from milepost.journal.errors import NestedCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_T = TypeVar("_T")


class Calls:
    """The calls that are under way, at most one in each thread."""

    def __init__(self) -> None:
        self._inside = threading.local()

    def check(self) -> None:
        """Refuse to begin inside a call of this thread.

        Raises:
            NestedCall: one is under way.
        """
        try:
            frame: FrameType | None = self._inside.frame
        except AttributeError:
            return
        if frame is not None and _is_running(frame):
            raise NestedCall.inside()

    def alone(self, work: Callable[[], _T]) -> _T:
        """Return what `work` does; a call inside of it is refused.

        Raises:
            NestedCall: this one is inside another.
        """
        self.check()
        # Whether it is under way is asked of the stack: should an exception come
        # before the mark is taken back, the mark means nothing.
        self._inside.frame = sys._getframe()  # noqa: SLF001 - the one way to name a call
        try:
            return work()
        finally:
            self._inside.frame = None


def _is_running(frame: FrameType) -> bool:
    """Tell whether `frame` is among those that this thread is executing."""
    at: FrameType | None = sys._getframe()  # noqa: SLF001
    while at is not None:
        if at is frame:
            return True
        at = at.f_back
    return False
