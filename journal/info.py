"""What the public calls answer with: light, immutable tuples."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from journal.errors import MilepostError


class Hold(NamedTuple):
    """Who keeps a checkpoint from being removed, since when and why."""

    actor: str
    since: datetime
    reason: str | None


class CheckpointInfo(NamedTuple):
    """A checkpoint without its state.

    `failed` says that it was saved as such.  `held` is None unless it is held.
    `metadata_problem` says why `metadata` is not shown, if it is not: its key is not at
    hand, or it is not encrypted and had to be.
    """

    checkpoint_id: str
    job_id: str
    step_name: str
    timestamp: datetime
    workflow_version: str | None
    workflow_name: str | None
    metadata: dict[str, Any]
    seq: int
    parent_id: str | None
    tags: tuple[str, ...]
    pinned: bool
    stored_bytes: int
    held: Hold | None = None
    metadata_problem: MilepostError | None = None
    failed: bool = False


class Checkpoint(NamedTuple):
    """A checkpoint with its state."""

    info: CheckpointInfo
    state: dict[str, Any]


class JobInfo(NamedTuple):
    """One job: how much there is, and what happened last.

    `checkpoints` counts live ones; `saved`, `deleted` and `restored` count over the
    whole history.  `completed_at` is when the job was said to be complete, unless it
    went on since.  `damage` says why a job is quarantined; then the rest is empty.
    """

    job_id: str
    seq: int = 0
    checkpoints: int = 0
    saved: int = 0
    deleted: int = 0
    restored: int = 0
    created_at: datetime | None = None
    last_activity: datetime | None = None
    current_id: str | None = None
    latest_id: str | None = None
    size_bytes: int = 0
    damage: MilepostError | None = None
    completed_at: datetime | None = None


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
    problem: MilepostError | None
    notes: tuple[str, ...]
