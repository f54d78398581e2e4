"""The events of workflows: executions, leases, steps, signals, approvals.

Initial data, inputs, results, subjects and payloads are states: they stand on the state
line above their event, so they are salted, encrypted and erasable like other states.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, NotRequired

from milepost.journal.events.envelope import Envelope, RequestData, StatefulData

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import TypeIs

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic rejects the standard library's TypedDict before 3.12
    from typing_extensions import TypedDict


class BranchOrigin(TypedDict):
    """What an execution branches: a checkpoint, or another execution at a step.

    `job_id` is set for a fork, which has the results of that job's execution up to the
    step `before`; without it, all.
    """

    checkpoint_id: NotRequired[str]
    execution_id: NotRequired[str]
    job_id: NotRequired[str]
    before: NotRequired[str]


class StepOrigin(TypedDict):
    """The durable step that starts an execution of another job."""

    job_id: str
    execution_id: str
    key: str


class ExecutionStartedData(StatefulData, RequestData):
    """One run of a workflow begins; its state is the initial data."""

    execution_id: str
    workflow_name: str
    workflow_version: NotRequired[str]
    branched_from: NotRequired[BranchOrigin]
    parent: NotRequired[StepOrigin]


class ExecutionChangedData(RequestData):
    """An execution changed its status.

    `attempt` is set if the attempt itself did it.  `approval_id` is the approval that
    is waited for, or that was decided.  `is_auto`: the worker resumed it by its policy.
    `key` is the durable step that waits, `until` the time and `signal` the name of the
    signal that end its wait.  A result is the state of ``execution.completed``, whose
    `unused_steps` were recorded and not asked for by the last attempt.
    """

    execution_id: str
    attempt: NotRequired[int]
    approval_id: NotRequired[str]
    reason: NotRequired[str]
    error: NotRequired[str]
    is_auto: NotRequired[bool]
    key: NotRequired[str]
    until: NotRequired[str]
    signal: NotRequired[str]
    unused_steps: NotRequired[list[str]]
    state_digest: NotRequired[str]
    state_bytes: NotRequired[int]


class LeaseOwner(TypedDict):
    """The process that runs an attempt."""

    who: str
    host: str
    pid: int


class LeaseData(RequestData):
    """The right to write to an execution as `attempt`, its fencing token."""

    execution_id: str
    attempt: int
    owner: NotRequired[LeaseOwner]
    reason: NotRequired[str]


class CheckpointCreatedData(StatefulData, RequestData):
    """A step began; its state is the input."""

    execution_id: str
    attempt: int
    checkpoint_id: str
    step_name: str
    agent_id: str


class CheckpointEndedData(TypedDict):
    """A step failed, was skipped or was abandoned: its checkpoint has no state.

    The state of ``checkpoint.failed``, if there is one, is the output.
    """

    execution_id: str
    checkpoint_id: str
    attempt: NotRequired[int]
    approval_id: NotRequired[str]
    error: NotRequired[str]
    state_digest: NotRequired[str]
    state_bytes: NotRequired[int]


class DurableStepData(TypedDict):
    """A durable step, by its key; the state of ``step.completed`` is its result.

    `kind` is ``step``, unless it is ``sleep``, ``signal`` or ``child``.
    ``step.started`` is written only where a second run has to be excluded, and before
    an execution of `child_job` starts; `on_cancel` says whether that is cancelled too.
    `tries` are the failed ones so far; `retry_at` is when the next one is due.
    """

    execution_id: str
    attempt: int
    key: str
    kind: NotRequired[str]
    child_job: NotRequired[str]
    on_cancel: NotRequired[str]
    error: NotRequired[str]
    tries: NotRequired[int]
    retry_at: NotRequired[str]
    state_digest: NotRequired[str]
    state_bytes: NotRequired[int]


class SignalData(RequestData):
    """A named message to an execution; the state of ``signal.received`` is its payload.

    `received` is the seq of the signal that a durable step, `key`, consumed.
    """

    execution_id: str
    name: str
    attempt: NotRequired[int]
    received: NotRequired[int]
    key: NotRequired[str]
    state_digest: NotRequired[str]
    state_bytes: NotRequired[int]


class ApprovalRequestedData(RequestData):
    """A decision is wanted on a subject: the state of this event or of `subject_seq`.

    `subject_digest` is that state's digest, which a decision repeats.  Times are ISO
    8601 text in UTC.
    """

    execution_id: str
    approval_id: str
    subject_digest: str
    subject_seq: NotRequired[int]
    checkpoint_id: NotRequired[str]
    key: NotRequired[str]
    approvers: NotRequired[list[str]]
    required: NotRequired[int]
    allow_self: NotRequired[bool]
    deadline: NotRequired[str]
    remind_at: NotRequired[str]
    on_timeout: NotRequired[Literal["reject", "fail"]]
    on_reject: NotRequired[Literal["wait", "fail", "continue"]]
    state_digest: NotRequired[str]
    state_bytes: NotRequired[int]


class ApprovalChangedData(RequestData):
    """A vote, a reminder or the end of an approval; the actor is that of the event."""

    execution_id: str
    approval_id: str
    comment: NotRequired[str]
    reason: NotRequired[str]


class TriggerFailedData(TypedDict):
    """An automatic checkpoint could not be saved.

    `event` is the name that fired the trigger; `cause` is the seq of that event, if it
    is in the journal.
    """

    execution_id: str
    trigger: str
    event: str
    cause: NotRequired[int]
    error: str


class ExecutionStarted(Envelope):
    """An execution was started."""

    type: Literal["execution.started"]
    data: ExecutionStartedData


class ExecutionChanged(Envelope):
    """An execution changed its status."""

    type: Literal[
        "execution.waiting",
        "execution.ready",
        "execution.interrupted",
        "execution.resumed",
        "execution.completed",
        "execution.failed",
        "execution.cancelled",
    ]
    data: ExecutionChangedData


class LeaseChanged(Envelope):
    """An attempt took the lease of its execution, gave it back, or lost it."""

    type: Literal["lease.acquired", "lease.released", "lease.expired"]
    data: LeaseData


class CheckpointCreated(Envelope):
    """A step began."""

    type: Literal["checkpoint.created"]
    data: CheckpointCreatedData


class CheckpointEnded(Envelope):
    """A step ended without a checkpoint."""

    type: Literal["checkpoint.failed", "checkpoint.skipped", "checkpoint.abandoned"]
    data: CheckpointEndedData


class DurableStepChanged(Envelope):
    """A durable step began, completed, or failed once."""

    type: Literal["step.started", "step.completed", "step.failed"]
    data: DurableStepData


class SignalChanged(Envelope):
    """A signal arrived, or an attempt consumed it."""

    type: Literal["signal.received", "signal.consumed"]
    data: SignalData


class ApprovalRequested(Envelope):
    """A decision is wanted."""

    type: Literal["approval.requested"]
    data: ApprovalRequestedData


class ApprovalChanged(Envelope):
    """An approval got a vote or a reminder, or ended."""

    type: Literal[
        "approval.voted",
        "approval.reminded",
        "approval.approved",
        "approval.rejected",
        "approval.expired",
        "approval.withdrawn",
    ]
    data: ApprovalChangedData


class TriggerFailed(Envelope):
    """An automatic checkpoint could not be saved."""

    type: Literal["trigger.failed"]
    data: TriggerFailedData


WorkflowEvent = (
    ExecutionStarted
    | ExecutionChanged
    | LeaseChanged
    | CheckpointCreated
    | CheckpointEnded
    | DurableStepChanged
    | SignalChanged
    | ApprovalRequested
    | ApprovalChanged
    | TriggerFailed
)
WORKFLOW_EVENT_TYPES: frozenset[str] = frozenset(
    {
        "execution.started",
        "execution.waiting",
        "execution.ready",
        "execution.interrupted",
        "execution.resumed",
        "execution.completed",
        "execution.failed",
        "execution.cancelled",
        "lease.acquired",
        "lease.released",
        "lease.expired",
        "checkpoint.created",
        "checkpoint.failed",
        "checkpoint.skipped",
        "checkpoint.abandoned",
        "step.started",
        "step.completed",
        "step.failed",
        "signal.received",
        "signal.consumed",
        "approval.requested",
        "approval.voted",
        "approval.reminded",
        "approval.approved",
        "approval.rejected",
        "approval.expired",
        "approval.withdrawn",
        "trigger.failed",
    }
)


def is_workflow_event(event: Mapping[str, object]) -> TypeIs[WorkflowEvent]:
    """Return whether an event is about a workflow."""
    return event["type"] in WORKFLOW_EVENT_TYPES
