"""Which events answer a repeated request, by idempotency key.  Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.clock import moment
from milepost.journal.errors import UnreadableState

if TYPE_CHECKING:
    from datetime import datetime

    from milepost.journal.events.vocabulary import Event

# How long a key stands for its request.
LIFETIME = timedelta(hours=24)


class Answered(NamedTuple):
    """A request that was carried out.

    Attributes:
        digest: of the request.
        first: seq of its first event; a large cleanup has several.
        last: seq of its last event.
        at: the time of its last event.
    """

    digest: str
    first: int
    last: int
    at: datetime


def remember(answered: dict[str, Answered], event: Event) -> None:
    """Fold an event: add its key, and remove keys that are too old by its time.

    An event without a key changes nothing, so a plain save costs nothing.
    """
    key = event["data"].get("idempotency_key")
    if not isinstance(key, str):
        return
    try:
        at = moment(event["at"])
    except UnreadableState:
        return  # a time is informative; the event itself is sound
    digest, seq = str(event["data"].get("request_digest")), event["seq"]
    # Taken out first: a key that is used again moves to the end.
    known = answered.pop(key, None)
    # Of one write if it is the next event and has the same time.
    made, first = Answered(digest, seq, seq, at), seq
    if known is not None and known._replace(first=seq, last=seq) == made:
        first = known.first if known.last == seq - 1 else seq
    answered[key] = made._replace(first=first)
    while at - answered[oldest := next(iter(answered))].at > LIFETIME:
        del answered[oldest]
