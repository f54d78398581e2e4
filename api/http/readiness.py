"""Whether answers can be relied on, found out beside the requests.

Looking at all journals may take long, or hang with the disk.  So one thread looks at a
time, whoever asks meanwhile shares its result, and nobody waits for it for long: until
it is there the last one stands, unless the look has hung for a while.
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

# A probe gives up after a second where nobody says otherwise.
PATIENCE_SECONDS = 0.7
HANGS_SECONDS = 30.0


class Look(NamedTuple):
    """What one look found.

    Attributes:
        reasons: why the server is not ready; none if it is.
        jobs: how many there are, None if the journals cannot be read.
        damaged_jobs: how many of them are damaged.
        worker: how the attached worker is, None if there is none.
    """

    reasons: tuple[str, ...] = ()
    jobs: int | None = None
    damaged_jobs: int | None = None
    worker: WorkerStatus | None = None


class Readiness:
    """The newest look at a store and its worker.  Thread-safe.

    Args:
        manager: called in the thread that looks, for it may open the store.
        worker: the attached one.
        steady: counts seconds.
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
        """Return what a look from now on finds, or the last one if it takes long."""
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
        """Return the look that is under way, or a new one."""
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
        except Exception as exc:  # noqa: BLE001 - raised by whoever asked
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
        # Asking about a job catches up with its journal.
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
