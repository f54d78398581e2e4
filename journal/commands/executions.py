"""Transitions of executions: start, take over, pause, resume, end.  Pure.

Each function is called under the job's lock.  It adds events that fit the table in
`journal.index.transitions`, or refuses with an error that names the state and what is
allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal import ids
from milepost.journal.clock import moment, stamp
from milepost.journal.commands.reason import with_reason
from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats
from milepost.journal.errors import (
    ApprovalPending,
    ExecutionFinal,
    ExecutionPaused,
    IllegalTransition,
    LeaseLost,
    UnknownExecution,
)
from milepost.journal.index.executions import Workflows
from milepost.journal.index.transitions import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from milepost.journal.batch import Batch
    from milepost.journal.events.workflow_events import (
        BranchOrigin,
        LeaseOwner,
        StepOrigin,
    )
    from milepost.journal.index.executions import Execution
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.line_codec import EncodedState


class Payload(NamedTuple):
    """A state of an event that saves no checkpoint: its digest and size, its lines."""

    fields: dict[str, object]
    encoded: EncodedState


class Workflow(NamedTuple):
    """The workflow of a new execution."""

    name: str
    version: str | None = None
    branched_from: BranchOrigin | None = None
    parent: StepOrigin | None = None


def execution_of(view: JobView, execution_id: str) -> Execution:
    """Return an execution.

    Raises:
        UnknownExecution: there is none, or it was removed.
    """
    found = view.workflows.executions.get(execution_id)
    if found is None or found.removed_at is not None:
        raise UnknownExecution(execution_id)
    return found


def refusal(view: JobView, execution: Execution, wish: str) -> IllegalTransition:
    """Return why `wish` is not possible now, and what is."""
    name, status = execution.execution_id, execution.status
    kind, what, hint = _REFUSALS[status]
    if status == "waiting" and view.workflows.open_approval(execution) is not None:
        kind, what, hint = _GATED
    since = f" since {execution.completed_at}" if kind is ExecutionFinal else ""
    what = what.format(approval=execution.waiting_on)
    return kind(f"cannot {wish} execution {name!r}: it {what}{since}", hint=hint)


_Refusal = tuple[type[IllegalTransition], str, str]
_GATED: _Refusal = (
    ApprovalPending,
    "waits for approval {approval}",
    "decide that approval, or cancel the execution",
)
_ENDED = "resume it with retry, or start another one"
_REFUSALS: dict[str, _Refusal] = {
    "pending": (
        IllegalTransition,
        "is pending: no process runs it",
        "take its lease first, or pause, fail or cancel it",
    ),
    "running": (
        IllegalTransition,
        "is running",
        "pause, complete, fail or cancel it",
    ),
    "waiting": (ExecutionPaused, "is paused", "resume it, or cancel or fail it"),
    "interrupted": (
        IllegalTransition,
        "is interrupted",
        "resume it, or cancel or fail it",
    ),
    "completed": (
        ExecutionFinal,
        "is completed",
        "start another one, or branch it from a checkpoint",
    ),
    "failed": (ExecutionFinal, "is failed", _ENDED),
    "cancelled": (ExecutionFinal, "is cancelled", _ENDED),
}


def start(
    batch: Batch,
    execution_id: str,
    workflow: Workflow,
    payload: Payload,
    *,
    actor: str,
    owner: LeaseOwner | None,
    refuse_live: Callable[[Workflows], None],
    request: Request = NO_KEY,
) -> str:
    """Start an execution, with its first attempt if it has an `owner`.

    Args:
        batch: the write.
        execution_id: the new id.
        workflow: what it runs.
        payload: the initial data.
        actor: who starts it.
        owner: the process that runs the first attempt, which holds the lease.
        refuse_live: raises if another process runs an execution of the job.
        request: a repeat returns the id of the first one.

    Raises:
        WrongKind: the job holds no states.
        LeaseLive: from `refuse_live`.
        InvalidArgument: a name is out of bounds.
    """
    batch.claim()
    if (earlier := request.admitted(batch)) is not None:
        made = batch.view.workflows.executions.values()
        first = (e.execution_id for e in made if e.seq >= earlier.first)
        return next(first, execution_id)
    refuse_live(batch.view.workflows)
    data: dict[str, object] = {
        "execution_id": execution_id,
        "workflow_name": ids.check_label("workflow_name", workflow.name),
    }
    if workflow.version is not None:
        label = ids.check_label("workflow_version", workflow.version)
        data["workflow_version"] = label
    if workflow.branched_from is not None:
        data["branched_from"] = workflow.branched_from
    if workflow.parent is not None:
        data["parent"] = workflow.parent
    data = request.recorded(data | payload.fields)
    batch.add("execution.started", actor, data, payload.encoded)
    if owner is not None:
        _lease(batch, execution_id, 1, owner, actor)
    return execution_id


def acquire(
    batch: Batch,
    execution_id: str,
    owner: LeaseOwner,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> int:
    """Begin the next attempt for a process that holds the lease; return its number.

    The lease was free, so a running attempt is over: it is recorded as expired, and the
    execution continues.

    Raises:
        UnknownExecution: there is none.
        ApprovalPending, ExecutionPaused: it waits.
        ExecutionFinal: it has ended.
    """
    execution = execution_of(batch.view, execution_id)
    match execution.status:
        case "running":
            expire(batch, execution_id, execution.attempt, actor=actor)
            _resume(batch, execution_id, actor, "taken over")
        case "interrupted":
            _resume(batch, execution_id, actor, "taken over")
        case "pending":
            pass
        case _:
            raise refusal(batch.view, execution, "run")
    attempt = execution.attempt + 1
    _lease(batch, execution_id, attempt, owner, actor, request)
    return attempt


def _lease(
    batch: Batch,
    execution_id: str,
    attempt: int,
    owner: LeaseOwner,
    actor: str,
    request: Request = NO_KEY,
) -> None:
    data: dict[str, object] = {
        "execution_id": execution_id,
        "attempt": attempt,
        "owner": owner,
    }
    batch.add("lease.acquired", actor, request.recorded(data))
    batch.leases[execution_id] = attempt


def _resume(batch: Batch, execution_id: str, actor: str, reason: str) -> None:
    data = {"execution_id": execution_id, "reason": reason, "is_auto": True}
    batch.add("execution.resumed", actor, data)


def expire(
    batch: Batch,
    execution_id: str,
    attempt: int,
    *,
    actor: str,
    reason: str = "its process ended",
) -> bool:
    """Record that an attempt is over without a word; return False if it was known.

    Raises:
        UnknownExecution: there is none.
    """
    execution = execution_of(batch.view, execution_id)
    if execution.status != "running" or execution.leased != attempt:
        return False
    data = {"execution_id": execution_id, "attempt": attempt, "reason": reason}
    batch.add("lease.expired", actor, data)
    abandon(batch, execution, actor)
    batch.add("execution.interrupted", actor, data)
    return True


def abandon(batch: Batch, execution: Execution, actor: str) -> None:
    """Abandon the open steps of an execution."""
    for step in execution.steps:
        if batch.state_of("checkpoint", step.checkpoint_id) != "open":
            continue
        data = {
            "execution_id": execution.execution_id,
            "checkpoint_id": step.checkpoint_id,
            "attempt": step.attempt,
        }
        batch.add("checkpoint.abandoned", actor, data)


def leased(batch: Batch, execution_id: str, attempt: int, wish: str) -> Execution:
    """Return an execution that `attempt` may write to; 0 is no attempt.

    Raises:
        UnknownExecution: there is none.
        LeaseLost: another attempt may have begun.
        ApprovalPending, ExecutionPaused, ExecutionFinal: it waits, or has ended.
    """
    execution = execution_of(batch.view, execution_id)
    if attempt in (batch.leases.get(execution_id), execution.leased or None):
        return execution
    is_stale = 0 < attempt < execution.attempt
    if not is_stale and execution.status in _WAITS_OR_ENDED:
        raise refusal(batch.view, execution, wish)
    raise lost(execution, attempt)


def lost(execution: Execution, attempt: int) -> LeaseLost:
    """Return the error for an attempt that is over."""
    now = f"it is {execution.status}, and attempt {execution.attempt} is the last"
    return LeaseLost(execution.execution_id, attempt, now)


_WAITS_OR_ENDED = frozenset({"waiting", "completed", "failed", "cancelled"})


@answers_repeats(True)
def pause(
    batch: Batch,
    execution_id: str,
    *,
    actor: str,
    reason: str | None = None,
    step_name: str | None = None,
    request: Request = NO_KEY,
) -> bool:
    """Pause an execution; return False if it is paused already.

    Raises:
        UnknownExecution: there is none, or no step of that name.
        ApprovalPending, ExecutionFinal: it waits for an approval, or has ended.
    """
    execution = execution_of(batch.view, execution_id)
    if step_name is not None and execution.newest(step_name) is None:
        raise UnknownExecution(f"{execution_id}, step {step_name}")
    if execution.is_paused:
        return False
    is_gated = batch.view.workflows.open_approval(execution) is not None
    if execution.status not in UNFINISHED or is_gated:
        raise refusal(batch.view, execution, "pause")
    data = with_reason({"execution_id": execution_id}, reason)
    _wait(batch, execution, data, actor, request)
    return True


def park(batch: Batch, execution_id: str, *, reason: str, actor: str) -> bool:
    """Pause an execution that no policy resumes any more; False if it is not idle.

    Raises:
        UnknownExecution: there is none.
    """
    execution = execution_of(batch.view, execution_id)
    if execution.status not in {"pending", "interrupted"}:
        return False
    data: dict[str, object] = {"execution_id": execution_id, "reason": reason}
    _wait(batch, execution, data, actor)
    return True


def _wait(
    batch: Batch,
    execution: Execution,
    data: dict[str, object],
    actor: str,
    request: Request = NO_KEY,
) -> None:
    """Let an execution wait for a person, without its lease."""
    if execution.status == "interrupted":  # or a policy would resume it
        batch.add("execution.resumed", actor, data | {"is_auto": True})
    batch.add("execution.waiting", actor, request.recorded(data))
    release(batch, execution, actor)


def release(batch: Batch, execution: Execution, actor: str) -> None:
    """Give the lease back, if an attempt has it."""
    attempt = batch.leases.get(execution.execution_id, execution.leased)
    if attempt:
        data = {"execution_id": execution.execution_id, "attempt": attempt}
        batch.add("lease.released", actor, data)


def hand_back(batch: Batch, execution_id: str, attempt: int, *, actor: str) -> None:
    """Give the lease of a running attempt back; the execution is interrupted.

    Raises:
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    execution = leased(batch, execution_id, attempt, "release the lease of")
    release(batch, execution, actor)
    abandon(batch, execution, actor)
    data = {"execution_id": execution_id, "attempt": attempt, "reason": "released"}
    batch.add("execution.interrupted", actor, data)


