"""Group commit: concurrent writers of one job share a write and a sync.

The first waiter in the queue becomes the leader and commits the waiting writes.
Leadership is never handed over: the leader is the thread that has the lock, and served
or interrupted waiters mark themselves.  So an exception at any point leaves a queue
that the next caller can continue with (docs/adr/0026).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from milepost.journal.batch import Batch
from milepost.journal.errors import LockTimeout
from milepost.journal.process.mutex import Mutex

if TYPE_CHECKING:
    from milepost.journal.events.codec import Mark

_MAX_SHARED = 256
# A waiter polls at this interval.  Normally it is woken when its turn comes, but the
# thread that should wake it may have been interrupted.
_LOOK_SECONDS = 0.05

# A caller's write, decided when its turn comes: it adds events to the batch and returns
# the caller's answer, or raises.  It may be called again if a write was interrupted and
# is not in the journal.
Request = Callable[[Batch], object]


class Waiter:
    """A caller in the queue.

    Attributes:
        since: when it arrived.
        answer, error: final once `is_done`.
        landing: the last event of the write that includes it.  After an interruption,
            it shows whether the journal has the write.
        is_gone: its caller no longer waits.
    """

    __slots__ = (
        "_turn",
        "answer",
        "error",
        "is_done",
        "is_gone",
        "is_shared",
        "landing",
        "request",
        "since",
    )

    def __init__(self, request: Request, *, is_shared: bool) -> None:
        self.request = request
        self.is_shared = is_shared
        self.since = time.monotonic()
        self.answer: object = None
        self.error: Exception | None = None
        self.landing: Mark | None = None
        self.is_done = self.is_gone = False
        self._turn = Lock()
        self._turn.acquire()

    @property
    def is_over(self) -> bool:
        """Whether it needs no more work."""
        return self.is_done or self.is_gone

    def finish(self) -> None:
        """Release its caller, with its answer or error."""
        self.is_done = True
        self.wake()

    def wake(self) -> None:
        """Make its caller check whether it is served or has to lead."""
        if self._turn.locked():
            self._turn.release()

    def sleep(self) -> None:
        """Wait to be woken."""
        self._turn.acquire(timeout=_LOOK_SECONDS)


class WriteQueue:
    """The writers of one job, in order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Waiter] = deque()
        self._lead = Mutex()

    def try_lead(self) -> bool:
        """Lead without a place in the queue, if no caller waits or leads.

        The caller calls `stop_leading` twice, whatever this returns (docs/adr/0026).
        """
        return not self._waiting and self._lead.acquire(0)

    def stop_leading(self) -> None:
        """Let the first caller that waits lead; idempotent."""
        self._lead.release()
        if self._waiting:
            self._wake_front()

    def submit(self, me: Waiter, commit: Callable[[deque[Waiter]], None]) -> object:
        """Commit the request of `me`, with others or alone; return its answer.

        The caller calls `leave` in a `finally`: CPython 3.11 does not count an inner
        `try` as part of an outer one, so an exception between them would skip both.

        Args:
            me: the caller's request.
            commit: serves waiters from the left, and finishes each.  Its exceptions are
                raised here; waiters that it leaves retry by themselves.

        Raises:
            Exception: raised by the request or by its commit.
        """
        self._waiting.append(me)
        while not me.is_done:
            began, leads = time.monotonic(), False
            try:
                leads = self._lead.acquire(0)
                if leads and self._is_first(me):
                    commit(self._next())
                    self._clear()
            except LockTimeout as exc:
                self._time_out(exc, began, me)
                raise
            finally:
                self._lead.release()
            if leads:
                self._wake_front()
            if not me.is_done:
                me.sleep()
        if me.error is not None:
            raise me.error
        return me.answer

    def leave(self, me: Waiter) -> None:
        """End the wait of `me`, and its lead if an exception left it; idempotent."""
        me.is_gone = True
        self.stop_leading()

    def _is_first(self, me: Waiter) -> bool:
        self._clear()
        return bool(self._waiting) and self._waiting[0] is me

    def _time_out(self, exc: LockTimeout, began: float, me: Waiter) -> None:
        """End the others that have waited for the lock as long as the leader."""
        for waiter in self._waiting.copy():
            if waiter.since <= began and waiter is not me:
                waiter.error = LockTimeout(exc.message, hint=exc.hint)
                waiter.finish()

    def _next(self) -> deque[Waiter]:
        """Return the first waiter, and the next ones that may share its batch."""
        first = self._waiting[0]
        if not first.is_shared or len(self._waiting) == 1:
            return deque((first,))
        taken: deque[Waiter] = deque()
        for waiter in islice(self._waiting.copy(), _MAX_SHARED):
            if not waiter.is_shared:
                break
            if not waiter.is_over:
                taken.append(waiter)
        return taken

    def _clear(self) -> None:
        """Drop waiters at the front that need no more work."""
        while self._waiting and self._waiting[0].is_over:
            self._waiting.popleft()

    def _wake_front(self) -> None:
        with suppress(IndexError):
            at = 0
            while self._waiting[at].is_over:
                at += 1
            self._waiting[at].wake()
