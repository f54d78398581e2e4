"""Values as `--json` shows them: the names and forms that the HTTP API uses too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from journal import CheckpointInfo, JobInfo
    from journal.errors import MilepostError
    from journal.info import ErrorInfo

_KIBI = 1024


def checkpoint_fields(info: CheckpointInfo) -> dict[str, Any]:
    """Return a checkpoint without its state."""
    fields = info._asdict()
    problem = error_fields(fields.pop("metadata_problem"))
    return {
        **fields,
        "tags": list(info.tags),
        **({"metadata_problem": problem} if problem else {}),
        "held": info.held and info.held._asdict(),
    }


def job_fields(info: JobInfo) -> dict[str, Any]:
    """Return a job's counters; `damage` says why it can't be read, if it can't."""
    damage = info.damage
    fields = info._asdict()
    return {
        "current_checkpoint_id": fields.pop("current_id"),
        "latest_checkpoint_id": fields.pop("latest_id"),
        **fields,
        "damage": damage and {"code": damage.code, "detail": str(damage)},
    }


def error_fields(error: ErrorInfo | MilepostError | None) -> dict[str, Any] | None:
    """Return an error as it stands beside data."""
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "hint": error.hint}


def size_text(size_bytes: int) -> str:
    """Return a size as people read it: ``812 B``, ``1.4 MiB``."""
    if size_bytes < _KIBI:
        return f"{size_bytes} B"
    size, unit = size_bytes / _KIBI, "KiB"
    for larger in ("MiB", "GiB"):
        if size >= _KIBI:
            size, unit = size / _KIBI, larger
    return f"{size:.1f} {unit}"
