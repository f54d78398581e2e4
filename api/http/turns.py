"""Who may use a thread now, so that a job that hangs leaves room for the others.

A write waits for its job's lock, which another process may hold for long.  Threads are
bounded, so without a rule the requests about one such job would take all of them.  The
rule: a job may take at most a share of what is free at that moment.  It binds a busy
job early, it keeps something for every other job however many of them hang, and it
needs no guess at what hangs.
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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

# A job takes at most one part in so many of the places that are free.
SHARE = 8
# The same of the places in the queue; waiting costs a connection, not a thread.
QUEUE_SHARE = 4


class Busy(MilepostError):
    """Too many requests wait already; nothing was done."""

    code = "busy"


class Turns:
    """A bounded number of threads, shared by key.  Thread-safe.

    Args:
        threads: that work at once.
        queue: how many requests may wait for one, over all keys.
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
        """Return what `work` returns, which runs in a thread when its turn has come.

        Raises:
            Busy: the queue of `key` is full, or no turn came in time.
        """
        async with self._turn(key):
            # The bound is ours, so anyio needs none.  A server that ends does not wait
            # for what hangs; nothing that was acknowledged is lost by that.
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
        """Return what is done once a thread was taken for `key`."""
        most = max(1, self._queue_free // QUEUE_SHARE)
        if self._queue_free == 0 or self._queued[key] >= most:
            raise Busy(f"{self._queued[key]} requests{_about(key)} wait already")
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
                    self._leave(key)  # it came just then
            if isinstance(exc, TimeoutError):
                took = f"{self._patience_seconds:g} s"
                raise Busy(f"no turn for a request{_about(key)} in {took}") from None
            raise
        finally:
            with self._guard:
                self._queue_free += 1
                _less(self._queued, key)

    def _leave(self, key: str) -> None:
        """Give a thread back, and let those have it who may."""
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
            else:  # it gave up just now
                self._free += 1
                _less(self._working, of)


def connections_max(setting: int) -> int:
    """Return how many connections a server may have, by the limit of open files.

    Half of the files are left to journals and their heads.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return setting if soft == resource.RLIM_INFINITY else min(setting, soft // 2)


class Sizes(NamedTuple):
    """How many requests a server works on at once, by how many connections it has.

    All that work and wait take three quarters of the connections at most; the rest is
    for those whose request is still on its way, health checks among them.
    """

    connections: int

    def readers(self, patience_seconds: float) -> Turns:
        """Return the turns of requests that never wait for a lock."""
        part = max(4, self.connections // 8)
        return Turns(part, queue=part, patience_seconds=patience_seconds)

    def writers(self, patience_seconds: float) -> Turns:
        """Return the turns of requests that may."""
        part = max(8, self.connections // 4)
        return Turns(part, queue=part, patience_seconds=patience_seconds)


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _about(key: str) -> str:
    return f" about {key!r:.80}" if key else ""
