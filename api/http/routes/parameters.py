"""Headers and query parameters that several endpoints share."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Header, Path, Query

from milepost.api.http.failures import PreconditionFailed, Unsearchable
from milepost.api.http.wire.answers import ErrorAnswer
from milepost.journal.errors import (
    Conflict,
    InvalidArgument,
    MilepostError,
    UnknownApproval,
    UnknownCheckpoint,
    UnknownExecution,
)
from milepost.journal.manager import CheckpointManager

_ETAG = re.compile(r'"([0-9]{1,18})"')

JobIdQuery = Annotated[str, Query(min_length=1, max_length=512)]
CheckpointId = Annotated[str, Path(max_length=512)]
ExecutionId = Annotated[
    str,
    Path(
        max_length=512,
        description="The id of an execution. `exec_<job id>` names the job's newest "
        "unfinished one, if the job id has no slash.",
    ),
]
ApprovalId = Annotated[str, Path(max_length=512)]
Limit = Annotated[int | None, Query(ge=1)]
IfMatch = Annotated[
    str | None,
    Header(description="An ETag; 412 if the job has changed since."),
]


def failing(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of answers with `statuses`."""
    return {status: {"model": ErrorAnswer} for status in (*statuses, 422)}


def page_size(limit: int | None, *, default: int, most: int) -> int:
    """Return the number of items of a page.

    Raises:
        InvalidArgument: `limit` is more than `most`.
    """
    if limit is not None and limit > most:
        raise InvalidArgument(
            f"limit must be at most {most} (api.max_page), got {limit}"
        )
    return min(default, most) if limit is None else limit


def seq_of(if_match: str | None) -> int | None:
    """Return the seq that an `If-Match` header names; None if there is no header.

    Raises:
        InvalidArgument: it is not one entity tag of this API.
    """
    if if_match is None:
        return None
    matched = _ETAG.fullmatch(if_match.strip())
    if matched is None:
        raise InvalidArgument(
            f'If-Match must be the ETag of a job, like "7", got {if_match[:60]!r}'
        )
    return int(matched[1])


def job_of(manager: CheckpointManager, checkpoint_id: str) -> str:
    """Return the job of a live checkpoint.

    Raises:
        UnknownCheckpoint: there is none, or it was deleted.
        Unsearchable: none of the readable jobs has it, and others cannot be read.
    """
    try:
        return manager.find(checkpoint_id).job_id
    except UnknownCheckpoint as exc:
        if exc.deleted_at is None:
            _refuse_damaged(manager, checkpoint_id, exc)
        raise


def job_of_deleted(manager: CheckpointManager, checkpoint_id: str) -> str:
    """Return the job of a live or deleted checkpoint.

    Raises:
        UnknownCheckpoint: there is none, or its state is erased.
        Unsearchable: none of the readable jobs has it, and others cannot be read.
    """
    try:
        return job_of(manager, checkpoint_id)
    except UnknownCheckpoint as exc:
        if exc.job_id is None:
            raise
        return exc.job_id


def execution_named(manager: CheckpointManager, execution_id: str) -> tuple[str, str]:
    """Return the job and the id of an execution.

    Raises:
        UnknownExecution: there is none, or it was removed.
        Unsearchable: none of the readable jobs has it, and others cannot be read.
    """
    try:
        found = manager.workflows.directory.execution(execution_id)
    except UnknownExecution as exc:
        _refuse_damaged(manager, execution_id, exc)
        raise
    if manager.get_execution_status(found[1]) is None:
        raise UnknownExecution(execution_id)
    return found


def job_of_approval(manager: CheckpointManager, approval_id: str) -> str:
    """Return the job of an approval.

    Raises:
        UnknownApproval: there is none.
        Unsearchable: none of the readable jobs has it, and others cannot be read.
    """
    try:
        return manager.workflows.directory.approval(approval_id)
    except UnknownApproval as exc:
        _refuse_damaged(manager, approval_id, exc)
        raise


def _refuse_damaged(
    manager: CheckpointManager, id_: str, unknown: MilepostError
) -> None:
    for job in manager.jobs():
        if job.damage is not None:
            raise Unsearchable(id_, job.damage) from unknown


@contextmanager
def precondition(
    manager: CheckpointManager, job_id: str, if_match: int | None
) -> Iterator[None]:
    """Turn the conflict of a write into a 412 if `If-Match` failed.

    Raises:
        PreconditionFailed: the job's seq is not `if_match`.
        Conflict: any other conflict, unchanged.
    """
    try:
        yield
    except Conflict as exc:
        is_about_seq = type(exc) is Conflict  # its subclasses have other reasons
        if is_about_seq and if_match is not None and manager.seq(job_id) != if_match:
            raise PreconditionFailed(str(exc), hint=exc.hint) from exc
        raise
