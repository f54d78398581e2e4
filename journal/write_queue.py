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

    __slots__ = (
        "answer",
        "error",
        "is_done",
        "is_served",
        "is_shared",
        "request",
        "turn",
    )

    def __init__(self, request: Request, *, is_shared: bool) -> None:
        self.request = request
        self.is_shared = is_shared
        self.is_served = False  # `answer` or `error` is final
        self.is_done = False  # and it may go
        self.answer: object = None
        self.error: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class WriteQueue:
    """The callers that want to write to one job, first come, first served.

    A Ctrl-C can strike its thread anywhere, so who leads and whom it serves are on
    record, and leaving is one idempotent step.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[Waiter] = deque()
        self._leader: Waiter | None = None
        self._served: list[Waiter] = []  # by the leader, until it leaves

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
        interrupt: KeyboardInterrupt | None = None
        try:
            with self._guard:
                self._waiting.append(me)
                if self._leader is None:
                    self._leader = me
                leads = self._leader is me
            if not leads:
                me.turn.acquire()  # until answered, or promoted to lead
            if not me.is_done:
                self._lead(commit)
        finally:
            # Not in a function of its own: its very call could be interrupted.
            while True:
                try:
                    self._leave(me)
                    break
                except KeyboardInterrupt as exc:  # not before the others can go on
                    interrupt = exc
        if interrupt is not None:
            raise interrupt
        if me.error is not None:
            raise me.error
        return me.answer

    def _lead(self, commit: Callable[[deque[Waiter]], None]) -> None:
        """Carry out what waits at the front of the queue."""
        with self._guard:
            self._served = self._take()
        unserved = deque(self._served)
        try:
            commit(unserved)
        except Exception as exc:  # noqa: BLE001 - raised in each caller's own thread
            for waiter in unserved:
                waiter.error = exc
        except BaseException:  # Ctrl-C strikes the leader only
            for waiter in unserved:
                waiter.error = StorageFailed("interrupted; the outcome is unknown")
            raise

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

    def _leave(self, me: Waiter) -> None:
        """Wake those I served and pass the lead on, as far as they are mine to."""
        if me.is_done and self._leader is not me:
            return  # the leader who served me has taken me off the record
        with self._guard:
            if me in self._waiting:
                self._waiting.remove(me)  # interrupted before anybody served me
            if self._leader is not me:
                return
            for waiter in self._served:
                if not waiter.is_served and waiter.error is None:
                    waiter.error = StorageFailed("interrupted; the outcome is unknown")
                waiter.is_done = True
                if waiter.turn.locked():  # not so after an interrupt just here
                    waiter.turn.release()
            # From here the lead is another's; an interrupt in between leaves a leader
            # who sleeps, so waking it comes first.
            following = self._waiting[0] if self._waiting else None
            if following is not None and following.turn.locked():
                following.turn.release()
            self._leader = following
            self._served = []
