"""Endpoints that list, start, pause, resume and end executions, and signal them."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from milepost.api.fields.executions import step_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.routes.idempotent import Recorded, Repeatable, UseRepeatable
from milepost.api.http.routes.parameters import (
    ExecutionId,
    IfMatch,
    JobIdQuery,
    Limit,
    execution_named,
    failing,
    page_size,
    precondition,
    seq_of,
)
from milepost.api.http.services import Services, UseServices
from milepost.api.http.wire.executions import (
    CancelRequest,
    Execution,
    ExecutionAnswer,
    ExecutionList,
    FailRequest,
    PauseRequest,
    ResumeRequest,
    SignalAnswer,
    SignalRequest,
    StartRequest,
    StepList,
)
from milepost.journal.errors import InvalidArgument, UnknownExecution
from milepost.journal.index.transitions import TRANSITIONS
from milepost.journal.manager import CheckpointManager

router = APIRouter(prefix="/api/executions", tags=["executions"], route_class=Resource)

_PAGE = 100
_CHANGE: dict[str, Any] = {  # as FastAPI's own arguments
    "response_model": ExecutionAnswer,
    "responses": failing(404, 409, 412),
}
_STATUS_AFTER = {type_: row.target for type_, row in TRANSITIONS["execution"].items()}
State = Annotated[str | None, Query(description="A `state` or a `status`.")]
ExecutionCursor = Annotated[str | None, Query(pattern="^exec_[0-9a-f]{20}$")]


@router.get("", response_model=ExecutionList, responses=failing())
def list_executions(
    services: UseServices,
    state: State = None,
    job_id: JobIdQuery | None = None,
    limit: Limit = None,
    cursor: ExecutionCursor = None,
) -> Response:
    """List executions, oldest first: those in a `state`, those of a job.

    `cursor` is the `next_cursor` of the previous page.
    """
    manager = services.manager
    size = page_size(limit, default=_PAGE, most=services.settings.api.max_page)
    # Read before the list, as everywhere: an ETag must not be newer than its answer.
    tag = {} if job_id is None else {"ETag": etag(manager.seq(job_id))}
    try:
        found = manager.list_executions(
            state, job_id=job_id, limit=size + 1, after=cursor
        )
    except UnknownExecution as exc:
        raise InvalidArgument(f"cursor: {exc}") from exc
    content = {
        "executions": found[:size],
        "next_cursor": found[size - 1]["execution_id"] if len(found) > size else None,
        "timestamp": services.now(),
    }
    return JsonAnswer(content, headers=tag)


@router.get("/{execution_id}", response_model=Execution, responses=failing(404))
def read_execution(services: UseServices, execution_id: ExecutionId) -> Response:
    """Read the status of one execution."""
    manager = services.manager
    job_id, execution_id = execution_named(manager, execution_id)
    tag = {"ETag": etag(manager.seq(job_id))}
    return JsonAnswer(_status(manager, execution_id), headers=tag)


@router.get(
    "/{execution_id}/checkpoints", response_model=StepList, responses=failing(404)
)
def list_steps(services: UseServices, execution_id: ExecutionId) -> Response:
    """List the steps of an execution with their input and output, oldest first."""
    manager = services.manager
    job_id, execution_id = execution_named(manager, execution_id)
    tag = {"ETag": etag(manager.seq(job_id))}
    steps = manager.get_checkpoint_history(execution_id)
    content = {
        "execution_id": execution_id,
        "correlation_id": job_id,
        "checkpoints": [step_fields(step) for step in steps],
        "timestamp": services.now(),
    }
    return JsonAnswer(content, headers=tag)


@router.post(
    "", status_code=201, response_model=ExecutionAnswer, responses=failing(409, 412)
)
def start_execution(
    services: UseServices,
    repeatable: UseRepeatable,
    body: StartRequest,
    if_match: IfMatch = None,
) -> Response:
    """Start an execution as pending; whatever takes its lease next runs it.

    409 `lease_live`: another execution of the job is running.
    """
    manager, expected = services.manager, seq_of(if_match)
    with precondition(manager, body.correlation_id, expected):
        started = manager.start_workflow_execution(
            body.correlation_id,
            body.workflow_name,
            body.initial_data,
            workflow_version=body.workflow_version,
            pending=True,
            actor=repeatable.actor,
            idempotency_key=repeatable.key,
            expected_seq=expected,
        )
    job_id = body.correlation_id
    done = repeatable.recorded(job_id)
    return changed(services, done, job_id, started.execution_id, 201)


@router.post("/{execution_id}/pause", **_CHANGE)
def pause_execution(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: PauseRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Pause an execution; the process that runs it may finish its step.

    One that is paused or interrupted stays as it is.  409 `approval_pending`,
    `execution_final`: it waits for an approval, or has ended.
    """
    call = partial(
        services.manager.pause_execution,
        reason=(body or PauseRequest()).reason,
        strict=True,
    )
    return _change(services, repeatable, execution_id, if_match, call)


