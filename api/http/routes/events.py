"""The endpoint of a job's event history."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from typing import Annotated

from fastapi import APIRouter, Query, Response

from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.routes.parameters import JobIdQuery, Limit, failing, page_size
from milepost.api.http.services import UseServices
from milepost.api.http.wire.answers import EventList
from milepost.journal.errors import InvalidArgument
from milepost.journal.events.vocabulary import EVENT_TYPES

router = APIRouter(prefix="/api/events", tags=["events"], route_class=Resource)

_PAGE = 100


@router.get("", response_model=EventList, responses=failing())
def list_events(
    services: UseServices,
    job_id: JobIdQuery,
    after_seq: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    type: Annotated[list[str] | None, Query(max_length=50)] = None,  # noqa: A002 - its name on the wire
    limit: Limit = None,
) -> Response:
    """List a job's events after `after_seq`; `type` can be given several times.

    To follow a job, repeat with `after_seq` set to `next_after_seq`.
    """
    manager = services.manager
    for name in type or ():
        if name not in EVENT_TYPES:
            raise InvalidArgument(
                f"type {name[:60]!r} is not an event type; types are "
                + ", ".join(sorted(EVENT_TYPES))
            )
    size = page_size(limit, default=_PAGE, most=services.settings.api.max_page)
    # Read before the events: a client that continues from here must not skip events
    # that are appended in between.
    head = manager.seq(job_id)
    events = manager.history(
        job_id, after_seq=after_seq, types=set(type) if type else None, limit=size
    )
    last = events[-1]["seq"] if events else after_seq
    is_whole = len(events) < size
    return JsonAnswer(
        {
            "job_id": job_id,
            "events": events,
            "next_after_seq": max(last, head) if is_whole else last,
        },
        headers={"ETag": etag(head)},
    )
