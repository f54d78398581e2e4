"""The endpoint of background work: leader, schedules and last runs."""

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
    """Show the active worker, and each task's next and last run.

    Without a worker of its own, the server reads the status from the store's records.
    """
    if services.worker is not None:
        content = worker_fields(services.worker.status)
    else:
        # Imported here: without a worker, APScheduler is loaded only for this endpoint.
        from milepost.worker.status import stored_status

        storage = services.manager.storage
        now = services.clock()
        worker, schedules = services.settings.worker, services.settings.schedule
        content = stored_fields(stored_status(storage, worker, now, schedules))
    return JsonAnswer({**content, "timestamp": services.now()})
