"""The executions of one job, folded from its workflow events.  Pure.

The table in `transitions` decides which events fit; the functions here record what the
events say.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from milepost.journal.index.durable import Durable
from milepost.journal.index.transitions import (
    LIVE,
    NONE,
    UNFINISHED,
    Machine,
    after,
    possible,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from milepost.journal.events.vocabulary import CheckpointSaved
    from milepost.journal.events.workflow_events import (
        ApprovalChanged,
        ApprovalRequested,
        CheckpointCreated,
        CheckpointEnded,
        DurableStepChanged,
        ExecutionChanged,
        LeaseChanged,
        SignalChanged,
        StepOrigin,
        WorkflowEvent,
    )

# States of a machine by id, of events that are not folded yet.
Moved = dict[tuple[Machine, str], str]
PAUSED = "paused"  # what a paused execution waits for; others wait for an approval


class Misfit(Exception):
    """An event that does not fit the state of an execution, a step or an approval."""


class Step:
    """A step of an execution.

    Attributes:
        seq: of its ``checkpoint.created``, or of its save.
        ended_seq: of the event that ended it; 0 while it is open.
        approval_id: its last approval.
    """

    __slots__ = (
        "agent_id",
        "approval_id",
        "attempt",
        "checkpoint_id",
        "completed_at",
        "ended_seq",
        "error",
        "execution_id",
        "name",
        "seq",
        "started_at",
        "status",
    )

    def __init__(self, event: CheckpointCreated) -> None:
        data = event["data"]
        self.name = data["step_name"]
        self.checkpoint_id = data["checkpoint_id"]
        self.execution_id = data["execution_id"]
        self.agent_id = data["agent_id"]
        self.attempt = data["attempt"]
        self.seq = event["seq"]
        self.started_at = event["at"]
        self.completed_at: str | None = None
        self.ended_seq = 0
        self.error: str | None = None
        self.approval_id: str | None = None
        self.status = "open"


class Vote(NamedTuple):
    """One actor's approval."""

    actor: str
    at: str
    comment: str | None


class Approval:
    """A request for a decision on one subject.

    Attributes:
        seq: of its ``approval.requested``.
        step_key: of the durable step that asked.
        subject_seq: the event whose state is the subject.
        digest: of the subject; a decision repeats it.
        ended: the vote that ended it, of an approval or a rejection; else who and when.
    """

    __slots__ = (
        "allow_self",
        "approval_id",
        "approvers",
        "checkpoint_id",
        "deadline",
        "digest",
        "ended",
        "execution_id",
        "is_reminded",
        "on_reject",
        "on_timeout",
        "remind_at",
        "requested_at",
        "requested_by",
        "required",
        "seq",
        "status",
        "step_key",
        "subject_seq",
        "votes",
    )

    def __init__(self, event: ApprovalRequested) -> None:
        data = event["data"]
        self.approval_id = data["approval_id"]
        self.execution_id = data["execution_id"]
        self.checkpoint_id = data.get("checkpoint_id")
        self.step_key = data.get("key")
        self.seq = event["seq"]
        self.subject_seq = data.get("subject_seq", self.seq)
        self.digest = data["subject_digest"]
        self.requested_at = event["at"]
        self.requested_by = event["actor"]
        self.approvers = tuple(data.get("approvers", ()))
        self.required = data.get("required", 1)
        self.allow_self = data.get("allow_self", False)
        self.deadline = data.get("deadline")
        self.remind_at = data.get("remind_at")
        self.on_timeout = data.get("on_timeout", "reject")
        self.on_reject = data.get("on_reject", "wait")
        self.status = "pending"
        self.is_reminded = False
        self.votes: list[Vote] = []
        self.ended: Vote | None = None

    @property
    def due_at(self) -> str | None:
        """When the next reminder or the deadline is due; None if neither is left."""
        if self.status != "pending":
            return None
        return (
            self.deadline if self.is_reminded or not self.remind_at else self.remind_at
        )


def objection(approval: Approval, execution: Execution, actor: str) -> str | None:
    """Return why an actor may not decide an approval; None if the actor may."""
    if approval.approvers and actor not in approval.approvers:
        return f"its approvers are {', '.join(approval.approvers)}"
    is_self = actor in (execution.started_by, approval.requested_by)
    if is_self and not approval.allow_self:
        return "the same actor started the execution or asked"
    return None


