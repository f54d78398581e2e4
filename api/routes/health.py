"""Whether the process lives, and whether its answers can be relied on."""

from fastapi import APIRouter, Request, Response

from api.answers import JsonAnswer
from api.services import Services, UseServices
from api.wire import Health, Readiness
from journal.errors import MilepostError

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Say that the process answers; whether it should be asked is `/readyz`'s."""
    return JsonAnswer({"status": "ok"})


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
def readyz(services: UseServices, request: Request) -> Response:
    """Say whether the index has caught up with every journal and the worker lives.

    What is damaged or misconfigured is named but does not make the server unready:
    other jobs go on, and so does the last good configuration.
    """
    reasons: list[str] = []
    counts = _catch_up(services, reasons)
    status = services.worker and services.worker.status
    # With tokens configured, a stranger may know that we are unwell, not why.
    reveal = _whole if request.state.principal is not None else _hidden
    if status and not status.scheduler_alive and (status.leader or status.problem):
        reasons.append("the worker's scheduler is not running")
    content = {
        "ready": not reasons,
        "reasons": reasons,
        "jobs": counts and counts[0],
        "damaged_jobs": counts and counts[1],
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
    return JsonAnswer(content, status_code=503 if reasons else 200)


def _whole(text: str | None) -> str | None:
    return text


def _hidden(text: str | None) -> str | None:
    return text and "ask with a token to see it"


def _catch_up(services: Services, reasons: list[str]) -> tuple[int, int] | None:
    """Return how many jobs there are and how many are damaged."""
    # The first catch-up may replay for a while; whoever asks meanwhile gets an answer
    # at once instead of a thread that waits too.
    if not services.refreshing.acquire(blocking=False):
        reasons.append("the index is catching up with the journals")
        return None
    try:
        # Asking about a job catches up with its journal.
        jobs = services.manager.jobs()
    except (MilepostError, OSError) as exc:
        code = getattr(exc, "code", "storage_failed")
        reasons.append(f"the journals cannot be read: {code}")
        return None
    finally:
        services.refreshing.release()
    return len(jobs), sum(job.damage is not None for job in jobs)
