"""Jobs: how much they hold, when they last did something, where they stand."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.answers import JsonAnswer, etag
from api.routes.fields import Limit, failing, page_size
from api.services import UseServices
from api.wire import JobList, job

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

_PAGE = 100
IdOrGlob = Annotated[str | None, Query(min_length=1, max_length=512)]


@router.get("", response_model=JobList, responses=failing())
def list_jobs(
    services: UseServices,
    job_id: IdOrGlob = None,
    match: IdOrGlob = None,
    limit: Limit = None,
    cursor: IdOrGlob = None,
) -> Response:
    """List jobs by id: those that `match` a glob, or exactly `job_id`.

    `cursor` is the `next_cursor` of the page before.
    """
    manager = services.manager
    if job_id is not None:
        found = manager.job(job_id)
        content = {
            "jobs": [job(found)] if found else [],
            "next_cursor": None,
            "timestamp": services.now(),
        }
        return JsonAnswer(content, headers={"ETag": etag(found.seq if found else 0)})
    size = page_size(limit, default=_PAGE, most=services.settings.api.max_page)
    infos = manager.jobs(match=match, limit=size + 1, after=cursor)
    shown = infos[:size]
    return JsonAnswer(
        {
            "jobs": [job(info) for info in shown],
            "next_cursor": shown[-1].job_id if len(infos) > size else None,
            "timestamp": services.now(),
        }
    )
