"""Group commit: callers that write to one job at once share a write and a sync.

The caller at the front of the queue leads: it commits what waits, for itself and for
those behind it.  Nothing is handed over.  Who leads is who has the lock, who is served
says so itself, and a caller that is gone says that; so an exception at any point leaves
a queue that the next caller can go on with (docs/adr/0026).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from milepost.journal.errors import LockTimeout
from milepost.journal.process.mutex import Mutex
from milepost.journal.store.batch import Batch

if TYPE_CHECKING:
    from milepost.journal.recovery.head import Extent

_MAX_SHARED = 256
# A caller looks by itself so often.  It is woken when its turn comes, unless whoever
# had to wake it was interrupted just then.
_LOOK_SECONDS = 0.05

# What a caller wants written, decided when its turn has come: it adds events to the
# batch and returns the caller's answer, or raises.  It may be asked again if a write
# was interrupted and is not in the journal.
Request = Callable[[Batch], object]


class Waiter:
    """A caller in the queue.

    Attributes:
        since: when it came.
        answer, error: final once `is_done`.
        landing: the last event of the write that it was put into.  After an
            interruption, the journal tells by it whether the write is there.
        is_gone: nobody waits for the answer any more.
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
        self.landing: Extent | None = None
        self.is_done = self.is_gone = False
        self._turn = Lock()
        self._turn.acquire()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.is_done or self.is_gone

    def finish(self) -> None:
        """Let its caller go with the answer, or the error, that it has."""
        self.is_done = True
        self.wake()

    def wake(self) -> None:
        """Have its caller look whether it is served, or has to lead."""
        if self._turn.locked():
            self._turn.release()

    def sleep(self) -> None:
        """Wait to be woken."""
        self._turn.acquire(timeout=_LOOK_SECONDS)


class WriteQueue:
    """The callers that want to write to one job, first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[Waiter] = deque()
        self._lead = Mutex()

    def submit(
        self,
        request: Request,
        *,
        is_shared: bool,
        commit: Callable[[deque[Waiter]], None],
    ) -> object:
        """Have `request` committed, with others or alone; return its answer.

        Args:
            request: the caller's.
            is_shared: it may share a batch with its neighbours in the queue.
            commit: carries waiters out from the left, and finishes each.  What it
                raises is raised here; those it leaves try by themselves.

        Raises:
            Exception: what the request or its commit raised.
        """
        me = Waiter(request, is_shared=is_shared)
        try:
            self._waiting.append(me)
            while not me.is_done:
                if self._lead.try_hold(partial(self._serve, me, commit)):
                    self._wake_front()
                if not me.is_done:
                    me.sleep()
        finally:
            me.is_gone = True
            self._wake_front()
        if me.error is not None:
            raise me.error
        return me.answer

    def _serve(self, me: Waiter, commit: Callable[[deque[Waiter]], None]) -> None:
        """Commit what waits, if `me` is at the front.  Only with the lead."""
        self._clear()
        if not self._waiting or self._waiting[0] is not me:
            return
        began = time.monotonic()
        try:
            commit(self._next())
        except LockTimeout as exc:
            for waiter in self._waiting.copy():
                if waiter.since <= began and waiter is not me:  # it waited as long
                    waiter.error = LockTimeout(exc.message, hint=exc.hint)
                    waiter.finish()
            raise
        self._clear()

    def _next(self) -> deque[Waiter]:
        """Return the first waiter, and those behind it that may share its batch."""
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
        """Drop those at the front for whom nothing is left to do."""
        while self._waiting and self._waiting[0].is_over:
            self._waiting.popleft()

    def _wake_front(self) -> None:
        with suppress(IndexError):
            at = 0
            while self._waiting[at].is_over:
                at += 1
            self._waiting[at].wake()
