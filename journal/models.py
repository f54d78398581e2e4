"""What the public calls answer with: light, immutable tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from milepost.journal.clock import moment

if TYPE_CHECKING:
    from datetime import datetime

    from milepost.journal.errors import MilepostError


class ErrorInfo(NamedTuple):
    """An error that is reported beside what could be read, not raised.

    Attributes:
        code: that of the error; stable.
        message: its text, one line.
        hint: what to do about it, where that is not obvious.
    """

    code: str
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: MilepostError) -> Self:
        """Return what there is to report of `error`."""
        return cls(error.code, str(error), error.hint)

    def __str__(self) -> str:
        return self.message


class Hold(NamedTuple):
    """Who keeps a checkpoint from being removed, since when (ISO 8601) and why."""

    actor: str
    since: str
    reason: str | None


class CheckpointInfo(NamedTuple):
    """A checkpoint without its state.

    Every field is plain JSON.  `timestamp` is ISO 8601 text in UTC, which ends in
    ``+00:00``.  `failed` says that it was saved as such.  `held` is None unless it is
    held.  `metadata_problem` says why `metadata` is not shown, if it is not: its key is
    missing, or it is not encrypted and has to be.
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
    """One job: how much there is, and what happened last.

    Every field is plain JSON; times are ISO 8601 text.  `checkpoints` counts live ones;
    `saved`, `deleted` and `restored` count over the whole history.  `completed_at` is
    when the job was completed, unless it continued since; `failed` and `reason` say how
    and why.  `damage` says why a job is quarantined; then the other fields are empty.
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
    """What `verify` found out about one job.

    Attributes:
        head_hash: the last event's hash: it stands for the whole history before it.
        notes: what is legal but worth knowing, such as past repairs.
    """

    job_id: str
    ok: bool
    events: int
    checkpoints: int
    head_hash: str | None
    problem: ErrorInfo | None
    notes: tuple[str, ...]
