"""Sends events of the journals to URLs, while this worker leads.

    thread                   does
    milepost-webhooks        searches changed jobs for events, and queues their jobs
    milepost-webhook-<name>  sends the queued events of one webhook

If a thread fails, all are started again within a second, and continue from the records.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from milepost.journal.clock import stamp
from milepost.journal.errors import MilepostError
from milepost.worker.webhooks import outbox
from milepost.worker.webhooks.courier import Courier, Surroundings
from milepost.worker.webhooks.outbox import Outbox, Waiting
from milepost.worker.webhooks.positions import Positions
from milepost.worker.webhooks.sender import resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.webhooks import WebhookSettings
    from milepost.worker.problems import Problems
    from milepost.worker.webhooks.sender import Resolve

STOP_SECONDS = 2.0
_SUBJECT = "webhooks"
# The position of a job that was unreadable when it was first searched.
_UNKNOWN = -1


class Webhooks:
    """The webhooks of a store.  The leading worker calls `tend` once a second."""

    def __init__(
        self,
        manager: CheckpointManager,
        problems: Problems,
        *,
        clock: Callable[[], datetime],
        steady: Callable[[], float],
        resolve: Resolve = resolved,
    ) -> None:
        self._manager = manager
        self._problems = problems
        self._clock = clock
        self._steady = steady
        self._resolve = resolve
        self._tenure: _Tenure | None = None
        self._settings: Sequence[WebhookSettings] | None = None

    def tend(
        self, settings: Sequence[WebhookSettings], environ: Mapping[str, str]
    ) -> None:
        """Start the threads, restart them after an edit or a failure, or wake them."""
        is_edited, self._settings = self._settings != settings, settings
        tenure = self._tenure
        if tenure is not None and tenure.is_alive and not is_edited:
            tenure.wake()
            return
        self.stop()
        if settings:
            around = Surroundings(
                *(self._manager, self._problems, environ),
                *(self._clock, self._steady, self._resolve),
            )
            self._tenure = _Tenure(settings, around)
            self._tenure.start()
        elif is_edited:
            self._forget()

    def _forget(self) -> None:
        """Forget all webhooks: one that is configured later starts as a new one."""
        storage = self._manager.storage
        with self._problems.noting(_SUBJECT, MilepostError):
            if outbox.names(storage):
                outbox.store_names(storage, [])

    def notice(self, job_ids: Collection[str] | None) -> None:
        """Search these jobs soon, or all that have changed; never blocks."""
        tenure = self._tenure
        if tenure is not None:
            tenure.notice(job_ids)

    def stop(self) -> None:
        """End the threads; what they were sending stays due."""
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            tenure.stop()


class _Tenure:
    """The threads from their start to their end; not restarted."""

    def __init__(
        self, settings: Sequence[WebhookSettings], around: Surroundings
    ) -> None:
        self._settings = settings
        self._around = around
        self._couriers: list[Courier] = []
        self._boxes: dict[str, Outbox] = {}
        self._hints: set[str] = set()
        self._is_sweep_due = False
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._cursor: str | None = None
        self._unread: set[str] = set()
        self._thread = threading.Thread(
            target=self._run, name="milepost-webhooks", daemon=True
        )

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether all threads run."""
        return self._thread.is_alive() and all(each.is_alive for each in self._couriers)

    def wake(self) -> None:
        """Make the threads look for due events."""
        for courier in self._couriers:
            courier.wake()

    def notice(self, job_ids: Collection[str] | None) -> None:
        """See `Webhooks.notice`."""
        with self._lock:
            if job_ids is None:
                self._is_sweep_due = True
            else:
                self._hints.update(job_ids)
        self._bell.set()

    def stop(self) -> None:
        """End the threads, and wait for them for `STOP_SECONDS`."""
        ends_at = time.monotonic() + STOP_SECONDS
        self._stop.set()
        self._bell.set()
        for courier in self._couriers:
            courier.ask_to_stop()
        self._thread.join(STOP_SECONDS)  # it may have started more of them
        for courier in self._couriers:
            courier.ask_to_stop()
        for courier in self._couriers:
            courier.join(max(0.0, ends_at - time.monotonic()))

    # -- the search --------------------------------------------------------------------

    def _run(self) -> None:
        with self._around.problems.noting(_SUBJECT, Exception):
            positions = Positions(self._around.manager.storage)
            self._begin(positions)
            while not self._stop.is_set():
                self._around.problems.settle(_SUBJECT)
                self._bell.wait()
                self._bell.clear()
                if self._search(self._changed(), positions):
                    positions.store()

    def _begin(self, positions: Positions) -> None:
        """Search what has changed since the last tenure; then start the couriers.

        New webhooks join after that search, so they begin with the next event.
        """
        storage = self._around.manager.storage
        known = outbox.names(storage) if positions.are_known else []
        configured = [webhook.name for webhook in self._settings]
        new = [name for name in configured if name not in known]
        self._boxes = {
            name: Outbox(storage, name) for name in configured if name in known
        }
        self._is_sweep_due = True
        has_found = self._search(self._changed(), positions)
        if self._stop.is_set():
            return  # perhaps before the end of the search
        if new:
            for job_id in self._unread:
                positions.set(job_id, _UNKNOWN)
        if new or has_found:
            positions.store()
        if new:
            for name in new:
                self._boxes[name] = Outbox(storage, name, is_new=True)
        if known != configured:
            outbox.store_names(storage, configured)
        for webhook in self._settings:
            courier = Courier(webhook, self._boxes[webhook.name], self._around)
            if not self._stop.is_set():
                courier.start()
                self._couriers.append(courier)

    def _changed(self) -> set[str]:
        """Return the jobs to search."""
        with self._lock:
            jobs, self._hints = self._hints, set()
            is_sweep, self._is_sweep_due = self._is_sweep_due, False
        if is_sweep:
            found, self._cursor = self._around.manager.storage.changed(self._cursor)
            jobs = jobs.union(found, self._unread)
        return jobs

    def _search(self, jobs: Collection[str], positions: Positions) -> bool:
        """Queue the jobs with events to send; return whether there are any.

        Their positions are stored after the queues.  After a crash in between they are
        searched again, and an event may be sent twice.  A search without a result is
        not stored: it can be repeated.
        """
        queued: dict[str, dict[str, Waiting]] = {name: {} for name in self._boxes}
        ends: dict[str, int] = {}
        for job_id in jobs:
            if self._stop.is_set():
                return False
            try:
                ends[job_id] = self._search_job(job_id, positions, queued)
            except MilepostError:
                self._unread.add(job_id)  # its readers get the error
            else:
                self._unread.discard(job_id)
        at = stamp(self._around.clock())
        for name, waiting in queued.items():
            if waiting:
                self._boxes[name].add(waiting, at)
        for job_id, seq in ends.items():
            positions.set(job_id, seq)
        return any(queued.values())

    def _search_job(
        self,
        job_id: str,
        positions: Positions,
        queued: Mapping[str, dict[str, Waiting]],
    ) -> int:
        """Add the job to what is queued of each webhook; return its last event.

        Raises:
            MilepostError: the job cannot be read.
        """
        manager = self._around.manager
        before = positions.get(job_id)
        last = manager.storage.job(job_id).position().last.seq
        if before == _UNKNOWN or last <= before:
            return last
        for webhook in self._settings:
            if webhook.name not in queued or not webhook.is_for(job_id):
                continue
            newest = manager.history(
                *(job_id,), after_seq=before, types=webhook.types, limit=1, reverse=True
            )
            if newest:
                until = min(newest[0]["seq"], last)
                queued[webhook.name][job_id] = Waiting(before, until)
        return last
