"""The thread that sends the queued events of one webhook."""

from __future__ import annotations

import logging
import threading
from random import uniform
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.clock import stamp
from milepost.journal.errors import MilepostError
from milepost.worker.webhooks import signature
from milepost.worker.webhooks.outbox import Sent
from milepost.worker.webhooks.sender import Outcome, Sender, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.webhooks import WebhookSettings
    from milepost.worker.problems import Problems
    from milepost.worker.webhooks.outbox import Outbox, Waiting
    from milepost.worker.webhooks.sender import Resolve
    from milepost.worker.webhooks.signature import Secrets

FIRST_PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 3600.0
# Between two looks for a secret that cannot be read.
_SECRET_PAUSE_SECONDS = 1.0
# Larger data of an event is left out; the receiver reads the event instead.
MAX_DATA_BYTES = 64 * 1024

log = logging.getLogger("milepost.worker")


class Surroundings(NamedTuple):
    """What the threads of all webhooks share."""

    manager: CheckpointManager
    problems: Problems
    environ: Mapping[str, str]
    clock: Callable[[], datetime]
    steady: Callable[[], float]
    resolve: Resolve


class Courier:
    """Sends the events of one webhook, one at a time."""

    def __init__(
        self, webhook: WebhookSettings, box: Outbox, around: Surroundings
    ) -> None:
        self._webhook = webhook
        self._box = box
        self._around = around
        self._sender = Sender(around.resolve)
        self._stop = threading.Event()
        self._subject = f"webhook {webhook.name}"
        self._thread = threading.Thread(
            target=self._run, name=f"milepost-webhook-{webhook.name}", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Make the thread look for due events."""
        self._box.bell.set()

    def ask_to_stop(self) -> None:
        """End the current request and then the thread; what it sent stays due."""
        self._stop.set()
        self._sender.stop()
        self._box.bell.set()

    def join(self, timeout_seconds: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        with self._around.problems.noting(self._subject, Exception):
            while not self._stop.is_set():
                self._box.bell.clear()
                found = self._box.next(self._around.steady())
                if isinstance(found, tuple):
                    self._send_next(*found)
                else:
                    self._box.bell.wait(found)

    def _send_next(self, job_id: str, waiting: Waiting) -> None:
        try:
            secrets = signature.load(self._webhook, self._around.environ)
        except MilepostError as exc:
            self._around.problems.note(self._subject, exc)
            self._stop.wait(_SECRET_PAUSE_SECONDS)
            return
        try:
            event = self._next_event(job_id, waiting)
        except MilepostError as exc:
            # The whole job is given up after the last attempt.
            sent = Sent("", "", job_id, waiting.until)
            self._settle(sent, Outcome(error=f"the job cannot be read: {exc}"))
            return
        if event is None:
            self._box.skip(job_id, waiting.until)
            return
        sent = Sent(event_id(event), event["type"], job_id, event["seq"])
        outcome = self._post(secrets, sent, event)
        # A request that a stop has ended was no attempt.
        if outcome.is_delivered or not self._stop.is_set():
            self._settle(sent, outcome)

    def _next_event(self, job_id: str, waiting: Waiting) -> Event | None:
        found = self._around.manager.history(
            job_id, after_seq=waiting.done, types=self._webhook.types, limit=1
        )
        return found[0] if found and found[0]["seq"] <= waiting.until else None

    def _post(self, secrets: Secrets, sent: Sent, event: Event) -> Outcome:
        webhook = self._webhook
        body = body_of(sent, event)
        now = int(self._around.clock().timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "milepost",
            "Connection": "close",
            **signature.headers(secrets, sent.id, now, body),
        }
        target = Target(webhook.url, webhook.allowed, webhook.timeout_seconds)
        return self._sender.post(target, headers, body)

    def _settle(self, sent: Sent, outcome: Outcome) -> None:
        result = self._box.settle(
            sent,
            outcome,
            max_attempts=self._webhook.max_attempts,
            retry_at=lambda n: self._around.steady() + pause_seconds(n),
            at=stamp(self._around.clock()),
        )
        self._around.problems.settle(self._subject)
        if result == "failed":
            what = f"{sent.type or 'events'} (seq {sent.seq}) of job {sent.job_id!r}"
            log.warning("%s: not sent: %s: %s", self._subject, what, outcome.error)


def pause_seconds(attempts: int) -> float:
    """Return the pause after failed attempts: doubled each time, with jitter."""
    longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempts - 1), MAX_PAUSE_SECONDS)
    return uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret


def event_id(event: Event) -> str:
    """Return the id of an event for receivers: the same at each attempt.

    The hash covers the store, the job and the seq.
    """
    return f"msg_{event['hash'][:32]}"


def body_of(sent: Sent, event: Event) -> bytes:
    """Return the body of a delivery.  It never contains a state."""
    data: Any = event["data"]
    body = {
        **sent._asdict(),
        "at": event["at"],
        "actor": event["actor"],
        "data": data,
    }
    if len(orjson.dumps(data)) > MAX_DATA_BYTES:
        body |= {"data": {}, "data_omitted": True}
    return orjson.dumps(body)
