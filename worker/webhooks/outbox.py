"""What one webhook has still to send, and what it has sent, in a record of the store.

The journals are the queue.  The record only names the jobs with unsent events: which
event was handled last, and up to which event to go.  Events of one job are sent in
their order; a job whose event is refused waits, and the others go on.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from milepost.journal.storage.contract import Storage
    from milepost.worker.webhooks.sender import Outcome

INDEX = "webhooks"  # the record with the names of the webhooks
MAX_RECENT = 100
MAX_JOBS = 10_000
# Of a record, 1 MiB at most; the recent deliveries take at most 200 KiB of it.
MAX_QUEUE_BYTES = 768 * 1024
FIRST_PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 3600.0

Result = Literal["delivered", "retrying", "failed", "dropped"]


class Delivery(NamedTuple):
    """The last attempt to deliver one event.

    Attributes:
        webhook: its name.
        id: of the event, as the receiver gets it; empty if the event was not read.
        attempts: how often it was tried.
        outcome: ``failed``: no attempt is left; ``dropped``: the queue was full.
        status: of the HTTP answer, None without one.
        at: the time of the attempt.
    """

    webhook: str
    id: str
    type: str
    job_id: str
    seq: int
    attempts: int
    outcome: Result
    status: int | None
    error: str | None
    at: str


class Waiting(NamedTuple):
    """A job with events to send.

    Attributes:
        done: the last event that was handled.
        until: the last event that may have to be sent.
        attempts: failed attempts of the next event.
        due: when to try it, on the steady clock; not stored, so a restart tries at
            once.
    """

    done: int
    until: int
    attempts: int = 0
    due: float = 0.0


class Sent(NamedTuple):
    """An event, as it was sent."""

    id: str
    type: str
    job_id: str
    seq: int


class Outbox:
    """The queue and the recent deliveries of one webhook.  Safe for threads.

    `bell` rings when jobs were added.

    Each method that changes something raises `Conflict` if another worker has changed
    the record since, and `StorageFailed` if it cannot be stored.
    """

    def __init__(self, storage: Storage, name: str, *, is_new: bool = False) -> None:
        self.name = name
        self._record = storage.record(f"webhook-{name}")
        found = self._record.get()
        self._version = None if found is None else found.version
        self._waiting: dict[str, Waiting] = {}
        self._recent: deque[Delivery] = deque(maxlen=MAX_RECENT)
        self._lock = threading.Lock()
        self.bell = threading.Event()
        if found is not None:
            waiting, recent = _decoded(name, found.value)
            self._recent.extend(recent)
            if not is_new:
                self._waiting = waiting
        if is_new:
            self._store()

    def add(self, jobs: Mapping[str, Waiting], at: str) -> None:
        """Add jobs with events to send; of known ones, only `until` counts."""
        with self._lock:
            for job_id, new in jobs.items():
                known = self._waiting.get(job_id)
                if known is not None:
                    new = known._replace(until=max(known.until, new.until))  # noqa: PLW2901
                self._waiting[job_id] = new
            self._bound(at)
            self._store()
        self.bell.set()

    def next(self, now: float) -> tuple[str, Waiting] | float | None:
        """Return a due job, else the seconds until one is due, None without any."""
        with self._lock:
            for job_id, waiting in self._waiting.items():
                if waiting.due <= now:
                    return job_id, waiting
            dues = [waiting.due for waiting in self._waiting.values()]
        return min(dues) - now if dues else None

    def settle(
        self,
        sent: Sent,
        outcome: Outcome,
        *,
        max_attempts: int,
        retry_at: Callable[[int], float],
        at: str,
    ) -> Result:
        """Record an attempt; plan the next one, or go on to the job's next event."""
        with self._lock:
            # Meanwhile the queue may have been full, and the job dropped.
            waiting = self._waiting.pop(sent.job_id, Waiting(0, 0))
            attempts = waiting.attempts + 1
            result: Result = "delivered"
            if not outcome.is_delivered:
                result = "retrying" if attempts < max_attempts else "failed"
            if result == "retrying":
                self._waiting[sent.job_id] = waiting._replace(
                    attempts=attempts, due=retry_at(attempts)
                )
            elif sent.seq < waiting.until:
                # At the end, so that one busy job delays no other.
                self._waiting[sent.job_id] = Waiting(sent.seq, waiting.until)
            self._note(Delivery(self.name, *sent, attempts, result, *outcome, at))
            self._store()
            return result

    def skip(self, job_id: str, until: int) -> None:
        """Drop a job from the queue if it has nothing to send after event `until`."""
        with self._lock:
            waiting = self._waiting.pop(job_id, Waiting(0, 0))
            if waiting.until > until:
                self._waiting[job_id] = waiting._replace(done=until)
            self._store()

    def _note(self, delivery: Delivery) -> None:
        """Add a delivery; it replaces the earlier attempt of the same event."""
        for earlier in self._recent:
            if (earlier.job_id, earlier.seq) == (delivery.job_id, delivery.seq):
                self._recent.remove(earlier)
                break
        self._recent.append(delivery)

    def _bound(self, at: str) -> None:
        size = sum(map(_size, self._waiting))
        while len(self._waiting) > MAX_JOBS or size > MAX_QUEUE_BYTES:
            job_id = next(iter(self._waiting))
            waiting = self._waiting.pop(job_id)
            size -= _size(job_id)
            error = f"too many jobs wait: events up to {waiting.until} are not sent"
            self._note(
                Delivery(
                    *(self.name, "", "", job_id, waiting.done + 1, waiting.attempts),
                    *("dropped", None, error, at),
                )
            )

    def _store(self) -> None:
        document = {
            "format": 1,
            "waiting": {job: each[:3] for job, each in self._waiting.items()},
            "recent": [each[1:] for each in self._recent],
        }
        value = orjson.dumps(document)
        self._version = self._record.compare_and_set(self._version, value)