@answers_repeats(True)
def resume(
    batch: Batch,
    execution_id: str,
    *,
    actor: str,
    retry: bool = False,
    is_auto: bool = False,
    reason: str | None = None,
    why_dead: Callable[[Execution], str | None] = lambda _: None,
    request: Request = NO_KEY,
) -> bool:
    """Make an execution pending again; an attempt that is dead is recorded as over.

    Args:
        batch: the write.
        execution_id: the execution.
        actor: who resumes it.
        retry: also a failed or cancelled one.
        is_auto: the worker resumes it by its policy.
        reason: recorded.
        why_dead: returns why a running attempt has no process, None if it has one.
        request: a repeat changes nothing and returns True.

    Raises:
        UnknownExecution: there is none.
        ApprovalPending, ExecutionFinal, IllegalTransition: it is neither paused nor
            interrupted.
    """
    execution = execution_of(batch.view, execution_id)
    data = with_reason({"execution_id": execution_id}, reason)
    if is_auto:
        data["is_auto"] = True
    if (why := why_dead(execution)) is not None:
        expire(batch, execution_id, execution.attempt, actor=actor, reason=why)
    status = batch.state_of("execution", execution_id)
    if status == "waiting" and batch.view.workflows.open_approval(execution) is None:
        batch.add("execution.ready", actor, request.recorded(data))
        return True
    if status == "interrupted" or (retry and status in {"failed", "cancelled"}):
        batch.add("execution.resumed", actor, request.recorded(data))
        return True
    raise refusal(batch.view, execution, "resume")