class Execution:
    """One run of a workflow.

    Attributes:
        seq: of its ``execution.started``.
        attempt: the last one.
        leased: the attempt that has the lease; 0 if none has.
        owner: of the last lease.
        started_by: the actor who started it.
        waiting_on: an approval id, the key of a durable step, or `PAUSED`; None if it
            does not wait.
        failures: attempts that were interrupted since a step was last completed, or
            since a person resumed it.
        changed_at: the time of its last change of status.
        signals: (seq, name) of the signals that are not consumed yet.
        signal_seqs: of all signals.
        durable: its durable steps.
        is_paused: it waits for a person to resume it.
        parent: the durable step that started it.
        wake_at: when it goes on by itself.
        awaits: the name of the signal that lets it go on.
        subject_seqs: the events whose states are the subjects of its approvals.
        removed_at: when it left the lists.
    """

    __slots__ = (
        "attempt",
        "awaits",
        "branched_from",
        "changed_at",
        "changed_seq",
        "completed_at",
        "current_step",
        "durable",
        "error",
        "execution_id",
        "failures",
        "is_paused",
        "leased",
        "owner",
        "parent",
        "reason",
        "removed_at",
        "result_seq",
        "seq",
        "signal_seqs",
        "signals",
        "started_at",
        "started_by",
        "status",
        "steps",
        "subject_seqs",
        "waiting_on",
        "wake_at",
        "workflow_name",
        "workflow_version",
    )

    def __init__(self, event: Any) -> None:  # an ExecutionStarted
        data = event["data"]
        self.execution_id: str = data["execution_id"]
        self.workflow_name: str = data["workflow_name"]
        self.workflow_version: str | None = data.get("workflow_version")
        self.branched_from: dict[str, str] | None = data.get("branched_from")
        self.seq: int = event["seq"]
        self.started_at: str = event["at"]
        self.started_by: str = event["actor"]
        self.status = NONE
        self.steps: list[Step] = []
        self.current_step: str | None = None
        self.attempt = self.leased = self.failures = self.result_seq = 0
        self.owner: Mapping[str, Any] = {}
        self.waiting_on: str | None = None
        self.is_paused = False
        self.reason: str | None = None
        self.error: str | None = None
        self.completed_at: str | None = None
        self.changed_at = self.started_at
        self.changed_seq = self.seq
        self.signals: list[tuple[int, str]] = []
        self.signal_seqs: list[int] = []
        self.durable = Durable()
        self.parent: StepOrigin | None = data.get("parent")
        self.wake_at: str | None = None
        self.awaits: str | None = None
        self.subject_seqs: list[int] = []
        self.removed_at: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether a process runs it, or may run it without a further decision."""
        return self.status in LIVE

    @property
    def last_completed(self) -> Step | None:
        """The newest completed step: a resumed execution continues after it."""
        done = (step for step in reversed(self.steps) if step.status == "completed")
        return next(done, None)

    def newest(self, name: str, *statuses: str) -> Step | None:
        """Return the newest step of a name in one of some states, if there is one."""
        named = (s for s in reversed(self.steps) if s.name == name)
        return next((s for s in named if not statuses or s.status in statuses), None)

    def payload_seqs(self) -> Iterator[int]:
        """Yield the events whose states belong to it, besides checkpoints."""
        yield self.seq
        yield from (step.seq for step in self.steps)
        yield from (s.ended_seq for s in self.steps if s.status == "failed")
        yield from self.signal_seqs
        yield from self.subject_seqs
        yield from (known.seq for known in self.durable.recorded.values())
        if self.result_seq:
            yield self.result_seq


class Workflows:
    """The executions and approvals of a job.

    Attributes:
        executions: by id, oldest first; removed ones too.
        approvals: by id, oldest first.
        steps: by checkpoint id.
        live: the unfinished executions, by id.
        erased_seq: the last ``job.erased``: states of executions up to it are purged.
    """

    __slots__ = (
        "approvals",
        "erased_seq",
        "executions",
        "live",
        "steps",
    )

    def __init__(self) -> None:
        self.executions: dict[str, Execution] = {}
        self.approvals: dict[str, Approval] = {}
        self.steps: dict[str, Step] = {}
        self.live: dict[str, Execution] = {}
        self.erased_seq = 0

    def newest_unfinished(self) -> Execution | None:
        """Return the execution that the job's alias refers to, if there is one."""
        return max(self.live.values(), key=attrgetter("seq"), default=None)

    def open_approval(self, execution: Execution) -> Approval | None:
        """Return the approval that an execution waits for, if there is one."""
        found = self.approvals.get(execution.waiting_on or "")
        return found if found is not None and found.status == "pending" else None

    def needed(self) -> dict[str, str]:
        """Return the checkpoints that executions still need, and why.

        An interrupted execution needs its last checkpoint as long as it is the newest
        one: the worker or a person may resume it.
        """
        needed: dict[str, str] = {}
        newest = next(reversed(self.executions.values()), None)
        for execution in self.live.values():
            if not execution.is_live and execution is not newest:
                continue
            step = execution.last_completed
            base = execution.branched_from or {}
            found = base.get("checkpoint_id") if step is None else step.checkpoint_id
            if found is not None:
                what = "open approval" if self.open_approval(execution) else "execution"
                needed[found] = f"needed by {what} {_named(execution, what)}"
        return needed

    def state(self, machine: Machine, id_: str, moved: Moved) -> str:
        """Return the state of one execution, step or approval; `NONE` if unknown."""
        if (known := moved.get((machine, id_))) is not None:
            return known
        table: Mapping[str, Any]
        match machine:
            case "execution":
                table = self.executions
            case "checkpoint":
                table = self.steps
            case "approval":
                table = self.approvals
        found = table.get(id_)
        return NONE if found is None else str(found.status)


