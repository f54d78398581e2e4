"""Endpoints that save, list, read and delete checkpoints.

Handlers are plain functions and run in threads: the core blocks on disk and locks.
"""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query, Response

from milepost.api.fields.checkpoints import checkpoint_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.routes.idempotent import UseRepeatable
from milepost.api.http.routes.parameters import (
    CheckpointId,
    IfMatch,
    JobIdQuery,
    Limit,
    failing,
    job_of,
    page_size,
    precondition,
    seq_of,
)
from milepost.api.http.services import Actor, UseServices
from milepost.api.http.wire.answers import (
    CheckpointList,
    CheckpointWithState,
    SaveAnswer,
)
from milepost.api.http.wire.requests import SaveRequest
from milepost.journal.errors import InvalidArgument, UnknownCheckpoint
from milepost.journal.manager import CheckpointManager
from milepost.journal.process import gc_pause
from milepost.journal.states.types import AS_STORED

router = APIRouter(
    prefix="/api/checkpoints", tags=["checkpoints"], route_class=Resource
)


class Saved(NamedTuple):
    """The seq and the time of a save."""

    seq: int
    at: str


@router.get("", response_model=CheckpointList, responses=failing())
def list_checkpoints(
    services: UseServices,
    job_id: JobIdQuery,
    limit: Limit = None,
    cursor: Annotated[str | None, Query(pattern="^[0-9]{1,18}$")] = None,
) -> Response:
    """List a job's checkpoints, oldest first: all of them, or with `limit` a page."""
    manager, most = services.manager, services.settings.api.max_page
    # Read before the list: an ETag that is too old refuses a write, a newer one would
    # allow a stale write.
    seq = manager.seq(job_id)
    is_whole = limit is None and cursor is None
    size = page_size(limit, default=most, most=most)

    def answer() -> Response:
        infos = (
            manager.list(job_id)
            if is_whole
            else manager.page(job_id, limit=size + 1, after_seq=int(cursor or 0))
        )
        shown = infos if is_whole else infos[:size]
        content: dict[str, object] = {
            "job_id": job_id,
            "checkpoints": [checkpoint_fields(info) for info in shown],
            "total": len(shown),
            "timestamp": services.now(),
        }
        if not is_whole:
            job = manager.job(job_id)
            content["total"] = job.checkpoints if job else 0
            content["next_cursor"] = str(shown[-1].seq) if len(infos) > size else None
        return JsonAnswer(content, headers={"ETag": etag(seq)})

    # The collector would traverse thousands of rows, and all of the application.
    return gc_pause.at_rest(answer)


@router.post(
    "", status_code=201, response_model=SaveAnswer, responses=failing(409, 412, 413)
)
def save_checkpoint(
    services: UseServices,
    repeatable: UseRepeatable,
    body: SaveRequest,
    if_match: IfMatch = None,
) -> Response:
    """Save a state as a new checkpoint of a job, which becomes current."""
    manager, matched = services.manager, seq_of(if_match)
    expected = body.expected_seq if matched is None else matched
    if body.expected_seq not in {None, expected}:
        raise InvalidArgument(
            f"expected_seq is {body.expected_seq}, but If-Match says {matched}"
        )
    with precondition(manager, body.job_id, matched):
        # The key is journaled, so it outlives the cache.
        checkpoint_id = manager.save(
            body.job_id,
            body.step_name,
            body.state,
            metadata=body.metadata,
            tags=body.tags,
            pinned=body.pinned,
            failed=body.failed,
            workflow_name=body.workflow_name,
            workflow_version=body.workflow_version,
            actor=repeatable.actor,
            idempotency_key=repeatable.key,
            expected_seq=expected,
            types=AS_STORED,
        )
    saved = _saved(manager, body.job_id, checkpoint_id)
    content = {
        "checkpoint_id": checkpoint_id,
        "job_id": body.job_id,
        "step_name": body.step_name,
        "timestamp": saved.at,
        "seq": saved.seq,
    }
    return JsonAnswer(content, status_code=201, headers={"ETag": etag(saved.seq)})


def _saved(manager: CheckpointManager, job_id: str, checkpoint_id: str) -> Saved:
    """Return the seq and time of a save, even if its checkpoint is now deleted."""
    latest = manager.latest(job_id)
    if latest is not None and latest.checkpoint_id == checkpoint_id:
        return Saved(latest.seq, latest.timestamp)
    # Another writer saved since, or this repeats an old save.  Look back in growing
    # steps: the last few events are almost always enough.
    for limit in (64, 4096, None):
        for event in manager.history(
            job_id, types={"checkpoint.saved"}, limit=limit, reverse=True
        ):
            if (
                event["type"] == "checkpoint.saved"
                and event["data"]["checkpoint_id"] == checkpoint_id
            ):
                return Saved(event["seq"], event["at"])
    raise AssertionError(f"{checkpoint_id!r} was saved, but no event says so")


@router.get(
    "/{checkpoint_id}", response_model=CheckpointWithState, responses=failing(400, 404)
)
def read_checkpoint(services: UseServices, checkpoint_id: CheckpointId) -> Response:
    """Read one checkpoint and its state; nothing is restored or journaled."""
    manager = services.manager
    job_id = job_of(manager, checkpoint_id)
    seq = manager.seq(job_id)
    checkpoint = manager.get(job_id, checkpoint_id, types=AS_STORED)
    content = checkpoint_fields(checkpoint.info, state_snapshot=checkpoint.state)
    return JsonAnswer(content, headers={"ETag": etag(seq)})


@router.delete("/{checkpoint_id}", status_code=204, responses=failing(404, 409, 412))
def delete_checkpoint(
    services: UseServices,
    actor: Actor,
    checkpoint_id: CheckpointId,
    force: Annotated[
        bool, Query(description="Delete it even if it is pinned.")
    ] = False,
    if_match: IfMatch = None,
) -> Response:
    """Delete one checkpoint; its state is erased after the trash period.

    409 `protected`: it is pinned; `force` overrides this.  409 `held`: it is on legal
    hold and must be released first.
    """
    manager, expected = services.manager, seq_of(if_match)
    job_id = job_of(manager, checkpoint_id)
    with precondition(manager, job_id, expected):
        found = manager.delete(
            job_id, checkpoint_id, actor=actor, force=force, expected_seq=expected
        )
    if not found:
        raise UnknownCheckpoint(checkpoint_id, job_id=job_id)
    return Response(status_code=204)
