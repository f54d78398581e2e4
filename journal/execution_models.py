"""Executions and their steps as callers know them: words, objects, dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class CheckpointState(str, Enum):  # noqa: UP042 - `str()` of a StrEnum differs
    """The state of an execution or of a step; equal to its word."""

    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


# The word that older callers know, by the status of an execution and of a step.
STATE_OF_EXECUTION = {
    "pending": "running",
    "running": "running",
    "waiting": "paused",
    "interrupted": "paused",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
STATE_OF_STEP = {
    "open": CheckpointState.ACTIVE,
    "waiting": CheckpointState.PAUSED,
    "completed": CheckpointState.COMPLETED,
    "failed": CheckpointState.FAILED,
    "abandoned": CheckpointState.FAILED,
    "skipped": CheckpointState.SKIPPED,
}
DECISION_OF = {
    "pending": "pending",
    "approved": "approved",
    "rejected": "denied",
    "expired": "denied",
    "withdrawn": "withdrawn",
}


def _text(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case CheckpointExecution():
            return value.to_dict()
        case list():
            return [_text(item) for item in value]
    return value


def _time(value: object) -> Any:  # a datetime or None
    return datetime.fromisoformat(value) if isinstance(value, str) else value


@dataclass
class CheckpointExecution:
    """A step of an execution.

    Objects that the manager returns show the step as it is now; others are plain data.
    """

    checkpoint_name: str
    agent_id: str
    correlation_id: str
    state: CheckpointState
    started_at: datetime
    completed_at: datetime | None = None
    input_data: dict[str, Any] | None = field(default_factory=dict)
    output_data: dict[str, Any] | None = None
    error_details: str | None = None
    approval_required: bool = False
    approval_status: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the step as plain JSON."""
        names = (f.name for f in fields(CheckpointExecution))
        return {name: _text(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the step that `to_dict` described; unknown keys are ignored."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        known["state"] = CheckpointState(known["state"])
        for name in ("started_at", "completed_at"):
            known[name] = _time(known.get(name))
        return cls(**known)


@dataclass
class WorkflowExecution:
    """One run of a workflow; `state` is one of the words of older callers.

    Objects that the manager returns show the execution as it is now; others are plain
    data.
    """

    execution_id: str
    correlation_id: str
    workflow_name: str
    started_at: datetime
    current_checkpoint: str | None = None
    state: str = "running"
    checkpoints: list[CheckpointExecution] = field(default_factory=list)
    global_data: dict[str, Any] | None = field(default_factory=dict)
    completed_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the execution as plain JSON."""
        names = (f.name for f in fields(WorkflowExecution))
        return {name: _text(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the execution that `to_dict` described; unknown keys are ignored."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        steps = known.get("checkpoints", ())
        known["checkpoints"] = [CheckpointExecution.from_dict(step) for step in steps]
        for name in ("started_at", "completed_at"):
            known[name] = _time(known.get(name))
        return cls(**known)


class _Live:
    """Reads the fields of a dataclass at each access."""

    _read: Callable[[], dict[str, Any] | None]

    def __getattribute__(self, name: str) -> Any:  # whatever the field holds
        if not name.startswith("_") and name in type(self).__dataclass_fields__:  # type: ignore[attr-defined] # of the dataclass beside
            found = object.__getattribute__(self, "_read")()
            if found is not None:  # it may have left the lists: then as last seen
                self.__dict__.update(found)
        return object.__getattribute__(self, name)


class LiveStep(_Live, CheckpointExecution):
    """A step as it is now; `checkpoint_id` names it."""

    checkpoint_id: str


class LiveExecution(_Live, WorkflowExecution):
    """An execution as it is now."""


def live(kind: type[Any], read: Callable[[], dict[str, Any] | None]) -> Any:
    """Return a `LiveStep` or `LiveExecution` whose fields `read` returns."""
    made = object.__new__(kind)
    made.__dict__["_read"] = read
    made.__dict__.update(read() or {})
    return made


class LeaseInfo(NamedTuple):
    """The lease of an attempt that this process runs."""

    execution_id: str
    attempt: int
    ttl_seconds: float


class Unfinished(NamedTuple):
    """An execution that the worker looks after.

    `failures`: attempts that were interrupted since a step was last completed.
    `due_at`: when a reminder or the deadline of `approval_id` is due, or when it goes
    on by itself.  `child_job`: the job of the execution that it waits for.
    """

    job_id: str
    execution_id: str
    workflow_name: str
    status: str
    attempt: int
    failures: int
    changed_at: str
    changed_seq: int
    approval_id: str | None
    due_at: str | None
    child_job: str | None = None


class StepRecord(NamedTuple):
    """A durable step of an execution, as it was last recorded.

    Attributes:
        key: its name, with its number and scopes.
        status: ``completed``; ``failed``: its last try; ``started``: it may have run.
        kind: of a completed one: ``step``, ``sleep``, ``signal`` or ``child``.
        attempt: that recorded it; 0: it is a copy that a fork began with.
        tries: that failed.
        error: of the last failed try.
        at: ISO 8601 text.
        seq: of the event.
    """

    key: str
    status: str
    kind: str
    attempt: int
    tries: int
    error: str | None
    at: str
    seq: int


class Outcome(NamedTuple):
    """How far an execution came.

    Attributes:
        execution_id: the execution.
        status: ``pending``, ``running``, ``waiting``, ``interrupted``, ``completed``,
            ``failed`` or ``cancelled``.
        result: of a completed one.
        waiting_on: what a waiting one waits for: an approval id, the key of a step, or
            ``paused``.
        error: of a failed one.
    """

    execution_id: str
    status: str
    result: Any = None
    waiting_on: str | None = None
    error: str | None = None


class ApprovalInfo(NamedTuple):
    """A request for a decision.

    Every field is plain JSON; times are ISO 8601 text.  A decision repeats
    `subject_digest`.  `subject` is what was shown; None where only lists are asked for,
    or if it was purged.  `votes` are the actors who approved so far.
    """

    approval_id: str
    job_id: str
    execution_id: str
    workflow_name: str
    step_name: str | None
    checkpoint_id: str | None
    status: str
    requested_at: str
    requested_by: str
    subject_digest: str
    approvers: tuple[str, ...]
    required: int
    allow_self: bool
    deadline: str | None
    on_timeout: str
    on_reject: str
    votes: tuple[str, ...]
    decided_at: str | None
    decided_by: str | None
    comment: str | None
    subject: dict[str, Any] | None = None


class Continuation(NamedTuple):
    """What goes on from a restored checkpoint.

    Attributes:
        mode: ``restored``: nothing; ``resumed``: its execution, or its job if it
            belongs to none; ``branched``: a new execution.
        execution_id: of the execution that goes on; else of the checkpoint's, if any.
        why_not: why nothing goes on, if a resume was asked for.
    """

    mode: Literal["restored", "resumed", "branched"] = "restored"
    execution_id: str | None = None
    why_not: str | None = None


class Restored(NamedTuple):
    """A restored state, and what goes on from its checkpoint."""

    state: dict[str, Any]
    continuation: Continuation
