"""Pinning, holding, and bringing back: what keeps a checkpoint from being removed."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from api.answers import JsonAnswer, etag
from api.routes.fields import (
    CheckpointId,
    IfMatch,
    failing,
    job_of,
    job_of_deleted,
    precondition,
    seq_of,
)
from api.routes.repeats import Repeatable, UseRepeatable
from api.services import Services, UseServices
from api.wire import MarkAnswer, MarkRequest, UndeleteRequest, protection

router = APIRouter(prefix="/api/checkpoints", tags=["checkpoints"])
_ANSWERS: dict[str, Any] = {  # as FastAPI's own arguments
    "response_model": MarkAnswer,
    "responses": failing(404, 409, 412),
}


@router.post("/{checkpoint_id}/pin", **_ANSWERS)
def pin_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    checkpoint_id: CheckpointId,
    body: MarkRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Keep a checkpoint from policies, and from deletion without force."""
    mark = services.manager.pin
    return _marked(services, repeatable, mark, checkpoint_id, body, if_match)


@router.post("/{checkpoint_id}/unpin", **_ANSWERS)
def unpin_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    checkpoint_id: CheckpointId,
    body: MarkRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Take that protection away."""
    mark = services.manager.unpin
    return _marked(services, repeatable, mark, checkpoint_id, body, if_match)


@router.post("/{checkpoint_id}/hold", **_ANSWERS)
def hold_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    checkpoint_id: CheckpointId,
    body: MarkRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Keep a checkpoint from being removed by anybody, until it is released."""
    mark = services.manager.hold
    return _marked(services, repeatable, mark, checkpoint_id, body, if_match)


@router.post("/{checkpoint_id}/release", **_ANSWERS)
def release_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    checkpoint_id: CheckpointId,
    body: MarkRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """End a hold, whoever began it."""
    mark = services.manager.release
    return _marked(services, repeatable, mark, checkpoint_id, body, if_match)


@router.post("/{checkpoint_id}/undelete", **_ANSWERS)
def undelete_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    checkpoint_id: CheckpointId,
    body: UndeleteRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Bring a deleted checkpoint back, within its trash period."""
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
    """Carry out `mark`, one of the four methods of a manager, once."""
    manager, expected = services.manager, seq_of(if_match)
    asked = body or MarkRequest()

    def compute() -> JsonAnswer:
        job_id = job_of(manager, checkpoint_id)
        with precondition(manager, job_id, expected):
            has_changed = mark(
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
        **protection(manager.find(checkpoint_id)),
        "timestamp": services.now(),
    }
    return JsonAnswer(content, headers={"ETag": etag(seq)})
