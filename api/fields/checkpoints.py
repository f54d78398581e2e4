"""The JSON form of checkpoints, jobs and problems, for HTTP and for ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.journal.errors import MilepostError
    from milepost.journal.models import CheckpointInfo, ErrorInfo, JobInfo
    from milepost.journal.store.compaction import Compaction


def checkpoint_fields(info: CheckpointInfo, **state: Any) -> dict[str, Any]:
    """Return the fields of `ListedCheckpoint`, with the `state` if given.

    The fields of the original endpoints come first.
    """
    held, broken = info.held, info.metadata_problem
    fields: dict[str, Any] = {
        "checkpoint_id": info.checkpoint_id,
        "job_id": info.job_id,
        "step_name": info.step_name,
        "timestamp": info.timestamp,
        "workflow_version": info.workflow_version,
        "workflow_name": info.workflow_name,
        "metadata": info.metadata,
    }
    fields |= state
    fields["seq"] = info.seq
    fields["parent_id"] = info.parent_id
    fields["tags"] = info.tags
    fields["pinned"] = info.pinned
    fields["held"] = held and held._asdict()
    fields["failed"] = info.failed
    fields["stored_bytes"] = info.stored_bytes
    if broken:
        fields["metadata_problem"] = problem_fields(broken)
    return fields


def protection_fields(info: CheckpointInfo) -> dict[str, Any]:
    """Return the protection of a checkpoint, as in `MarkAnswer`."""
    held = info.held
    return {
        "pinned": info.pinned,
        "held": held and held._asdict(),
    }


def job_fields(info: JobInfo) -> dict[str, Any]:
    """Return the fields of `Job`."""
    return {
        "job_id": info.job_id,
        "seq": info.seq,
        "checkpoints": info.checkpoints,
        "saved": info.saved,
        "deleted": info.deleted,
        "restored": info.restored,
        "created_at": info.created_at,
        "last_activity": info.last_activity,
        "completed_at": info.completed_at,
        "current_checkpoint_id": info.current_id,
        "latest_checkpoint_id": info.latest_id,
        "size_bytes": info.size_bytes,
        "damage": info.damage and problem_fields(info.damage),
        "failed": info.failed,
        "reason": info.reason,
    }


def problem_fields(
    error: ErrorInfo | MilepostError, *, hint: bool = False
) -> dict[str, Any]:
    """Return an error: `detail` is for people, `code` for programs.

    Args:
        error: the error to describe.
        hint: include its hint, which addresses users of the library and the CLI.
    """
    found = {"code": error.code, "detail": str(error)}
    return {**found, "hint": error.hint} if hint else found


def compaction_fields(done: Compaction) -> dict[str, Any]:
    """Return the result of a compaction or an erasure."""
    return {**done._asdict(), "bytes_freed": done.bytes_freed}
