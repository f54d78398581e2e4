"""Whether the process lives, and whether its answers can be relied on.

Both are answered by the event loop alone: probes must be right when every thread of the
server is taken.  They answer to any `Host`, for probes ask by address, and ignore query
parameters.
"""

from fastapi import APIRouter, Request, Response

from milepost.api.http.responses import JsonAnswer
from milepost.api.http.services import UseServices
from milepost.api.http.wire.answers import Health, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Say that the process answers; whether it should be asked is `/readyz`'s."""
    return JsonAnswer({"status": "ok"})


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(services: UseServices, request: Request) -> Response:
    """Say whether the index has caught up with every journal and the worker lives.

    What is damaged or misconfigured is named but does not make the server unready:
    other jobs go on, and so does the last good configuration.
    """
    found = await services.readiness.look()
    status = found.worker
    # With tokens configured, a stranger may know that we are unwell, not why.
    reveal = _whole if request.state.principal is not None else _hidden
    content = {
        "ready": not found.reasons,
        "reasons": found.reasons,
        "jobs": found.jobs,
        "damaged_jobs": found.damaged_jobs,
        "config_problem": status and reveal(status.config_problem),
        "worker": status
        and {
            "leader": status.leader,
            "scheduler_alive": status.scheduler_alive,
            "problem": reveal(status.problem),
            "restart_needed": status.restart_needed,
        },
        "timestamp": services.now(),
    }
    return JsonAnswer(content, status_code=503 if found.reasons else 200)


def _whole(text: str | None) -> str | None:
    return text


def _hidden(text: str | None) -> str | None:
    return text and "ask with a token to see it"
