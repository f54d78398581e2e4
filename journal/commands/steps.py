"""Steps and signals of executions.  Pure; see `executions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost.journal import ids
from milepost.journal.commands import approvals, saving
from milepost.journal.commands.executions import (
    End,
    Payload,
    end,
    execution_of,
    leased,
    refusal,
)
from milepost.journal.commands.requests import NO_KEY, Request
from milepost.journal.index.transitions import UNFINISHED

if TYPE_CHECKING:
    from milepost.journal.batch import Batch
    from milepost.journal.commands.approvals import Terms
    from milepost.journal.commands.saving import Draft, IsSavedAs, Saved
    from milepost.journal.index.executions import Execution, Step
    from milepost.journal.states.packer import Packer


class NewStep(NamedTuple):
    """A step that begins; `gate` is the approval that it waits for, if any."""

    name: str
    agent_id: str
    payload: Payload
    gate: Terms | None = None


def create(
    batch: Batch,
    execution_id: str,
    attempt: int,
    step: NewStep,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> str:
    """Begin a step; return its checkpoint id.

    With a gate, the execution waits for the approval of the step's input and gives its
    lease back.

    Raises:
        UnknownExecution, LeaseLost, ApprovalPending, ExecutionPaused, ExecutionFinal:
            the attempt may not write to the execution.
        InvalidArgument: a name is out of bounds.
    """
    if (earlier := request.earlier(batch.view, batch.now)) is not None:
        made = batch.view.workflows.steps.values()
        return next(s.checkpoint_id for s in made if s.seq >= earlier.first)
    execution = leased(batch, execution_id, attempt, "begin a step of")
    checkpoint_id = saving.new_id(batch, step.name)
    data = {
        "execution_id": execution_id,
        "attempt": attempt,
        "checkpoint_id": checkpoint_id,
        "step_name": ids.check_step_name(step.name),
        "agent_id": ids.check_label("agent_id", step.agent_id),
    }
    data = request.recorded(data | step.payload.fields)
    seq = batch.add("checkpoint.created", actor, data, step.payload.encoded)
    if step.gate is not None:
        subject = approvals.Subject(
            str(step.payload.fields["state_digest"]), seq, checkpoint_id
        )
        approvals.ask(batch, execution, subject, step.gate, actor=actor)
    return checkpoint_id


def complete(
    batch: Batch,
    execution_id: str,
    attempt: int,
    step_name: str,
    draft: Draft,
    packer: Packer,
    is_saved_as: IsSavedAs,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> Saved | None:
    """Complete the newest open step of a name with its output; None if there is none.

    A step may be completed while its execution is paused, so that finished work is not
    lost.  None as well while an approval is pending: a gate cannot be passed.

    Raises:
        UnknownExecution, LeaseLost, ExecutionFinal: as `create`.
    """
    execution = execution_of(batch.view, execution_id)
    if (earlier := request.earlier(batch.view, batch.now)) is not None:
        return saving.Saved(_ended_by(batch, earlier.first))
    step = _open(batch, execution, step_name)
    if step is None:
        return None
    _writable(batch, execution, attempt, "complete a step of")
    data = draft.data | {
        "checkpoint_id": step.checkpoint_id,
        "execution_id": execution_id,
        "attempt": attempt or execution.attempt,
    }
    return saving.save(
        batch,
        draft._replace(data=request.recorded(data)),
        packer,
        is_saved_as,
        actor=actor,
        expected_seq=None,
    )


def _ended_by(batch: Batch, seq: int) -> str:
    """Return the step that event `seq` ended, in any execution: for a repeat."""
    steps = batch.view.workflows.steps.values()
    return next(step.checkpoint_id for step in steps if step.ended_seq == seq)


def _open(batch: Batch, execution: Execution, step_name: str) -> Step | None:
    """Return the newest open step of a name whose gate is open, if there is one."""
    step = execution.newest(step_name, "open")
    if step is None or batch.state_of("checkpoint", step.checkpoint_id) != "open":
        return None
    is_gated = batch.view.workflows.open_approval(execution) is not None
    return None if is_gated else step


def _writable(batch: Batch, execution: Execution, attempt: int, wish: str) -> None:
    if not execution.is_paused or attempt not in (0, execution.attempt):
        leased(batch, execution.execution_id, attempt, wish)


class Failure(NamedTuple):
    """A failed step: its error and output, and whether the execution fails with it."""

    error: str
    payload: Payload
    fails_execution: bool = True


def fail(
    batch: Batch,
    execution_id: str,
    attempt: int,
    step_name: str,
    failure: Failure,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> str | None:
    """Fail the newest open step of a name; return its id, None if there is none.

    Raises:
        UnknownExecution, LeaseLost, ExecutionFinal: as `create`.
    """
    execution = execution_of(batch.view, execution_id)
    if (earlier := request.earlier(batch.view, batch.now)) is not None:
        return _ended_by(batch, earlier.first)
    step = _open(batch, execution, step_name)
    if step is None:
        return None
    _writable(batch, execution, attempt, "fail a step of")
    data: dict[str, object] = {
        "execution_id": execution_id,
        "checkpoint_id": step.checkpoint_id,
        "attempt": attempt or execution.attempt,
        "error": failure.error,
    }
    data = request.recorded(data | failure.payload.fields)
    batch.add("checkpoint.failed", actor, data, failure.payload.encoded)
    step_failed = {"reason": "step_failed", "error": failure.error}
    if failure.fails_execution:
        how = End("execution.failed", "fail", data=step_failed)
        end(batch, execution_id, how, actor=actor)
    return step.checkpoint_id


def signal(
    batch: Batch,
    execution_id: str,
    name: str,
    payload: Payload,
    *,
    actor: str,
    request: Request = NO_KEY,
) -> int:
    """Record a signal to an unfinished execution; return its seq.

    It is kept until an attempt consumes it, also if it comes early.

    Raises:
        UnknownExecution: there is none.
        ExecutionFinal: it has ended.
    """
    execution = execution_of(batch.view, execution_id)
    if (earlier := request.admitted(batch)) is not None:
        return earlier.first
    if execution.status not in UNFINISHED:
        raise refusal(batch.view, execution, "signal")
    label = ids.check_label("the name of a signal", name)
    data = {"execution_id": execution_id, "name": label}
    recorded = request.recorded(data | payload.fields)
    seq = batch.add("signal.received", actor, recorded, payload.encoded)
    if execution.awaits == name:
        batch.add("execution.ready", actor, {"execution_id": execution_id})
    return seq


def consume(
    batch: Batch,
    execution_id: str,
    attempt: int,
    name: str,
    *,
    actor: str,
    key: str | None = None,
) -> int | None:
    """Consume the oldest signal of a name; return its seq, None if there is none.

    `key`: of the durable step that waits for it.

    Raises:
        UnknownExecution, LeaseLost, ApprovalPending, ExecutionPaused, ExecutionFinal:
            as `create`.
    """
    execution = leased(batch, execution_id, attempt, "consume a signal of")
    seq = next((seq for seq, known in execution.signals if known == name), None)
    if seq is not None:
        data: dict[str, object] = {
            "execution_id": execution_id,
            "attempt": attempt,
            "name": name,
            "received": seq,
        }
        if key is not None:
            data["key"] = key
        batch.add("signal.consumed", actor, data)
    return seq