def _named(execution: Execution, what: str) -> str:
    if what == "execution":
        return execution.execution_id
    return str(execution.waiting_on)


# The id in an event's data that each machine's state belongs to.
_ID_FIELD: dict[Machine, str] = {
    "execution": "execution_id",
    "checkpoint": "checkpoint_id",
    "approval": "approval_id",
}


def _machine(type_: str) -> Machine | None:
    """Return the machine that an event moves, if it moves one."""
    family = type_.partition(".")[0]
    if type_ == "lease.acquired":
        return "execution"
    return family if family in _ID_FIELD else None


def check(
    workflows: Workflows, type_: str, data: Mapping[str, Any], moved: Moved
) -> Moved:
    """Refuse an event that fits no transition; return what it moves.

    Args:
        workflows: of the job.
        type_: the event's type.
        data: the event's data.
        moved: what events moved that are not folded yet.

    Raises:
        Misfit: it does not fit.
    """
    known = workflows.state("execution", data["execution_id"], moved)
    if known == NONE and type_ != "execution.started":
        raise Misfit(f"execution {data['execution_id']!r} does not exist")
    machine = _machine(type_)
    if machine is None:
        return {}
    id_ = data[_ID_FIELD[machine]]
    state = workflows.state(machine, id_, moved)
    new = after(machine, type_, state)
    if new is None:
        fits = ", ".join(possible(machine, state)) or "nothing"
        raise Misfit(
            f"{type_} does not fit {machine} {id_!r}, which is {state or 'unknown'}; "
            f"what fits: {fits}"
        )
    return {(machine, id_): new}


def apply(workflows: Workflows, event: WorkflowEvent) -> None:
    """Fold a checked event."""
    match event["type"]:
        case "execution.started":
            made = Execution(event)
            made.status = "pending"
            workflows.executions[made.execution_id] = made
            workflows.live[made.execution_id] = made
            return
        case "approval.requested":
            _request(workflows, event)
            return
        case "trigger.failed":
            return  # for readers of the history
        case _:
            pass
    execution = workflows.executions[event["data"]["execution_id"]]
    match event["type"]:
        case "lease.acquired" | "lease.released" | "lease.expired":
            _lease(execution, event)
        case "checkpoint.created":
            step = Step(event)
            execution.steps.append(step)
            execution.current_step = step.name
            workflows.steps[step.checkpoint_id] = step
        case "checkpoint.failed" | "checkpoint.skipped" | "checkpoint.abandoned":
            _end_step(workflows, event)
        case "step.started" | "step.completed" | "step.failed":
            _durable(execution, event)
        case "signal.received" | "signal.consumed":
            _signal(execution, event)
        case (
            "execution.waiting"
            | "execution.ready"
            | "execution.interrupted"
            | "execution.resumed"
            | "execution.completed"
            | "execution.failed"
            | "execution.cancelled"
        ):
            _move(workflows, execution, event)
        case (
            "approval.voted"
            | "approval.reminded"
            | "approval.approved"
            | "approval.rejected"
            | "approval.expired"
            | "approval.withdrawn"
        ):
            _decide(execution, workflows.approvals[event["data"]["approval_id"]], event)
        case _:
            assert_never(event)


