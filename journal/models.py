"""Results of public calls: light, immutable tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from milepost.journal.clock import moment

if TYPE_CHECKING:
    from datetime import datetime

    from milepost.journal.errors import MilepostError


class ErrorInfo(NamedTuple):
    """An error that is reported with a partial result instead of raised.

    Attributes:
        code: the error's stable code.
        message: its text, one line.
        hint: what to do about it, where that is not obvious.
    """

    code: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: MilepostError) -> Self:
        """Return the report of `error`."""
        return cls(error.code, str(error), error.hint)

    def __str__(self) -> str:
        return self.message


class Hold(NamedTuple):
    """A legal hold on a checkpoint: who placed it, when (ISO 8601) and why."""

    actor: str
    since: str
    reason: str | None


class CheckpointInfo(NamedTuple):
    """A checkpoint without its state.

    Every field is plain JSON.  `timestamp` is ISO 8601 text in UTC that ends in
    ``+00:00``.  `failed` is the flag given to `save`.  `held` is None unless the
    checkpoint is held.  `metadata_problem` is the reason why `metadata` is not shown:
    its key is missing, or it is not encrypted although the store requires it.
    """

    checkpoint_id: str
    job_id: str
    step_name: str
    timestamp: str
    workflow_version: str
    workflow_name: str | None
    metadata: dict[str, Any]
    seq: int
    parent_id: str | None
    tags: tuple[str, ...]
    pinned: bool
    stored_bytes: int
    held: Hold | None = None
    metadata_problem: ErrorInfo | None = None
    failed: bool = False

    @property
    def saved_at(self) -> datetime:
        """`timestamp` as an aware datetime."""
        return moment(self.timestamp)


class Checkpoint(NamedTuple):
    """A checkpoint with its state."""

    info: CheckpointInfo
    state: dict[str, Any]


class JobInfo(NamedTuple):
    """One job: its size and its latest activity.

    Every field is plain JSON; times are ISO 8601 text.  `checkpoints` counts live ones;
    `saved`, `deleted` and `restored` count over the whole history.  `completed_at` is
    when the job was completed, or None if it continued since; `failed` and `reason`
    are those of the completion.  `damage` is set for a quarantined job, whose other
    fields are empty.
    """

    job_id: str
    seq: int = 0
    checkpoints: int = 0
    saved: int = 0
    deleted: int = 0
    restored: int = 0
    created_at: str | None = None
    last_activity: str | None = None
    current_id: str | None = None
    latest_id: str | None = None
    size_bytes: int = 0
    damage: ErrorInfo | None = None
    completed_at: str | None = None
    failed: bool = False
    reason: str | None = None


class JobReport(NamedTuple):
    """Result of `verify` for one job.

    Attributes:
        head_hash: hash of the last event; it covers the whole history before it.
        notes: legal but notable findings, such as past repairs.
    """

    job_id: str
    ok: bool
    events: int
    checkpoints: int
    head_hash: str | None
    problem: ErrorInfo | None
    notes: tuple[str, ...]
