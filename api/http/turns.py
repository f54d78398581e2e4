"""Fair sharing of a bounded number of threads between jobs.

A write waits for its job's lock, which another process may keep for long.  Without a
rule the requests about one such job would take every thread.  The rule: a job may take
at most a share of the threads that are free at that moment.  It limits a busy job early
and leaves threads for other jobs however many hang, without detecting which hang.
"""

from __future__ import annotations

import asyncio
import math
import resource
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from milepost.journal.errors import MilepostError
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# A job takes at most this fraction (1/N) of the free threads.
SHARE = 8
# The same for the queue; waiting costs a connection, not a thread.  Readers wait for no
# lock and soon have their turn: those of one job may take as many places as are left.
QUEUE_SHARE = 4
READERS_QUEUE_SHARE = 1


class Busy(MilepostError):
    """Too many requests are waiting; nothing was done."""

    code = "busy"


class Turns:
    """A bounded number of threads, shared by key.  Thread-safe.

    Args:
        threads: how many run at once.
        queue: how many requests may wait for a thread, over all keys.
        patience_seconds: how long a request waits for a thread.
        queue_share: a key takes at most this fraction (1/N) of the free places in the
            queue.
    """

    def __init__(
        self,
        threads: int,
        *,
        queue: int,
        patience_seconds: float,
        queue_share: int = QUEUE_SHARE,
    ) -> None:
        self._free = threads
        self._queue_free = queue
        self._queue_share = queue_share
        self._patience_seconds = patience_seconds
        self._working: Counter[str] = Counter()
        self._queued: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._guard = threading.Lock()
        self._limiter = anyio.CapacityLimiter(math.inf)

    async def run(self, key: str, work: Callable[[], T]) -> T:
        """Run `work` in a thread when its turn comes, and return its result.

        Raises:
            Busy: the queue of `key` is full, or no thread was free in time.
        """
        with self._guard:
            waiter = None if self._take(key) else self._queue_up(key)
        if waiter is not None:
            await self._wait(waiter)
        try:
            # This class bounds the threads, so anyio does not.  A stopping server does
            # not wait for a hanging thread; acknowledged writes are durable.
            return await anyio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=self._limiter
            )
        finally:
            with self._guard:
                self._leave(key)

    def _take(self, key: str) -> bool:
        """Take a thread for `key` if it may have one more."""
        if self._free == 0 or self._working[key] >= max(1, self._free // SHARE):
            return False
        self._free -= 1
        self._working[key] += 1
        return True

    def _queue_up(self, key: str) -> _Waiter:
        """Return a waiter, for which a thread will be taken."""
        most = max(1, self._queue_free // self._queue_share)
        if self._queue_free == 0 or self._queued[key] >= most:
            waiting = self._queued[key]
            raise Busy(f"already waiting: {counted(waiting, 'request')}{_about(key)}")
        self._queue_free -= 1
        self._queued[key] += 1
        waiter = _Waiter(key)
        self._waiting.append(waiter)
        return waiter

    async def _wait(self, waiter: _Waiter) -> None:
        patience = waiter.loop.call_later(self._patience_seconds, _wake, waiter.woken)
        is_cut = True
        try:
            await waiter.woken
            is_cut = False
        finally:
            patience.cancel()
            with self._guard:
                self._queue_free += 1
                _less(self._queued, waiter.key)
                waiter.has_left = True
                if is_cut and waiter.has_turn:  # both came at the same moment
                    self._leave(waiter.key)
        if not waiter.has_turn:
            within = f"within {self._patience_seconds:g} s"
            raise Busy(f"no free thread for a request{_about(waiter.key)} {within}")

    def _leave(self, key: str) -> None:
        """Give a thread back, and start the waiters that may use it."""
        self._free += 1
        _less(self._working, key)
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if waiter.has_left:
                continue
            if self._take(waiter.key):
                waiter.has_turn = True
                if waiter.loop is asyncio.get_running_loop():
                    _wake(waiter.woken)
                else:
                    waiter.loop.call_soon_threadsafe(_wake, waiter.woken)
            else:
                self._waiting.append(waiter)


class _Waiter:
    """A request that waits for a thread.

    Attributes:
        key: what it is about.
        loop: the event loop that it runs in.
        woken: done once it has its turn, or has waited for too long.
        has_turn: a thread was taken for it.
        has_left: it waits no longer.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.loop = asyncio.get_running_loop()
        self.woken: asyncio.Future[None] = self.loop.create_future()
        self.has_turn = self.has_left = False


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def connections_max(setting: int) -> int:
    """Return the limit of connections, bounded by the limit of open files.

    Half of the files are reserved for journals and heads.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return setting if soft == resource.RLIM_INFINITY else min(setting, soft // 2)


class Sizes(NamedTuple):
    """How many requests a server runs and queues, by its limit of connections.

    Running and waiting requests take at most three quarters of the connections.  The
    rest is for requests that are still arriving, health checks among them.
    """

    connections: int

    def readers(self, patience_seconds: float) -> Turns:
        """Return the threads for requests that never wait for a lock."""
        # Few threads: they take turns with the interpreter, and none of them waits.
        return Turns(
            max(4, self.connections // 16),
            queue=max(4, self.connections * 3 // 16),
            patience_seconds=patience_seconds,
            queue_share=READERS_QUEUE_SHARE,
        )

    def writers(self, patience_seconds: float) -> Turns:
        """Return the threads for requests that may wait for a lock."""
        part = max(8, self.connections // 4)
        return Turns(part, queue=part, patience_seconds=patience_seconds)


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _about(key: str) -> str:
    return f" about {key!r:.80}" if key else ""
