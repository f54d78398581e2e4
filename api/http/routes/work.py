"""The background work of the store: who does it, what is due, how it went."""

from fastapi import APIRouter, Response

from milepost.api.fields.worker import stored_fields, worker_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer
from milepost.api.http.routes.parameters import failing
from milepost.api.http.services import UseServices
from milepost.api.http.wire.answers import WorkerAnswer

router = APIRouter(tags=["worker"], route_class=Resource)


@router.get("/api/worker", response_model=WorkerAnswer, responses=failing())
def worker(services: UseServices) -> Response:
    """Say who works on the store, when each task is due, and how its last run went.

    Without a worker of its own, the server tells what the store's files tell.
    """
    if services.worker is not None:
        content = worker_fields(services.worker.status)
    else:
        # With a worker it is imported; without, APScheduler can wait until asked for.
        from milepost.worker.status import stored_status

        root = services.manager.root
        now = services.clock()
        settings = services.settings.worker
        content = stored_fields(stored_status(root, settings, now))
    return JsonAnswer({**content, "timestamp": services.now()})