def names(storage: Storage) -> list[str]:
    """Return the webhooks that have searched the journals up to the positions.

    Raises:
        StorageFailed: they cannot be read.
    """
    found = storage.record(INDEX).get()
    with suppress(ValueError, TypeError, LookupError):
        return [] if found is None else [*orjson.loads(found.value)["names"]]
    return []


def store_names(storage: Storage, names: Iterable[str]) -> None:
    """Replace what `names` returns.

    Raises:
        Conflict: another worker has replaced it meanwhile.
        StorageFailed: it cannot be stored.
    """
    record = storage.record(INDEX)
    found = record.get()
    value = orjson.dumps({"format": 1, "names": [*names]})
    record.compare_and_set(None if found is None else found.version, value)


def deliveries(storage: Storage, webhook: str | None = None) -> list[Delivery]:
    """Return the recent deliveries of the store's webhooks, the newest first.

    At most `MAX_RECENT` of each webhook; `webhook` selects one.

    Raises:
        StorageFailed: they cannot be read.
    """
    recent: list[Delivery] = []
    for name in names(storage):
        if webhook in (None, name):
            found = storage.record(f"webhook-{name}").get()
            recent += [] if found is None else _decoded(name, found.value)[1]
    return sorted(recent, key=lambda each: each.at, reverse=True)


def _size(job_id: str) -> int:
    return 2 * len(job_id.encode()) + 48


def _decoded(name: str, value: bytes) -> tuple[dict[str, Waiting], list[Delivery]]:
    """Return the content of a record; nothing of a malformed one.

    A lost record loses the events that were to be sent; an error would lose all.
    """
    with suppress(ValueError, TypeError, LookupError, AttributeError):
        document: dict[str, Any] = orjson.loads(value)
        waiting = {
            str(job_id): Waiting(*map(int, each))
            for job_id, each in document["waiting"].items()
        }
        recent = [Delivery(name, *each) for each in document["recent"]]
        return waiting, recent
    return {}, []
