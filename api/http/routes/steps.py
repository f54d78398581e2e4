"""Endpoints for callers elsewhere that run an execution: leases, steps, its end.

The server holds the lease of such an attempt, and only requests renew it
(docs/adr/0060).
"""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from contextlib import suppress
from typing import cast

from fastapi import APIRouter, Response

from milepost.api.http.resource import Resource
from milepost.api.http.routes.executions import about, changed
from milepost.api.http.routes.idempotent import Repeatable, UseRepeatable
from milepost.api.http.routes.parameters import ExecutionId, execution_named, failing
from milepost.api.http.services import Services, UseServices
from milepost.api.http.wire.executions import (
    ApprovalRequest,
    AskedAnswer,
    EndRequest,
    ExecutionAnswer,
    HeartbeatAnswer,
    HeartbeatRequest,
    LeaseAnswer,
    LeaseRequest,
    StepAnswer,
    StepEndAnswer,
    StepEndRequest,
    StepRequest,
)
from milepost.journal.commands.approvals import Terms
from milepost.journal.errors import LeaseLive, LeaseLost
from milepost.journal.execution_models import LeaseInfo
from milepost.journal.manager import CheckpointManager
from milepost.journal.workflow.attempts import TTL_SECONDS

router = APIRouter(prefix="/api/executions", tags=["executions"], route_class=Resource)


@router.post(
    "/{execution_id}/lease", response_model=LeaseAnswer, responses=failing(404, 409)
)
def take_lease(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: LeaseRequest | None = None,
) -> Response:
    """Begin the next attempt of an execution; this server holds its lease.

    Each request that names the attempt renews it.  409 `lease_live`: another attempt
    runs; `details` has its owner and deadline.  409 `approval_pending`,
    `execution_paused`, `execution_final`: it waits, or has ended.
    """
    manager, ttl = services.manager, (body or LeaseRequest()).ttl
    job_id, execution_id = execution_named(manager, execution_id)
    lease = manager.acquire_lease(
        execution_id,
        repeatable.actor,
        ttl=ttl,
        auto_renew=False,
        idempotency_key=repeatable.key,
    )
    done = repeatable.recorded(job_id)
    return about(
        done, job_id, execution_id, status="running", attempt=lease.attempt, ttl=ttl
    )


@router.post(
    "/{execution_id}/heartbeat",
    response_model=HeartbeatAnswer,
    responses=failing(404, 409),
)
def renew_lease(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: HeartbeatRequest,
) -> Response:
    """Renew the lease of an attempt; nothing is journaled.

    409 `lease_lost`: the attempt is over.  409 `lease_live`: another server holds it.
    """
    manager = services.manager
    job_id, execution_id = execution_named(manager, execution_id)
    manager.heartbeat(LeaseInfo(execution_id, body.attempt, TTL_SECONDS))
    done = repeatable.recorded(job_id)
    return about(done, job_id, execution_id, status="running", attempt=body.attempt)


@router.post(
    "/{execution_id}/checkpoints",
    status_code=201,
    response_model=StepAnswer,
    responses=failing(404, 409, 413),
)
def begin_step(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: StepRequest,
) -> Response:
    """Begin a step; with an approval, the execution waits for it without a lease.

    409: as for a lease; `lease_lost`: `attempt` is over.
    """
    manager, terms = services.manager, body.approval
    job_id, execution_id = execution_named(manager, execution_id)
    step = manager.create_checkpoint(
        execution_id,
        body.checkpoint_name,
        body.agent_id,
        body.input_data,
        body.approval_required,
        approval=None if terms is None else Terms(**terms.model_dump()),
        auto_start=False,
        actor=repeatable.actor,
        idempotency_key=repeatable.key,
        attempt=_attempt(services, repeatable, job_id, execution_id, body.attempt),
    )
    known = manager.workflows.step(execution_id, step.checkpoint_id)
    return about(
        repeatable.recorded(job_id),
        job_id,
        execution_id,
        201,
        status="running" if known.approval_id is None else "waiting",
        checkpoint_id=known.checkpoint_id,
        checkpoint_name=body.checkpoint_name,
        attempt=known.attempt,
        approval_id=known.approval_id,
    )


