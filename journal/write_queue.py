"""Group commit: callers that write to one job at once share a write and a sync.

Whoever finds nobody leading takes all that waits, commits it, and hands the lead to the
next in line.  No thread of its own and no polling; a lone caller pays for two
uncontended locks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from journal.batch import Batch
from journal.errors import StorageFailed

_MAX_SHARED = 256

# What a caller wants written, decided when its turn has come: it adds events to the
# batch and returns the caller's answer, or raises.
Request = Callable[[Batch], object]


class Waiter:
    """A caller in the queue: asleep until it is answered or has to lead."""

    __slots__ = ("answer", "error", "is_done", "is_shared", "request", "turn")

    def __init__(self, request: Request, *, is_shared: bool) -> None:
        self.request = request
        self.is_shared = is_shared
        self.is_done = False
        self.answer: object = None
        self.error: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class WriteQueue:
    """The callers that want to write to one job, first come, first served."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[Waiter] = deque()
        self._is_led = False

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
            commit: carries waiters out from the left, and takes each that was served
                off; those it leaves get the error that it raises.

        Raises:
            Exception: what the request or its commit raised.
        """
        me = Waiter(request, is_shared=is_shared)
        with self._guard:
            self._waiting.append(me)
            must_lead, self._is_led = not self._is_led, True
        if not must_lead:
            self._wait(me)
        if not me.is_done:
            self._lead(commit)
        if me.error is not None:
            raise me.error
        return me.answer

    def _wait(self, me: Waiter) -> None:
        """Sleep until answered, or promoted to lead."""
        try:
            me.turn.acquire()
        except BaseException:  # Ctrl-C: leave the queue without blocking the others
            with self._guard:
                if me in self._waiting:
                    was_promoted = not me.turn.locked()
                    self._waiting.remove(me)
                    if was_promoted:
                        self._pass_lead()
            raise

    def _lead(self, commit: Callable[[deque[Waiter]], None]) -> None:
        """Carry out what waits at the front of the queue, then pass the lead on."""
        with self._guard:
            served = self._take()
        unserved = deque(served)
        try:
            commit(unserved)
        except Exception as exc:  # noqa: BLE001 - raised in each caller's own thread
            for waiter in unserved:
                waiter.error = exc
        except BaseException:  # Ctrl-C strikes the leader only
            for waiter in unserved:
                waiter.error = StorageFailed("interrupted; the outcome is unknown")
            raise
        finally:
            for waiter in served:
                waiter.is_done = True
                waiter.turn.release()
            with self._guard:
                self._pass_lead()

    def _take(self) -> list[Waiter]:
        waiters = [self._waiting.popleft()]
        while (
            waiters[0].is_shared
            and self._waiting
            and self._waiting[0].is_shared
            and len(waiters) < _MAX_SHARED
        ):
            waiters.append(self._waiting.popleft())
        return waiters

    def _pass_lead(self) -> None:
        if self._waiting:
            self._waiting[0].turn.release()
        else:
            self._is_led = False