class End(NamedTuple):
    """How an execution ends.

    Attributes:
        event: ``execution.completed``, ``execution.failed`` or ``execution.cancelled``.
        attempt: of the process that ends it; None if no lease is needed.
        data: more data of the event.
        payload: the result.
    """

    event: str
    wish: str
    attempt: int | None = None
    data: Mapping[str, Any] = {}
    payload: Payload | None = None


@answers_repeats(True)
def end(
    batch: Batch,
    execution_id: str,
    how: End,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> bool:
    """End an execution: its open steps are abandoned, its open approval withdrawn.

    Returns:
        False if it has ended in the same way before.

    Raises:
        UnknownExecution: there is none.
        ExecutionFinal: it has ended in another way.
        LeaseLost, ApprovalPending, ExecutionPaused: as `leased`, for an `attempt`.
    """
    execution = execution_of(batch.view, execution_id)
    if how.event == f"execution.{execution.status}":
        return False
    if execution.status not in UNFINISHED:
        raise refusal(batch.view, execution, how.wish)
    if how.attempt is not None:
        leased(batch, execution_id, how.attempt, how.wish)
    data: dict[str, object] = {"execution_id": execution_id, **how.data}
    if how.attempt is not None:
        data["attempt"] = how.attempt
    if how.payload is None:
        batch.add(how.event, actor, request.recorded(data))
    else:
        data |= how.payload.fields
        batch.add(how.event, actor, request.recorded(data), how.payload.encoded)
    withdraw(batch, execution, actor, how.event)
    abandon(batch, execution, actor)
    release(batch, execution, actor)
    return True


def withdraw(batch: Batch, execution: Execution, actor: str, reason: str) -> None:
    """Withdraw the open approval of an execution, if there is one."""
    approval_id = execution.waiting_on or ""
    if batch.state_of("approval", approval_id) == "pending":
        data = {
            "execution_id": execution.execution_id,
            "approval_id": approval_id,
            "reason": reason,
        }
        batch.add("approval.withdrawn", actor, data)


def clear(batch: Batch, *, before: datetime, trash_until: datetime, actor: str) -> int:
    """Remove executions that ended before a time; return how many.

    Their checkpoints go to the trash, except the current one, the newest one, and
    protected ones.  Their events stay.
    """
    view = batch.view
    found = view.workflows
    old = {
        execution.execution_id: execution
        for execution in found.executions.values()
        if execution.completed_at is not None
        and execution.removed_at is None
        and moment(execution.completed_at) < before
    }
    if not old:
        return 0
    kept = {entry.checkpoint_id for entry in (view.current, view.latest) if entry}
    kept |= {*view.pinned, *view.held, *found.needed()}
    removed = {
        step.checkpoint_id: f"execution {execution.execution_id} is removed"
        for execution in old.values()
        for step in execution.steps
        if step.checkpoint_id in view.checkpoints and step.checkpoint_id not in kept
    }
    data: dict[str, object] = {
        "removed": removed,
        "kept": len(view.checkpoints) - len(removed),
        "policy": {"executions_ended_before": stamp(before)},
        "trash_until": stamp(trash_until),
        "executions": [*old],
    }
    batch.remove("checkpoints.cleaned", actor, data, removed)
    return len(old)
