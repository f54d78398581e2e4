"""Requests with an idempotency key: a repeat within 24 hours adds no event."""

from __future__ import annotations

import hashlib
import json
from functools import wraps
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar, cast

from milepost.journal import ids
from milepost.journal.errors import Conflict
from milepost.journal.index.answers import LIFETIME

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from milepost.journal.batch import Batch
    from milepost.journal.index.answers import Answered
    from milepost.journal.index.job_view import JobView

_DIGEST_DIGITS = 32

_D = TypeVar("_D", bound="Callable[..., object]")


class KeyInUse(Conflict):
    """The idempotency key stands for another request; nothing was done."""


class Request(NamedTuple):
    """A request: its key, and the digest of the call and its arguments.

    `expected_seq` refuses a caller whose view of the job is stale; a repeat is not.
    """

    key: str | None = None
    digest: str = ""
    expected_seq: int | None = None

    @classmethod
    def of(
        cls,
        key: str | None,
        verb: str,
        *arguments: object,
        expected_seq: int | None = None,
    ) -> Self:
        """Return the request of a call.

        Raises:
            InvalidArgument: the key is out of bounds.
        """
        if key is None:
            return cls(expected_seq=expected_seq)
        if expected_seq is not None:
            arguments = (*arguments, expected_seq)
        try:
            asked = json.dumps([verb, *arguments])  # in ASCII, whatever they hold
        except (TypeError, ValueError):
            asked = ascii([verb, *arguments])  # not JSON: it is refused later
        digest = hashlib.sha256(asked.encode()).hexdigest()[:_DIGEST_DIGITS]
        return cls(ids.check_label("idempotency_key", key), digest, expected_seq)

    def earlier(self, view: JobView, now: datetime) -> Answered | None:
        """Return the same request of the last 24 hours, if there was one.

        Raises:
            KeyInUse: its key was used for another request.
        """
        answered = view.answered.get(self.key or "")
        if self.key is None or answered is None or now - answered.at >= LIFETIME:
            return None
        if answered.digest != self.digest:
            raise KeyInUse(
                f"idempotency key {self.key!r} was used for another request, event "
                f"{answered.last} of job {view.job_id!r}",
                hint="use a new key for a new request",
            )
        return answered

    def admitted(self, batch: Batch) -> Answered | None:
        """Return `earlier`; if there is none, check the seq.

        Raises:
            KeyInUse: its key was used for another request.
            Conflict: `expected_seq` is stale.
        """
        if (earlier := self.earlier(batch.view, batch.now)) is None:
            batch.check_seq(self.expected_seq)
        return earlier

    def recorded(self, data: dict[str, object]) -> dict[str, object]:
        """Return an event's `data` with the key and the digest, if there is a key."""
        if self.key is None:
            return data
        return data | {"idempotency_key": self.key, "request_digest": self.digest}


NO_KEY = Request()


def answers_repeats(repeat: object) -> Callable[[_D], _D]:
    """Decorate a decision: a repeat of its request adds nothing, returns `repeat`."""

    def decorate(decide: _D) -> _D:
        @wraps(decide)
        def decide_once(
            batch: Batch, *args: object, request: Request = NO_KEY, **more: object
        ) -> object:
            if request.admitted(batch):
                return repeat
            return decide(batch, *args, request=request, **more)

        return cast("_D", decide_once)

    return decorate
