"""Endpoints that pin, hold and undelete checkpoints."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from milepost.api.fields.checkpoints import protection_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.routes.idempotent import Repeatable, UseRepeatable
from milepost.api.http.routes.parameters import (
    CheckpointId,
    IfMatch,
    failing,
    job_of,
    job_of_deleted,
    precondition,
    seq_of,
)
from milepost.api.http.services import Services, UseServices
from milepost.api.http.wire.answers import MarkAnswer
from milepost.api.http.wire.requests import MarkRequest, UndeleteRequest
from milepost.journal.manager import CheckpointManager

router = APIRouter(
    prefix="/api/checkpoints", tags=["checkpoints"], route_class=Resource
)
_ANSWERS: dict[str, Any] = {  # as FastAPI's own arguments
    "response_model": MarkAnswer,
    "responses": failing(404, 409, 412),
}


_MARKS: dict[str, tuple[Callable[..., bool], str]] = {
    "pin": (
        CheckpointManager.pin,
        "Protect a checkpoint from policies, and from deletion without force.",
    ),
    "unpin": (CheckpointManager.unpin, "Remove the pin of a checkpoint."),
    "hold": (
        CheckpointManager.hold,
        "Place a legal hold: nothing removes the checkpoint until its release.",
    ),
    "release": (CheckpointManager.release, "End the legal hold of a checkpoint."),
}


def _add_route(verb: str, mark: Callable[..., bool], what: str) -> None:
    def mark_checkpoint(
        services: UseServices,
        repeatable: UseRepeatable,
        checkpoint_id: CheckpointId,
        body: MarkRequest | None = None,
        if_match: IfMatch = None,
    ) -> Response:
        return _marked(services, repeatable, mark, checkpoint_id, body, if_match)

    router.add_api_route(
        f"/{{checkpoint_id}}/{verb}",
        mark_checkpoint,
        methods=["POST"],
        name=f"{verb}_checkpoint",
        description=what,
        **_ANSWERS,
    )


for _verb, (_mark, _what) in _MARKS.items():
    _add_route(_verb, _mark, _what)


@router.post("/{checkpoint_id}/undelete", **_ANSWERS)
def undelete_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    checkpoint_id: CheckpointId,
    body: UndeleteRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Restore a deleted checkpoint to the list, within its trash period."""
    manager, expected = services.manager, seq_of(if_match)

    def compute() -> JsonAnswer:
        job_id = job_of_deleted(manager, checkpoint_id)
        with precondition(manager, job_id, expected):
            has_changed = manager.undelete(
                job_id, checkpoint_id, actor=repeatable.actor, expected_seq=expected
            )
        return _answer(services, job_id, checkpoint_id, has_changed=has_changed)

    return repeatable.once(body or UndeleteRequest(), compute)


def _marked(
    services: Services,
    repeatable: Repeatable,
    mark: Callable[..., bool],
    checkpoint_id: str,
    body: MarkRequest | None,
    if_match: str | None,
) -> Response:
    """Call `mark`, a method of the manager, once."""
    manager, expected = services.manager, seq_of(if_match)
    asked = body or MarkRequest()

    def compute() -> JsonAnswer:
        job_id = job_of(manager, checkpoint_id)
        with precondition(manager, job_id, expected):
            has_changed = mark(
                manager,
                job_id,
                checkpoint_id,
                actor=repeatable.actor,
                reason=asked.reason,
                expected_seq=expected,
            )
        return _answer(services, job_id, checkpoint_id, has_changed=has_changed)

    return repeatable.once(asked, compute)


def _answer(
    services: Services, job_id: str, checkpoint_id: str, *, has_changed: bool
) -> JsonAnswer:
    manager = services.manager
    seq = manager.seq(job_id)
    content = {
        "checkpoint_id": checkpoint_id,
        "job_id": job_id,
        "changed": has_changed,
        **protection_fields(manager.find(checkpoint_id)),
        "timestamp": services.now(),
    }
    return JsonAnswer(content, headers={"ETag": etag(seq)})
