"""Refuse calls from inside another call of the same thread.

A signal handler, a destructor or a callback can run while its thread changes a job.
A call from there would deadlock on its own thread's lock or see a partial change.
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
    """The running calls, at most one per thread."""

    def __init__(self) -> None:
        self._inside = threading.local()

    @property
    def is_inside(self) -> bool:
        """Whether a call of this thread is running."""
        frame: FrameType | None = getattr(self._inside, "frame", None)
        return frame is not None and _is_running(frame)

    def check(self) -> None:
        """Refuse to start inside a call of this thread.

        Raises:
            NestedCall: a call of this thread is running.
        """
        if self.is_inside:
            raise NestedCall.inside()

    def enter(self) -> None:
        """Begin a call that lasts as long as the calling function runs, or to `leave`.

        Raises:
            NestedCall: this call is inside another.
        """
        if getattr(self._inside, "frame", None) is not None:
            self.check()
        # The stack decides whether the call still runs: an exception before the mark
        # is cleared leaves a mark that matches no running frame.
        self._inside.frame = sys._getframe(1)  # noqa: SLF001 - to name a call

    def leave(self) -> None:
        """End the call."""
        self._inside.frame = None

    def alone(self, work: Callable[[], _T]) -> _T:
        """Run `work` and return its result; nested calls are refused.

        Raises:
            NestedCall: this call is inside another.
        """
        self.enter()
        try:
            return work()
        finally:
            self.leave()


def _is_running(frame: FrameType) -> bool:
    """Return whether `frame` is on this thread's stack."""
    at: FrameType | None = sys._getframe()  # noqa: SLF001
    while at is not None:
        if at is frame:
            return True
        at = at.f_back
    return False
