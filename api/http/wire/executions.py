"""The bodies and answers of endpoints about executions and approvals."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from milepost.api.http.wire.requests import Asked, Label, Time
from milepost.journal.workflow.attempts import TTL_SECONDS

# No process renews the lease of a caller on another machine, so it must be long enough
# for its network, and short enough to notice its death.
Ttl = Annotated[float, Field(ge=1, le=3600, strict=False)]
Attempt = Annotated[int, Field(ge=1, le=2**53)]
Status = Literal[
    "pending",
    "running",
    "waiting",
    "interrupted",
    "completed",
    "failed",
    "cancelled",
]
Names = Annotated[list[Label], Field(max_length=64)]


class StartRequest(Asked):
    """A new execution; `correlation_id` is the job id."""

    correlation_id: Label
    workflow_name: Label
    initial_data: dict[str, Any] | None = None
    workflow_version: Label | None = None


class PauseRequest(Asked):
    """Why the execution is paused; it is journaled."""

    reason: Label | None = None


class CancelRequest(PauseRequest):
    """Why the execution is cancelled; it is journaled."""


class ResumeRequest(Asked):
    """`retry` also resumes a failed or cancelled execution."""

    retry: bool = False
    reason: Label | None = None


class FailRequest(Asked):
    """Why the execution failed."""

    error: Label


class AsAttempt(Asked):
    """A write of an attempt.

    `attempt`: refuse unless it is the live one.  Without it, the request counts as the
    attempt that the same token has begun here; if none is live, it begins the next one.
    """

    attempt: Attempt | None = None


class EndRequest(AsAttempt):
    """The result of an execution."""

    result: dict[str, Any] | None = None


class Terms(Asked):
    """The terms of an approval; `approvers` are actors, `token:<name>` for tokens."""

    approvers: Names = Field(default=[])
    required: Annotated[int, Field(ge=1, le=64)] = 1
    allow_self: bool = False
    deadline: Time | None = None
    remind_at: Time | None = None
    on_timeout: Literal["reject", "fail"] = "reject"
    on_reject: Literal["wait", "fail", "continue"] = "wait"


class StepRequest(AsAttempt):
    """A step that begins.

    `approval_required`: it waits for one approval of anybody; `approval` has other
    terms.
    """

    checkpoint_name: Label
    agent_id: Label
    input_data: dict[str, Any] | None = None
    approval_required: bool = False
    approval: Terms | None = None


class StepEndRequest(AsAttempt):
    """The output of a step; `error` in that of a failed one says why it failed."""

    checkpoint_name: Label
    output_data: dict[str, Any] | None = None
    success: bool = True
    on_step_failure: Literal["fail", "keep"] = "fail"


class ApprovalRequest(AsAttempt, Terms):
    """A subject to decide on between two steps."""

    subject: dict[str, Any]


class SignalRequest(Asked):
    """A named message."""

    name: Label
    payload: dict[str, Any] | None = None


class LeaseRequest(Asked):
    """`ttl`: the lease ends if no request renews it for this many seconds."""

    ttl: Ttl = TTL_SECONDS


class HeartbeatRequest(Asked):
    """The attempt whose lease is renewed."""

    attempt: Attempt


class DecideRequest(Asked):
    """A decision on the subject with this digest, as the approval shows it."""

    decision: Literal["approve", "reject"]
    subject_digest: Label
    comment: Label | None = None


class LeaseOfExecution(BaseModel):
    """The last lease of a running execution.

    `deadline`: when it ends unless it is renewed; null if it is not live.
    """

    attempt: int
    who: str
    host: str
    pid: int
    is_live: bool
    deadline: datetime | None


class Execution(BaseModel):
    """One run of a workflow; `correlation_id` is its job.

    `state` is the word of the original system, `status` the exact one.  `waiting_on` is
    the id of an approval, the key of a durable step, or `paused`.  A step waits for a
    time, for a signal (at most until a time), or for the end of a child's execution.
    """

    execution_id: str
    correlation_id: str
    workflow_name: str
    state: Literal["running", "paused", "completed", "failed", "cancelled"]
    current_checkpoint: str | None
    started_at: datetime
    completed_at: datetime | None
    total_checkpoints: int
    completed_checkpoints: int
    failed_checkpoints: int
    pending_approvals: int
    status: Status
    workflow_version: str | None
    attempt: int
    seq: int
    waiting_on: str | None
    waiting_until: datetime | None
    waiting_signal: str | None
    waiting_child: str | None
    reason: str | None
    error: str | None
    started_by: str
    branched_from: dict[str, str] | None
    changed_at: datetime
    lease: LeaseOfExecution | None


class ExecutionList(BaseModel):
    """Executions, oldest first; `next_cursor` null means that this is the last page."""

    executions: list[Execution]
    next_cursor: str | None
    timestamp: datetime


class StepOfExecution(BaseModel):
    """A step; `problem` says why its input or output is null, if it was purged."""

    checkpoint_name: str
    agent_id: str
    correlation_id: str
    state: Literal["active", "paused", "completed", "failed", "skipped"]
    started_at: datetime
    completed_at: datetime | None
    input_data: dict[str, Any] | None
    output_data: dict[str, Any] | None
    error_details: str | None
    approval_required: bool
    approval_status: Literal["pending", "approved", "denied", "withdrawn"] | None
    metadata: dict[str, Any]
    problem: str | None
    checkpoint_id: str
    seq: int
    attempt: int
    status: str
    approval_id: str | None


class StepList(BaseModel):
    """The steps of an execution, oldest first."""

    execution_id: str
    correlation_id: str
    checkpoints: list[StepOfExecution]
    timestamp: datetime


class AboutExecution(BaseModel):
    """The execution that a request was about."""

    execution_id: str
    correlation_id: str
    timestamp: datetime


class ExecutionAnswer(AboutExecution):
    """The status of an execution after the request."""

    status: Status


class HeartbeatAnswer(ExecutionAnswer):
    """The attempt whose lease was renewed."""

    attempt: int


class LeaseAnswer(HeartbeatAnswer):
    """A lease; it ends `ttl` seconds after the last request about its attempt."""

    ttl: float


class StepAnswer(ExecutionAnswer):
    """The step that began, and the approval that it waits for."""

    checkpoint_id: str
    checkpoint_name: str
    attempt: int
    approval_id: str | None


class StepEndAnswer(AboutExecution):
    """The step that ended."""

    checkpoint_name: str
    checkpoint_status: Literal["completed", "failed"]


class SignalAnswer(AboutExecution):
    """The signal, recorded as event `seq`."""

    name: str
    seq: int


class ListedApproval(BaseModel):
    """A request for a decision, without its subject.

    `votes`: the actors who approved so far.
    """

    approval_id: str
    job_id: str
    execution_id: str
    workflow_name: str
    step_name: str | None
    checkpoint_id: str | None
    status: Literal["pending", "approved", "rejected", "expired", "withdrawn"]
    requested_at: datetime
    requested_by: str
    subject_digest: str
    approvers: list[str]
    required: int
    allow_self: bool
    deadline: datetime | None
    on_timeout: Literal["reject", "fail"]
    on_reject: Literal["wait", "fail", "continue"]
    votes: list[str]
    decided_at: datetime | None
    decided_by: str | None
    comment: str | None


class Approval(ListedApproval):
    """A request for a decision on `subject`, null if it was purged."""

    subject: dict[str, Any] | None


class ApprovalList(BaseModel):
    """Approvals, oldest first; `next_cursor` null means that this is the last page."""

    approvals: list[ListedApproval]
    next_cursor: str | None
    timestamp: datetime


class AskedAnswer(ExecutionAnswer):
    """The approval that was asked for, and the digest that a decision repeats."""

    approval_id: str
    subject_digest: str


class DecisionAnswer(BaseModel):
    """The status of an approval after a decision."""

    approval_id: str
    execution_id: str
    job_id: str
    decision: Literal["approve", "reject"]
    status: Literal["pending", "approved", "rejected"]
    timestamp: datetime
