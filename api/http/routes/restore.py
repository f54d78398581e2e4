"""Endpoints that restore a checkpoint and clean up a job."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from contextlib import nullcontext

from fastapi import APIRouter, Response

from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.resuming import restored
from milepost.api.http.routes.idempotent import UseRepeatable
from milepost.api.http.routes.parameters import (
    CheckpointId,
    IfMatch,
    failing,
    job_of,
    precondition,
    seq_of,
)
from milepost.api.http.services import UseServices
from milepost.api.http.wire.answers import CleanupAnswer, RestoreAnswer
from milepost.api.http.wire.requests import CleanupRequest, RestoreRequest

router = APIRouter(
    prefix="/api/checkpoints", tags=["checkpoints"], route_class=Resource
)


@router.post(
    "/{checkpoint_id}/restore",
    response_model=RestoreAnswer,
    responses=failing(400, 404, 409, 412),
)
def restore_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    checkpoint_id: CheckpointId,
    body: RestoreRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Make a checkpoint current and return its state; `resume` starts its job."""
    manager, resumer = services.manager, services.resumer
    expected = seq_of(if_match)
    asked = body or RestoreRequest()
    # Checked for a repeat too: the cached answer contains the state, and must not be
    # sent once the checkpoint is deleted.
    job_id = job_of(manager, checkpoint_id)

    def compute() -> JsonAnswer:
        reserved = resumer.reserved(job_id) if asked.resume else nullcontext()
        with reserved:
            with precondition(manager, job_id, expected):
                state = manager.restore(
                    job_id,
                    checkpoint_id,
                    actor=repeatable.actor,
                    expected_seq=expected,
                )
            seq = manager.seq(job_id)
            outcome = restored(job_id, checkpoint_id)
            if asked.resume:
                outcome = resumer.resume(job_id, outcome)
        content = {
            "checkpoint_id": checkpoint_id,
            "job_id": job_id,
            "state": state,
            "job_status": outcome.job_status,
            "message": outcome.message,
            "timestamp": services.now(),
        }
        return JsonAnswer(content, headers={"ETag": etag(seq)})

    return repeatable.once(asked, compute)


@router.post("/cleanup", response_model=CleanupAnswer, responses=failing(409, 412))
def clean_up(
    services: UseServices,
    repeatable: UseRepeatable,
    body: CleanupRequest,
    if_match: IfMatch = None,
) -> Response:
    """Delete all but a job's newest checkpoints.

    409 `stale_plan`: with `plan_id`, the preview showed something else, or is more than
    an hour old.
    """
    manager, expected = services.manager, seq_of(if_match)

    def compute() -> JsonAnswer:
        with precondition(manager, body.job_id, expected):
            deleted = manager.cleanup(
                body.job_id,
                body.keep_last,
                actor=repeatable.actor,
                expected_seq=expected,
                plan_id=body.plan_id,
                as_of=body.as_of,
            )
        job = manager.job(body.job_id)
        content = {
            "job_id": body.job_id,
            "deleted_count": deleted,
            "kept_count": job.checkpoints if job else 0,
            "timestamp": services.now(),
        }
        return JsonAnswer(content, headers={"ETag": etag(job.seq if job else 0)})

    return repeatable.once(body, compute)
