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
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from milepost.journal.errors import MilepostError
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

# A job takes at most this fraction (1/N) of the free threads.
SHARE = 8
# The same for the queue; waiting costs a connection, not a thread.
QUEUE_SHARE = 4


class Busy(MilepostError):
    """Too many requests are waiting; nothing was done."""

    code = "busy"


class Turns:
    """A bounded number of threads, shared by key.  Thread-safe.

    Args:
        threads: how many run at once.
        queue: how many requests may wait for a thread, over all keys.
        patience_seconds: how long a request waits for a thread.
    """

    def __init__(self, threads: int, *, queue: int, patience_seconds: float) -> None:
        self._free = threads
        self._queue_free = queue
        self._patience_seconds = patience_seconds
        self._working: Counter[str] = Counter()
        self._queued: Counter[str] = Counter()
        self._waiting: deque[tuple[str, Future[None]]] = deque()
        self._guard = threading.Lock()

    async def run(self, key: str, work: Callable[[], T]) -> T:
        """Run `work` in a thread when its turn comes, and return its result.

        Raises:
            Busy: the queue of `key` is full, or no thread was free in time.
        """
        async with self._turn(key):
            # This class bounds the threads, so anyio does not.  A stopping server does
            # not wait for a hanging thread; acknowledged writes are durable.
            return await anyio.to_thread.run_sync(
                work,
                abandon_on_cancel=True,
                limiter=anyio.CapacityLimiter(math.inf),
            )

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        with self._guard:
            came = None if self._take(key) else self._queue_up(key)
        if came is not None:
            await self._wait(key, came)
        try:
            yield
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

    def _queue_up(self, key: str) -> Future[None]:
        """Return a future that is done once a thread was taken for `key`."""
        most = max(1, self._queue_free // QUEUE_SHARE)
        if self._queue_free == 0 or self._queued[key] >= most:
            waiting = self._queued[key]
            raise Busy(f"already waiting: {counted(waiting, 'request')}{_about(key)}")
        self._queue_free -= 1
        self._queued[key] += 1
        came: Future[None] = Future()
        self._waiting.append((key, came))
        return came

    async def _wait(self, key: str, came: Future[None]) -> None:
        try:
            await asyncio.wait_for(asyncio.wrap_future(came), self._patience_seconds)
        except BaseException as exc:
            with self._guard:
                if not came.cancelled():
                    self._leave(key)  # the turn came at the same moment
            if isinstance(exc, TimeoutError):
                within = f"within {self._patience_seconds:g} s"
                msg = f"no free thread for a request{_about(key)} {within}"
                raise Busy(msg) from None
            raise
        finally:
            with self._guard:
                self._queue_free += 1
                _less(self._queued, key)

    def _leave(self, key: str) -> None:
        """Give a thread back, and start the waiters that may use it."""
        self._free += 1
        _less(self._working, key)
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            of, came = each
            if came.cancelled():
                continue
            if not self._take(of):
                self._waiting.append(each)
            elif came.set_running_or_notify_cancel():
                came.set_result(None)
            else:  # the waiter has just timed out
                self._free += 1
                _less(self._working, of)


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
        part = max(4, self.connections // 8)
        return Turns(part, queue=part, patience_seconds=patience_seconds)

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
