"""Durable steps: results, failed tries, waits, children.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.clock import moment, stamp
from milepost.journal.commands import approvals, saving, steps
from milepost.journal.commands.executions import (
    execution_of,
    leased,
    release,
    start,
)
from milepost.journal.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from milepost.journal.batch import Batch
    from milepost.journal.commands.approvals import Terms
    from milepost.journal.commands.executions import Payload, Workflow
    from milepost.journal.commands.saving import Draft, IsSavedAs, Saved
    from milepost.journal.index.durable import Child
    from milepost.journal.index.executions import Workflows
    from milepost.journal.states.packer import Packer


class Mine(NamedTuple):
    """The attempt of an execution that writes, and who runs it."""

    execution_id: str
    attempt: int
    actor: str


def _data(mine: Mine, key: str) -> dict[str, object]:
    return {"execution_id": mine.execution_id, "attempt": mine.attempt, "key": key}


def begin(batch: Batch, mine: Mine, key: str, child: Child | None = None) -> None:
    """Record that a step begins that must not run twice, or that starts a child.

    Raises:
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    leased(batch, mine.execution_id, mine.attempt, "run a step of")
    data = _data(mine, key)
    if child is not None:
        data |= {"child_job": child.job_id, "on_cancel": child.on_cancel}
    batch.add("step.started", mine.actor, data)


def complete(
    batch: Batch, mine: Mine, key: str, result: Payload, kind: str = "step"
) -> None:
    """Record the result of a step.

    A person may have paused the execution while the step ran, and resumed it: as long
    as no other attempt has begun, the result counts.

    Raises:
        Conflict: it has a result already.
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    execution = execution_of(batch.view, mine.execution_id)
    is_idle = execution.is_paused or execution.status == "pending"
    if not is_idle or execution.attempt != mine.attempt:
        leased(batch, mine.execution_id, mine.attempt, "run a step of")
    if key in execution.durable.recorded:
        raise Conflict(f"step {key!r} of execution {mine.execution_id!r} has a result")
    data = _data(mine, key) | result.fields
    if kind != "step":
        data["kind"] = kind
    batch.add("step.completed", mine.actor, data, result.encoded)


class Failure(NamedTuple):
    """A failed try: its error, how many failed, and what happens next.

    Attributes:
        retry_at: when the next try is due; None: it was the last one.
        waits: the execution waits without a process, for the next try or, after the
            last one, for a person.
    """

    error: str
    tries: int
    retry_at: datetime | None = None
    waits: bool = False


def fail(batch: Batch, mine: Mine, key: str, failure: Failure) -> None:
    """Record a failed try of a step.

    Raises:
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    execution = leased(batch, mine.execution_id, mine.attempt, "run a step of")
    data = _data(mine, key) | {"error": failure.error, "tries": failure.tries}
    if failure.retry_at is not None:
        data["retry_at"] = stamp(failure.retry_at)
    batch.add("step.failed", mine.actor, data)
    if failure.waits and failure.retry_at is not None:
        wait(batch, mine, key, failure.retry_at)
    elif failure.waits:
        reason = f"step {key!r} failed {failure.tries} times: {failure.error}"
        paused = {"execution_id": mine.execution_id, "reason": reason}
        batch.add("execution.waiting", mine.actor, paused)
        release(batch, execution, mine.actor)


def wait(
    batch: Batch,
    mine: Mine,
    key: str,
    until: datetime | None = None,
    signal: str | None = None,
) -> None:
    """Let an execution wait without a process: for a time, a signal or a child.

    Raises:
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    execution = leased(batch, mine.execution_id, mine.attempt, "wait in")
    data: dict[str, object] = {"execution_id": mine.execution_id, "key": key}
    if until is not None:
        data["until"] = stamp(until)
    if signal is not None:
        data["signal"] = signal
    batch.add("execution.waiting", mine.actor, data)
    release(batch, execution, mine.actor)


def receive(
    batch: Batch, mine: Mine, key: str, name: str, until: datetime | None
) -> bool:
    """Consume the oldest signal of a name for a step, or wait; False if it waits.

    One decision: a signal that comes between the two would be waited for.

    Raises:
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    seq = steps.consume(
        batch, mine.execution_id, mine.attempt, name, actor=mine.actor, key=key
    )
    if seq is None and (until is None or batch.now < until):
        wait(batch, mine, key, until, name)
    return seq is not None


def wake(batch: Batch, execution_id: str, *, actor: str, is_over: bool) -> bool:
    """Make an execution pending whose wait is over; False if it is not.

    Args:
        batch: the write.
        execution_id: the execution.
        actor: who noticed it.
        is_over: the child that it waits for has ended.

    Raises:
        UnknownExecution: there is none.
    """
    execution = execution_of(batch.view, execution_id)
    if execution.status != "waiting":
        return False
    due = execution.wake_at
    if not is_over and (due is None or batch.now < moment(due)):
        return False
    data = {"execution_id": execution_id, "is_auto": True}
    batch.add("execution.ready", actor, data)
    return True


def ask(batch: Batch, mine: Mine, key: str, subject: Payload, terms: Terms) -> str:
    """Ask for the decision of a step; return the id of the approval.

    Raises:
        InvalidArgument: the terms cannot be met.
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    wish = "ask for an approval in"
    execution = leased(batch, mine.execution_id, mine.attempt, wish)
    return approvals.ask(batch, execution, subject, terms, actor=mine.actor, key=key)


class Copy(NamedTuple):
    """A result that a fork begins with: its key, what it is of, its state."""

    key: str
    kind: str
    result: Payload


def fork(
    batch: Batch,
    execution_id: str,
    workflow: Workflow,
    payload: Payload,
    copies: Sequence[Copy],
    *,
    actor: str,
) -> str:
    """Start an execution that has results already; return its id.

    Raises:
        Conflict: the job has an unfinished execution of the workflow.
    """

    def refuse(known: Workflows) -> None:
        names = {found.workflow_name for found in known.live.values()}
        if workflow.name in names:
            raise Conflict(
                f"job {batch.view.job_id!r} has an unfinished execution of workflow "
                f"{workflow.name!r}",
                hint="fork it to another job",
            )

    start(
        batch,
        execution_id,
        workflow,
        payload,
        actor=actor,
        owner=None,
        refuse_live=refuse,
    )
    for copy in copies:
        data = {"execution_id": execution_id, "attempt": 0, "key": copy.key}
        if copy.kind != "step":
            data["kind"] = copy.kind
        fields = data | copy.result.fields
        batch.add("step.completed", actor, fields, copy.result.encoded)
    return execution_id


def save(
    batch: Batch, mine: Mine, draft: Draft, packer: Packer, is_saved_as: IsSavedAs
) -> Saved:
    """Save a checkpoint of the job, as an attempt.

    Raises:
        LeaseLost, IllegalTransition, UnknownExecution: as `leased`.
    """
    leased(batch, mine.execution_id, mine.attempt, "save a checkpoint of")
    return saving.save(
        batch, draft, packer, is_saved_as, actor=mine.actor, expected_seq=None
    )
