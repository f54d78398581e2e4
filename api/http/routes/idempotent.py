"""`Idempotency-Key`: a repeated POST has no second effect."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
import hashlib
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from milepost.api.http.idempotency import Answer, check_key
from milepost.api.http.responses import JsonAnswer
from milepost.api.http.services import Actor, UseServices

IdempotencyKey = Annotated[
    str | None,
    Header(
        description="A repeat with the same key gets the first answer; the key with "
        "another request is a 409. The key of a save is journaled and is valid while "
        "its checkpoint is live and is the current one or an ancestor of it. Other "
        "answers are kept in memory, the last 1,024, until the server stops."
    ),
]


class Repeatable:
    """A request that may repeat an earlier one.

    Attributes:
        actor: who sent it.
        key: the client's key, or None.
    """

    def __init__(
        self, request: Request, services: UseServices, actor: str, key: str | None
    ) -> None:
        self.actor = actor
        self.key = check_key(key)
        self._answers = services.answers
        self._place = (actor, request.method, request.url.path)
        self._if_match = request.headers.get("if-match")

    def once(self, body: BaseModel, compute: Callable[[], JsonAnswer]) -> Response:
        """Return the result of `compute`, or the first answer if this is a repeat.

        Raises:
            Conflict: the key was used for another request.
            LockTimeout: the first request is still in progress.
        """
        if self.key is None:
            return compute()
        asked = f"{body.model_dump_json()} {self._if_match}"
        digest = hashlib.sha256(asked.encode("utf-8", "backslashreplace")).digest()

        def first() -> Answer:
            answer = compute()
            tag = answer.headers.get("etag")  # none where it is about many jobs
            return Answer(bytes(answer.body), {"ETag": tag} if tag else {})

        kept = self._answers.once((*self._place, self.key), digest, first)
        return Response(
            kept.body, media_type="application/json", headers=dict(kept.headers)
        )


async def _repeatable(
    request: Request,
    services: UseServices,
    actor: Actor,
    idempotency_key: IdempotencyKey = None,
) -> Repeatable:
    return Repeatable(request, services, actor, idempotency_key)


UseRepeatable = Annotated[Repeatable, Depends(_repeatable)]
