"""Endpoints that restore a checkpoint and clean up a job."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from fastapi import APIRouter, Response

from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer
from milepost.api.http.resuming import Outcome, going_on, restored
from milepost.api.http.routes.idempotent import Recorded, UseRepeatable
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
from milepost.journal.execution_models import Continuation
from milepost.journal.states.types import AS_STORED

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
    """Make a checkpoint current and return its state; `resume` starts its job.

    For a checkpoint of an execution, the answer has `execution_id` and `mode`.  With
    `resume`, the execution goes on from its latest checkpoint (`resumed`), or a new one
    branches from an older one (`branched`); if it waits, or runs in this process,
    nothing is started and `message` says why.  409 `lease_live`: another process runs
    an execution of the job.

    A repeat with the same `Idempotency-Key` starts nothing: its `job_status` and
    `message` are those of a job that was started.  404: the checkpoint was deleted, for
    a repeat too.
    """
    manager, resumer = services.manager, services.resumer
    expected = seq_of(if_match)
    job_id = job_of(manager, checkpoint_id)
    outcome, started = restored(job_id, checkpoint_id), list[tuple[Recorded, Outcome]]()
    resumes = body is not None and bool(body.resume)

    def start(found: Continuation) -> None:
        # The ETag of the restore, not of the saves of the started job.
        so_far = going_on(outcome, found)
        started.append((repeatable.recorded(job_id), resumer.resume(job_id, so_far)))

    reserved: AbstractContextManager[None] = nullcontext()
    if resumes:
        reserved = resumer.reserved(
            job_id,
            is_repeat=lambda: bool(repeatable.events(job_id)),
            may_wait=repeatable.key is not None,
        )
    owner = manager.workflows.owner_of(job_id, checkpoint_id)
    found = Continuation("restored", owner)
    asked: dict[str, Any] = {
        "actor": repeatable.actor,
        "expected_seq": expected,
        "idempotency_key": repeatable.key,
        "types": AS_STORED,
    }
    with reserved, precondition(manager, job_id, expected):
        if resumes and resumer.can_start:
            state, found = manager.resume_from(
                job_id, checkpoint_id, on_restored=lambda r: start(r[1]), **asked
            )
        else:
            begin = partial(start, Continuation()) if resumes else None
            state = manager.restore(job_id, checkpoint_id, on_restored=begin, **asked)
    if started:
        done, outcome = started[0]
    else:
        done, outcome = repeatable.recorded(job_id), going_on(outcome, found)
        if resumes and found.why_not is None:
            outcome = resumer.resumed(outcome)
    content: dict[str, Any] = {
        "checkpoint_id": checkpoint_id,
        "job_id": job_id,
        "state": state,
        "job_status": outcome.job_status,
        "message": outcome.message,
        "timestamp": done.timestamp,
    }
    if owner is not None:
        content |= {"execution_id": found.execution_id, "mode": found.mode}
    return JsonAnswer(content, headers=done.headers)


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
    with precondition(manager, body.job_id, expected):
        deleted = manager.cleanup(
            body.job_id,
            body.keep_last,
            actor=repeatable.actor,
            expected_seq=expected,
            plan_id=body.plan_id,
            as_of=body.as_of,
            idempotency_key=repeatable.key,
        )
    job, done = manager.job(body.job_id), repeatable.recorded(body.job_id)
    kept = job.checkpoints if job else 0
    if done.event is not None and done.event["type"] == "checkpoints.cleaned":
        kept = done.event["data"]["kept"]
    content = {
        "job_id": body.job_id,
        "deleted_count": deleted,
        "kept_count": kept,
        "timestamp": done.timestamp,
    }
    return JsonAnswer(content, headers=done.headers)