@router.post("/{execution_id}/resume", **_CHANGE)
def resume_execution(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: ResumeRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Let a paused or interrupted execution go on, as pending.

    409 `approval_pending`: only the decision of that approval lets it go on.  409
    `execution_final`: it has ended; with `retry`, a failed or cancelled one goes on.
    409 `illegal_transition`: it is neither paused nor interrupted.
    """
    asked = body or ResumeRequest()
    call = partial(
        services.manager.resume_execution,
        retry=asked.retry,
        reason=asked.reason,
        strict=True,
    )
    return _change(services, repeatable, execution_id, if_match, call)


@router.post("/{execution_id}/cancel", **_CHANGE)
def cancel_execution(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: CancelRequest | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Cancel an unfinished execution; its open approval is withdrawn.

    The process that runs it is refused at its next call.  409 `execution_final`: it has
    ended otherwise.
    """
    reason = (body or CancelRequest()).reason
    call = partial(services.manager.cancel_execution, reason=reason)
    return _change(services, repeatable, execution_id, if_match, call)


@router.post("/{execution_id}/fail", **_CHANGE)
def fail_execution(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: FailRequest,
    if_match: IfMatch = None,
) -> Response:
    """End an unfinished execution as failed; its open approval is withdrawn.

    409 `execution_final`: it has ended otherwise.
    """
    call = partial(services.manager.fail_execution, error=body.error)
    return _change(services, repeatable, execution_id, if_match, call)


@router.post(
    "/{execution_id}/signals",
    response_model=SignalAnswer,
    responses=failing(404, 409, 412),
)
def signal_execution(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: SignalRequest,
    if_match: IfMatch = None,
) -> Response:
    """Send a named message to an unfinished execution.

    It is kept until an attempt consumes it, even if it comes early.  409
    `execution_final`: the execution has ended.
    """
    manager, expected = services.manager, seq_of(if_match)
    job_id, execution_id = execution_named(manager, execution_id)
    with precondition(manager, job_id, expected):
        seq = manager.signal(
            execution_id,
            body.name,
            body.payload,
            actor=repeatable.actor,
            idempotency_key=repeatable.key,
            expected_seq=expected,
        )
    done = repeatable.recorded(job_id)
    return about(done, job_id, execution_id, name=body.name, seq=seq)


def _change(
    services: Services,
    repeatable: Repeatable,
    execution_id: str,
    if_match: str | None,
    call: Callable[..., bool],
) -> Response:
    manager, expected = services.manager, seq_of(if_match)
    job_id, execution_id = execution_named(manager, execution_id)
    with precondition(manager, job_id, expected):
        call(
            execution_id,
            actor=repeatable.actor,
            idempotency_key=repeatable.key,
            expected_seq=expected,
        )
    return changed(services, repeatable.recorded(job_id), job_id, execution_id)


def changed(
    services: Services, done: Recorded, job_id: str, execution_id: str, code: int = 200
) -> JsonAnswer:
    """Return the answer to a request that changed the status of an execution."""
    event = done.event
    status = None if event is None else _STATUS_AFTER.get(event["type"])
    if status is None:
        status = _status(services.manager, execution_id)["status"]
    return about(done, job_id, execution_id, code, status=status)


def about(
    done: Recorded, job_id: str, execution_id: str, code: int = 200, **more: object
) -> JsonAnswer:
    """Return the answer to a request about an execution."""
    content = {
        "execution_id": execution_id,
        "correlation_id": job_id,
        **more,
        "timestamp": done.timestamp,
    }
    return JsonAnswer(content, status_code=code, headers=done.headers)


def _status(manager: CheckpointManager, execution_id: str) -> dict[str, Any]:
    found = manager.get_execution_status(execution_id)
    if found is None:
        raise UnknownExecution(execution_id)  # removed meanwhile
    return found
