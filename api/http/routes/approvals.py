"""Endpoints that list, show and decide approvals."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from typing import Annotated

from fastapi import APIRouter, Query, Response

from milepost.api.fields.executions import approval_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.routes.idempotent import UseRepeatable
from milepost.api.http.routes.parameters import (
    ApprovalId,
    IfMatch,
    JobIdQuery,
    Limit,
    failing,
    job_of_approval,
    page_size,
    precondition,
    seq_of,
)
from milepost.api.http.services import UseServices
from milepost.api.http.wire.executions import (
    Approval,
    ApprovalList,
    DecideRequest,
    DecisionAnswer,
)
from milepost.journal.errors import InvalidArgument, UnknownApproval
from milepost.journal.index.transitions import TRANSITIONS

router = APIRouter(prefix="/api/approvals", tags=["approvals"], route_class=Resource)

_PAGE = 100
_STATUS_AFTER = {type_: row.target for type_, row in TRANSITIONS["approval"].items()}
ApprovalCursor = Annotated[str | None, Query(pattern="^appr_[0-9a-f]{20}$")]
Actor = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=512,
        description="Only those that this actor may decide; `token:<name>` for tokens.",
    ),
]


@router.get("", response_model=ApprovalList, responses=failing())
def list_approvals(
    services: UseServices,
    status: Annotated[
        str, Query(description="pending, approved, rejected, expired, withdrawn or all")
    ] = "pending",
    approver: Actor = None,
    job_id: JobIdQuery | None = None,
    limit: Limit = None,
    cursor: ApprovalCursor = None,
) -> Response:
    """List approvals without their subjects, oldest first.

    `cursor` is the `next_cursor` of the previous page.
    """
    manager = services.manager
    size = page_size(limit, default=_PAGE, most=services.settings.api.max_page)
    try:
        found = manager.approvals(
            status, job_id=job_id, approver=approver, limit=size + 1, after=cursor
        )
    except UnknownApproval as exc:
        raise InvalidArgument(f"cursor: {exc}") from exc
    content = {
        "approvals": [approval_fields(approval) for approval in found[:size]],
        "next_cursor": found[size - 1].approval_id if len(found) > size else None,
        "timestamp": services.now(),
    }
    return JsonAnswer(content)


@router.get("/{approval_id}", response_model=Approval, responses=failing(400, 404))
def read_approval(services: UseServices, approval_id: ApprovalId) -> Response:
    """Read an approval with its subject and the digest that a decision repeats."""
    manager = services.manager
    tag = {"ETag": etag(manager.seq(job_of_approval(manager, approval_id)))}
    found = manager.get_approval(approval_id)
    return JsonAnswer(approval_fields(found, subject=found.subject), headers=tag)


@router.post(
    "/{approval_id}/decide",
    response_model=DecisionAnswer,
    responses=failing(403, 404, 409, 412),
)
def decide_approval(
    services: UseServices,
    repeatable: UseRepeatable,
    approval_id: ApprovalId,
    body: DecideRequest,
    if_match: IfMatch = None,
) -> Response:
    """Approve or reject the subject with this digest; the actor is the token's name.

    The same decision of the same actor again is 200.  403 `not_allowed`: the actor may
    not decide it.  409 `stale_subject`: the digest is not that of the subject.  409
    `approval_decided`: it has ended otherwise.
    """
    manager, expected = services.manager, seq_of(if_match)
    job_id = job_of_approval(manager, approval_id)
    with precondition(manager, job_id, expected):
        found = manager.decide(
            approval_id,
            body.decision,
            subject_digest=body.subject_digest,
            comment=body.comment,
            actor=repeatable.actor,
            idempotency_key=repeatable.key,
            expected_seq=expected,
        )
    done = repeatable.recorded(job_id)
    type_ = "" if done.event is None else done.event["type"]
    content = {
        "approval_id": approval_id,
        "execution_id": found.execution_id,
        "job_id": job_id,
        "decision": body.decision,
        "status": _STATUS_AFTER.get(type_, found.status),
        "timestamp": done.timestamp,
    }
    return JsonAnswer(content, headers=done.headers)
