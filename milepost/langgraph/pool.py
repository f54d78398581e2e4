"""The threads in which the async methods of a saver run."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from milepost.journal.process import forks

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
# A thread that writes waits for a sync; different jobs sync in parallel.
_MAX_THREADS = 32


class Pool:
    """An executor of its own: it does not wait behind what else the loop's one runs.

    Threads start when they are needed.
    """

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Take an executor without threads: a forked child has none of them."""
        self._executor = ThreadPoolExecutor(
            _MAX_THREADS, thread_name_prefix="milepost-langgraph"
        )

    async def run(self, call: Callable[[], _T]) -> _T:
        """Run `call` in a thread, in the caller's context; return its result."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, partial(copy_context().run, call)
        )

    def close(self) -> None:
        """End the threads once they have done what they do now.  Idempotent."""
        self._executor.shutdown(wait=False)
