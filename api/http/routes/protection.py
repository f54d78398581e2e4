"""Endpoints that pin, hold and undelete checkpoints."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from milepost.api.fields.checkpoints import protection_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer
from milepost.api.http.routes.idempotent import Repeatable, UseRepeatable
from milepost.api.http.routes.parameters import (
    CheckpointId,
    IfMatch,
    failing,
    job_of_deleted,
    precondition,
    seq_of,
)
from milepost.api.http.services import Services, UseServices
from milepost.api.http.wire.answers import MarkAnswer
from milepost.api.http.wire.requests import MarkRequest, UndeleteRequest
from milepost.journal.clock import stamped
from milepost.journal.errors import UnknownCheckpoint
from milepost.journal.events.vocabulary import Event
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
    body: UndeleteRequest | None = None,  # noqa: ARG001 - FastAPI checks it
    if_match: IfMatch = None,
) -> Response:
    """Restore a deleted checkpoint to the list, within its trash period."""
    manager, expected = services.manager, seq_of(if_match)
    job_id = job_of_deleted(manager, checkpoint_id)
    with precondition(manager, job_id, expected):
        has_changed = manager.undelete(
            job_id,
            checkpoint_id,
            actor=repeatable.actor,
            expected_seq=expected,
            idempotency_key=repeatable.key,
        )
    return _answer(manager, repeatable, job_id, checkpoint_id, has_changed=has_changed)


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
    job_id = job_of_deleted(manager, checkpoint_id)
    with precondition(manager, job_id, expected):
        has_changed = mark(
            manager,
            job_id,
            checkpoint_id,
            actor=repeatable.actor,
            reason=None if body is None else body.reason,
            expected_seq=expected,
            idempotency_key=repeatable.key,
        )
    return _answer(manager, repeatable, job_id, checkpoint_id, has_changed=has_changed)


def _answer(
    manager: CheckpointManager,
    repeatable: Repeatable,
    job_id: str,
    checkpoint_id: str,
    *,
    has_changed: bool,
) -> JsonAnswer:
    done = repeatable.recorded(job_id)
    content = {
        "checkpoint_id": checkpoint_id,
        "job_id": job_id,
        "changed": has_changed,
        **_protection(manager, checkpoint_id),
        **_protection_after(done.event),
        "timestamp": done.timestamp,
    }
    return JsonAnswer(content, headers=done.headers)


def _protection(manager: CheckpointManager, checkpoint_id: str) -> dict[str, Any]:
    """Return the current protection of a checkpoint; none if it was deleted since."""
    try:
        return protection_fields(manager.find(checkpoint_id))
    except UnknownCheckpoint:
        return {"pinned": False, "held": None}


def _protection_after(event: Event | None) -> dict[str, Any]:
    """Return the protection that an event set or removed."""
    match event and event["type"]:
        case "checkpoint.pinned" | "checkpoint.unpinned" as verb:
            return {"pinned": verb == "checkpoint.pinned"}
        case "checkpoint.released":
            return {"held": None}
    if event is None or event["type"] != "checkpoint.held":
        return {}
    since, reason = stamped(event["at"]), event["data"].get("reason")
    return {"held": {"actor": event["actor"], "since": since, "reason": reason}}