@router.post(
    "/{execution_id}/checkpoints/complete",
    response_model=StepEndAnswer,
    responses=failing(404, 409, 413),
)
def end_step(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: StepEndRequest,
) -> Response:
    """End the newest open step of a name.

    Its output becomes a checkpoint; with `success` false, the step fails, and with it
    the execution unless `on_step_failure` is `keep`.  404: it has no open step of that
    name.  409: as for a step; `approval_pending`: the step's approval is not decided.
    """
    manager = services.manager
    job_id, execution_id = execution_named(manager, execution_id)
    has_ended = manager.complete_checkpoint(
        execution_id,
        body.checkpoint_name,
        body.output_data,
        body.success,
        on_step_failure=body.on_step_failure,
        actor=repeatable.actor,
        idempotency_key=repeatable.key,
        attempt=_attempt(services, repeatable, job_id, execution_id, body.attempt),
    )
    if not has_ended:
        raise manager.workflows.not_open(execution_id, body.checkpoint_name)
    return about(
        repeatable.recorded(job_id),
        job_id,
        execution_id,
        checkpoint_name=body.checkpoint_name,
        checkpoint_status="completed" if body.success else "failed",
    )


@router.post(
    "/{execution_id}/complete",
    response_model=ExecutionAnswer,
    responses=failing(404, 409, 413),
)
def complete_execution(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: EndRequest | None = None,
) -> Response:
    """End an execution successfully; open steps are abandoned.

    409: as for a step; `execution_final`: it has ended otherwise.
    """
    manager, asked = services.manager, body or EndRequest()
    job_id, execution_id = execution_named(manager, execution_id)
    known = manager.get_execution_status(execution_id) or {}
    is_done = known.get("status") == "completed"
    manager.complete_execution(
        execution_id,
        asked.result,
        actor=repeatable.actor,
        idempotency_key=repeatable.key,
        attempt=known["attempt"]
        if is_done
        else _attempt(services, repeatable, job_id, execution_id, asked.attempt),
    )
    return changed(services, repeatable.recorded(job_id), job_id, execution_id)


@router.post(
    "/{execution_id}/approvals",
    status_code=201,
    response_model=AskedAnswer,
    responses=failing(404, 409, 413),
)
def ask_for_approval(
    services: UseServices,
    repeatable: UseRepeatable,
    execution_id: ExecutionId,
    body: ApprovalRequest,
) -> Response:
    """Ask for a decision on `subject`; the execution waits for it without a lease.

    409: as for a step.
    """
    manager = services.manager
    job_id, execution_id = execution_named(manager, execution_id)
    approval = manager.request_approval(
        execution_id,
        **body.model_dump(exclude={"attempt"}),
        actor=repeatable.actor,
        idempotency_key=repeatable.key,
        attempt=_attempt(services, repeatable, job_id, execution_id, body.attempt),
    )
    return about(
        repeatable.recorded(job_id),
        job_id,
        execution_id,
        201,
        status="waiting",
        approval_id=approval.approval_id,
        subject_digest=approval.subject_digest,
    )


def _attempt(
    services: Services,
    repeatable: Repeatable,
    job_id: str,
    execution_id: str,
    asked: int | None,
) -> int:
    """Return the attempt that a request writes as, with its lease renewed.

    Without `asked`, it is the one that the caller has begun here, or begins now.

    Raises:
        LeaseLive: another caller or process runs the execution.
        ApprovalPending, ExecutionPaused, ExecutionFinal: it waits, or has ended.
    """
    manager = services.manager
    attempt = asked or _first(repeatable, job_id)
    if attempt is None:
        attempt = _begun(manager, execution_id, repeatable.actor)
    with suppress(LeaseLost, LeaseLive):  # the write says why it is refused
        manager.heartbeat(LeaseInfo(execution_id, attempt, TTL_SECONDS))
    return attempt


def _first(repeatable: Repeatable, job_id: str) -> int | None:
    """Return the attempt of the request that this one repeats, if it repeats one."""
    events = repeatable.events(job_id)
    attempts = [event["data"].get("attempt", 1) for event in events]
    return cast("int", attempts[0]) if attempts else None


def _begun(manager: CheckpointManager, execution_id: str, actor: str) -> int:
    try:
        return manager.acquire_lease(execution_id, actor, auto_renew=False).attempt
    except LeaseLive:
        known = manager.get_execution_status(execution_id) or {}
        lease = known.get("lease")
        if lease is None or lease["who"] != actor:
            raise
        return int(lease["attempt"])