def save(workflows: Workflows, event: CheckpointSaved) -> None:
    """Fold a checked save of an execution, which may complete a step."""
    data = event["data"]
    if (step := workflows.steps.get(data["checkpoint_id"])) is not None:
        step.status, step.completed_at = "completed", event["at"]
        step.ended_seq = event["seq"]
    execution = workflows.executions[data["execution_id"]]
    execution.current_step, execution.failures = None, 0


def remove(workflows: Workflows, execution_ids: list[str], at: str) -> None:
    """Fold that finished executions leave the lists."""
    for execution_id in execution_ids:
        execution = workflows.executions.get(execution_id)
        if execution is not None and execution_id not in workflows.live:
            execution.removed_at = at


def _lease(execution: Execution, event: LeaseChanged) -> None:
    data = event["data"]
    if event["type"] != "lease.acquired":
        execution.leased = 0
        return
    execution.status, execution.changed_at = "running", event["at"]
    execution.changed_seq = event["seq"]
    execution.attempt = execution.leased = data["attempt"]
    execution.owner = data.get("owner", {})


def _move(workflows: Workflows, execution: Execution, event: ExecutionChanged) -> None:
    type_, data, at = event["type"], event["data"], event["at"]
    execution.status = after("execution", type_, execution.status) or execution.status
    execution.changed_at, execution.changed_seq = at, event["seq"]
    execution.reason, execution.error = data.get("reason"), data.get("error")
    is_by_hand = not data.get("is_auto")
    if is_by_hand and (type_ == "execution.resumed" or execution.is_paused):
        execution.failures = 0
        execution.durable.tries.clear()
    execution.is_paused = False
    execution.waiting_on = execution.wake_at = execution.awaits = None
    if type_ == "execution.waiting":
        key = data.get("key")
        execution.waiting_on = data.get("approval_id", key or PAUSED)
        execution.is_paused = "approval_id" not in data and key is None
        execution.wake_at, execution.awaits = data.get("until"), data.get("signal")
        execution.durable.wait(data)
    if type_ == "execution.interrupted":
        execution.failures += 1
    if type_ == "execution.completed" and "state_digest" in data:
        execution.result_seq = event["seq"]
    if execution.status in UNFINISHED:
        execution.completed_at = None
        workflows.live[execution.execution_id] = execution
    else:
        execution.completed_at = at
        workflows.live.pop(execution.execution_id, None)


def _end_step(workflows: Workflows, event: CheckpointEnded) -> None:
    data = event["data"]
    step = workflows.steps[data["checkpoint_id"]]
    step.status = after("checkpoint", event["type"], step.status) or step.status
    step.completed_at, step.ended_seq = event["at"], event["seq"]
    step.error = data.get("error")


def _durable(execution: Execution, event: DurableStepChanged) -> None:
    execution.durable.apply(event)
    if event["type"] == "step.completed":
        execution.failures = 0


def _signal(execution: Execution, event: SignalChanged) -> None:
    data = event["data"]
    if event["type"] == "signal.received":
        execution.signals.append((event["seq"], data["name"]))
        execution.signal_seqs.append(event["seq"])
    else:
        execution.signals = [s for s in execution.signals if s[0] != data["received"]]
        execution.durable.consume(data)


def _request(workflows: Workflows, event: ApprovalRequested) -> None:
    approval = Approval(event)
    execution = workflows.executions[approval.execution_id]
    if approval.checkpoint_id is not None:
        workflows.steps[approval.checkpoint_id].approval_id = approval.approval_id
    workflows.approvals[approval.approval_id] = approval
    if approval.step_key is not None:
        execution.durable.asked[approval.step_key] = approval.approval_id
    execution.subject_seqs.append(approval.subject_seq)


def _decide(execution: Execution, approval: Approval, event: ApprovalChanged) -> None:
    type_, data = event["type"], event["data"]
    approval.status = after("approval", type_, approval.status) or approval.status
    vote = Vote(event["actor"], event["at"], data.get("comment"))
    if type_ in ("approval.voted", "approval.approved"):
        approval.votes.append(vote)
    if type_ == "approval.reminded":
        approval.is_reminded = True
    if approval.status != "pending":
        approval.ended = vote
    is_refused = approval.status in ("rejected", "expired")
    if is_refused and execution.waiting_on == approval.approval_id:
        execution.is_paused = approval.on_reject == "wait"
