"""Endpoints that list and complete jobs."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from typing import Annotated

from fastapi import APIRouter, Query, Response

from milepost.api.fields.checkpoints import job_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.routes.idempotent import UseRepeatable
from milepost.api.http.routes.parameters import (
    IfMatch,
    Limit,
    failing,
    page_size,
    precondition,
    seq_of,
)
from milepost.api.http.services import UseServices
from milepost.api.http.wire.answers import CompleteAnswer, JobList
from milepost.api.http.wire.requests import CompleteRequest
from milepost.journal.errors import MilepostError

router = APIRouter(prefix="/api/jobs", tags=["jobs"], route_class=Resource)

_PAGE = 100
IdOrGlob = Annotated[str | None, Query(min_length=1, max_length=512)]


class UnknownJob(MilepostError):
    """The job does not exist."""

    code = "not_found"


@router.get("", response_model=JobList, responses=failing())
def list_jobs(
    services: UseServices,
    job_id: IdOrGlob = None,
    match: IdOrGlob = None,
    limit: Limit = None,
    cursor: IdOrGlob = None,
) -> Response:
    """List jobs by id: those that `match` a glob, or only `job_id`.

    `cursor` is the `next_cursor` of the previous page.
    """
    manager = services.manager
    if job_id is not None:
        found = manager.job(job_id)
        content = {
            "jobs": [job_fields(found)] if found else [],
            "next_cursor": None,
            "timestamp": services.now(),
        }
        return JsonAnswer(content, headers={"ETag": etag(found.seq if found else 0)})
    size = page_size(limit, default=_PAGE, most=services.settings.api.max_page)
    infos = manager.jobs(match=match, limit=size + 1, after=cursor)
    shown = infos[:size]
    return JsonAnswer(
        {
            "jobs": [job_fields(info) for info in shown],
            "next_cursor": shown[-1].job_id if len(infos) > size else None,
            "timestamp": services.now(),
        }
    )


@router.post(
    "/complete", response_model=CompleteAnswer, responses=failing(404, 409, 412)
)
def complete_job(
    services: UseServices,
    repeatable: UseRepeatable,
    body: CompleteRequest,
    if_match: IfMatch = None,
) -> Response:
    """Mark a job as complete; a save or a restore reopens it.

    Its policy for completed jobs then applies, if it has one.
    """
    manager, expected = services.manager, seq_of(if_match)
    with precondition(manager, body.job_id, expected):
        found = manager.complete(
            body.job_id,
            failed=body.failed,
            reason=body.reason,
            actor=repeatable.actor,
            expected_seq=expected,
            idempotency_key=repeatable.key,
        )
    info = manager.job(body.job_id)
    if not found or info is None:
        raise UnknownJob(f"job {body.job_id!r} not found")
    done = repeatable.recorded(body.job_id)
    content = {
        "job_id": body.job_id,
        "completed_at": done.timestamp
        if done.event
        else job_fields(info)["completed_at"],
        "failed": body.failed,
        "timestamp": done.timestamp,
    }
    return JsonAnswer(content, headers=done.headers)
