"""Liveness and readiness probes.

The event loop answers both without a thread, so they work when every thread is taken.
They accept any `Host`, since probes use addresses, and ignore query parameters.
"""

from fastapi import APIRouter, Request, Response

from milepost.api.http.responses import JsonAnswer
from milepost.api.http.services import UseServices
from milepost.api.http.wire.answers import Health, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Report that the process answers; `/readyz` reports whether it is ready."""
    return JsonAnswer({"status": "ok"})


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(services: UseServices, request: Request) -> Response:
    """Report whether the index is up to date and the worker is running.

    Damaged jobs and configuration errors are listed but do not make the server unready:
    other jobs work, and the last valid configuration stays in force.
    """
    found = await services.readiness.look()
    status = found.worker
    # If tokens are configured, callers without one do not see the reasons.
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
    return text and "send a token to see it"
