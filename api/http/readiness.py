"""The readiness check of a server, run in a thread of its own.

Reading all journals may take long, or hang with the disk.  So one check runs at a time,
concurrent callers share its result, and a caller waits only briefly: then it gets the
last result, unless the check has hung for too long.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import MilepostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.manager import CheckpointManager
    from milepost.worker.service import Worker
    from milepost.worker.status import WorkerStatus

# A probe's default timeout is one second.
PATIENCE_SECONDS = 0.7
HANGS_SECONDS = 30.0


class Look(NamedTuple):
    """The result of one check.

    Attributes:
        reasons: why the server is not ready; empty if it is.
        jobs: their number, None if the journals cannot be read.
        damaged_jobs: how many of them are damaged.
        worker: the health of the attached worker, None if there is none.
    """

    reasons: tuple[str, ...] = ()
    jobs: int | None = None
    damaged_jobs: int | None = None
    worker: WorkerStatus | None = None


class Readiness:
    """Checks a store and its worker, and keeps the last result.  Thread-safe.

    Args:
        manager: called in the checking thread, since it may open the store.
        worker: the attached worker.
        steady: a monotonic clock in seconds.
    """

    def __init__(
        self,
        manager: Callable[[], CheckpointManager],
        worker: Worker | None,
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._worker = worker
        self._steady = steady
        self._guard = threading.Lock()
        self._running: Future[Look] | None = None
        self._began = 0.0
        self._last: Look | None = None

    async def look(self) -> Look:
        """Return the result of a new check, or the last result if that takes long."""
        running = self._begin()
        await asyncio.wait({asyncio.wrap_future(running)}, timeout=PATIENCE_SECONDS)
        if running.done():
            return running.result()
        if self._last is None:
            return Look(("the index is catching up with the journals",))
        took = self._steady() - self._began
        if took > HANGS_SECONDS:
            why = f"reading the journals has hung for {took:.0f} s"
            return self._last._replace(reasons=(*self._last.reasons, why))
        return self._last

    def _begin(self) -> Future[Look]:
        """Return the running check, or start one."""
        with self._guard:
            if self._running is None:
                self._running = Future()
                self._running.set_running_or_notify_cancel()
                self._began = self._steady()
                threading.Thread(
                    target=self._run, name="milepost-readiness", daemon=True
                ).start()
            return self._running

    def _run(self) -> None:
        try:
            found = _look(self._manager, self._worker)
        except Exception as exc:  # noqa: BLE001 - raised in the caller
            with self._guard:
                running, self._running = self._running, None
            assert running is not None
            running.set_exception(exc)
            return
        with self._guard:
            running, self._running = self._running, None
            self._last = found
        assert running is not None
        running.set_result(found)


def _look(manager: Callable[[], CheckpointManager], worker: Worker | None) -> Look:
    reasons: list[str] = []
    jobs = damaged = None
    try:
        # Reading a job refreshes its index from the journal.
        infos = manager().jobs()
    except (MilepostError, OSError) as exc:
        code = getattr(exc, "code", "storage_failed")
        reasons.append(f"the journals cannot be read: {code}")
    else:
        jobs, damaged = len(infos), sum(job.damage is not None for job in infos)
    status = None if worker is None else worker.status
    if status and not status.scheduler_alive and (status.leader or status.problem):
        reasons.append("the worker's scheduler is not running")
    return Look(tuple(reasons), jobs, damaged, status)
