"""`Idempotency-Key`: a repeated POST has no second effect, at any server."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request

from milepost.api.http.responses import etag
from milepost.api.http.services import Services, caller_of, services_of
from milepost.journal.clock import stamped
from milepost.journal.errors import InvalidArgument
from milepost.journal.events.vocabulary import Event

MAX_KEY_CHARACTERS = 255
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="A repeat within 24 hours with the same key is answered from its "
        "event, by any server, without acting again; the key with another request is a "
        "409. The key of a save is valid while its checkpoint is live and is the "
        "current one or an ancestor of it."
    ),
]


class Recorded(NamedTuple):
    """What answers say of a request that was carried out.

    With a key, all of it is of the request's last event, so a repeat has the same.

    Attributes:
        event: that event; None without a key, or if nothing changed.
        timestamp: its time, else the current time.
        headers: the job's ETag after it, else after its last event.
    """

    event: Event | None
    timestamp: str
    headers: dict[str, str]


class Repeatable:
    """A request that may repeat an earlier one.

    Attributes:
        actor: who sent it.
        key: the client's key, or None.
    """

    def __init__(self, services: Services, actor: str, key: str | None) -> None:
        self.actor = actor
        self.key = check_key(key)
        self._services = services

    def events(self, job_id: str) -> list[Event]:
        """Return the events of this request in a job, by this call or an earlier."""
        if self.key is None:
            return []
        return self._services.manager.history(job_id, idempotency_key=self.key)

    def recorded(self, job_id: str) -> Recorded:
        """Return what an answer about one job says of this request."""
        if events := self.events(job_id):
            event = events[-1]
            headers = {"ETag": etag(event["seq"])}
            return Recorded(event, stamped(event["at"]), headers)
        headers = {"ETag": etag(self._services.manager.seq(job_id))}
        return Recorded(None, self._services.now(), headers)


def latest(services: Services, recorded: Iterable[Recorded]) -> str:
    """Return the time of the last of these events, else the current time."""
    times = [each.timestamp for each in recorded if each.event is not None]
    return max(times, default=services.now())


def check_key(key: str | None) -> str | None:
    """Return `key` if it can be an `Idempotency-Key`.

    Raises:
        InvalidArgument: it is empty, over 255 characters, or not printable ASCII.
    """
    if key is None or (
        1 <= len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()
    ):
        return key
    raise InvalidArgument(
        f"Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} printable ASCII "
        f"characters, got {key[:60]!r}"
    )


async def _repeatable(
    request: Request, idempotency_key: IdempotencyKey = None
) -> Repeatable:
    actor = caller_of(request).actor
    return Repeatable(services_of(request), actor, idempotency_key)


UseRepeatable = Annotated[Repeatable, Depends(_repeatable)]
