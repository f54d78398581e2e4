"""Queries about executions, their steps and approvals; they never write."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal import ids
from milepost.journal.clock import moment, stamped
from milepost.journal.errors import (
    InvalidArgument,
    MilepostError,
    UnknownApproval,
    UnknownExecution,
    UnreadableState,
)
from milepost.journal.execution_models import (
    DECISION_OF,
    STATE_OF_EXECUTION,
    STATE_OF_STEP,
    ApprovalInfo,
    StepRecord,
)
from milepost.journal.index.executions import Workflows, objection
from milepost.journal.states import delta_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from milepost.journal.index.executions import Approval, Execution, Step
    from milepost.journal.index.job_view import JobView
    from milepost.journal.reading.reader import Reader


class Place(NamedTuple):
    """The place of an execution or an approval in lists, oldest first."""

    at: str
    job_id: str
    seq: int


FIRST = Place("", "", 0)  # before every other


class Directory:
    """Finds the job of an execution or of an approval by its id.

    Jobs are searched once; the answer never changes.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._jobs: dict[str, str] = {}

    def learn(self, id_: str, job_id: str) -> None:
        """Remember the job of an execution or an approval."""
        self._jobs[id_] = job_id

    def execution(self, execution_id: str) -> tuple[str, str]:
        """Return the job and the id of an execution, which may be named by its job.

        ``exec_<job id>`` names the job's newest unfinished execution.

        Raises:
            UnknownExecution: there is none.
        """
        if ids.is_new_form(ids.EXECUTION, execution_id):
            return self._job_of(execution_id, _has_execution), execution_id
        job_id = execution_id.removeprefix(ids.EXECUTION)
        if not job_id or job_id == execution_id:
            raise UnknownExecution(execution_id)
        newest = self._reader.view(job_id).workflows.newest_unfinished()
        if newest is None:
            raise UnknownExecution(execution_id)
        return job_id, newest.execution_id

    def approval(self, approval_id: str) -> str:
        """Return the job of an approval.

        Raises:
            UnknownApproval: there is none.
        """
        if ids.is_new_form(ids.APPROVAL, approval_id):
            try:
                return self._job_of(approval_id, _has_approval)
            except UnknownExecution:
                pass
        raise UnknownApproval(approval_id)

    def _job_of(self, id_: str, has: Callable[[Workflows, str], bool]) -> str:
        if (known := self._jobs.get(id_)) is not None:
            return known
        for view in self._reader.store.having(lambda view: has(view.workflows, id_)):
            self.learn(id_, view.job_id)
            return view.job_id
        raise UnknownExecution(id_)


def _has_execution(found: Workflows, id_: str) -> bool:
    return id_ in found.executions


def _has_approval(found: Workflows, id_: str) -> bool:
    return id_ in found.approvals


def shown(view: JobView) -> Iterator[Execution]:
    """Yield the executions of a job that were not removed, oldest first."""
    for execution in view.workflows.executions.values():
        if execution.removed_at is None:
            yield execution


def jobs_with_executions(reader: Reader, job_id: str | None) -> Iterator[JobView]:
    """Yield the jobs that have executions, by id; damaged ones are left out (I10)."""
    for name in reader.job_ids() if job_id is None else [job_id]:
        try:
            view = reader.view(name)
        except MilepostError:
            if job_id is not None:
                raise
            continue
        if view.workflows.executions:
            yield view


def status(view: JobView, execution: Execution, word: str) -> dict[str, Any]:
    """Return an execution as plain JSON, with its exact status `word`.

    Durable steps count as steps.
    """
    steps, durable = execution.steps, execution.durable
    words = Counter(step.status for step in steps)
    begun = {*durable.tries, *durable.begun} - durable.recorded.keys()
    return {
        "execution_id": execution.execution_id,
        "correlation_id": view.job_id,
        "workflow_name": execution.workflow_name,
        "state": STATE_OF_EXECUTION[word],
        "current_checkpoint": execution.current_step,
        "started_at": stamped(execution.started_at),
        "completed_at": _stamped_if(execution.completed_at),
        "total_checkpoints": len(steps) + len(durable.recorded) + len(begun),
        "completed_checkpoints": words["completed"] + len(durable.recorded),
        "failed_checkpoints": words["failed"] + words["abandoned"] + len(durable.tries),
        "pending_approvals": int(view.workflows.open_approval(execution) is not None),
        "status": word,
        "workflow_version": execution.workflow_version,
        "attempt": execution.attempt,
        "seq": execution.changed_seq,
        "waiting_on": execution.waiting_on,
        "waiting_until": _stamped_if(execution.wake_at),
        "waiting_signal": execution.awaits,
        "waiting_child": awaited_job(execution),
        "reason": execution.reason,
        "error": execution.error,
        "started_by": execution.started_by,
        "branched_from": execution.branched_from,
        "changed_at": stamped(execution.changed_at),
        "lease": _lease(execution),
    }


def awaited_job(execution: Execution) -> str | None:
    """Return the job of the child that an execution waits for, if it does."""
    child = execution.durable.children.get(execution.waiting_on or "")
    return None if child is None else child.job_id


def _lease(execution: Execution) -> dict[str, Any] | None:
    if not execution.leased:
        return None
    return {"attempt": execution.leased, **execution.owner}


def wanted(state_filter: object) -> set[str] | None:
    """Return the statuses that a filter names, by old or rich words; None: all.

    Raises:
        InvalidArgument: it is no such word.
    """
    if state_filter is None:
        return None
    word = str(getattr(state_filter, "value", state_filter))
    found = {rich for rich, old in STATE_OF_EXECUTION.items() if word in (rich, old)}
    if not found:
        words = sorted({*STATE_OF_EXECUTION, *STATE_OF_EXECUTION.values()})
        raise InvalidArgument(
            f"state must be one of {', '.join(words)}, got {word!r:.60}"
        )
    return found


def payload(reader: Reader, view: JobView, seq: int) -> dict[str, Any]:
    """Return the state of an event that saves no checkpoint, verified.

    Raises:
        UnreadableState: it was purged, or differs from what was written.
    """
    if (fault := view.faults.get(seq)) is not None:
        raise UnreadableState(f"the state of event {seq} was removed: {fault}")
    return delta_chain.open_state(seq, partial(reader.read, view)).state


def payload_if(
    reader: Reader, view: JobView, seq: int
) -> tuple[dict[str, Any] | None, str | None]:
    """Return a payload, or None and the reason."""
    if not seq:
        return None, None
    try:
        return payload(reader, view, seq), None
    except UnreadableState as exc:
        return None, str(exc)


def step_fields(
    reader: Reader, view: JobView, execution: Execution, step: Step
) -> dict[str, Any]:
    """Return the fields of a `CheckpointExecution`, and its `problem`."""
    approvals = view.workflows.approvals
    approval = approvals.get(step.approval_id or "")
    given, problem = payload_if(reader, view, step.seq)
    output, why = payload_if(reader, view, step.ended_seq if _has_output(step) else 0)
    is_waiting = step.status == "open" and (
        (approval is not None and approval.status == "pending")
        or (execution.is_paused and execution.current_step == step.name)
    )
    return {
        "checkpoint_name": step.name,
        "agent_id": step.agent_id,
        "correlation_id": view.job_id,
        "state": STATE_OF_STEP["waiting" if is_waiting else step.status],
        "started_at": moment(step.started_at),
        "completed_at": step.completed_at and moment(step.completed_at),
        "input_data": given,
        "output_data": output,
        "error_details": step.error or _abandoned(step),
        "approval_required": approval is not None,
        "approval_status": approval and DECISION_OF[approval.status],
        "metadata": {},
        "problem": problem or why,
    }


def durable_steps(
    reader: Reader, view: JobView, execution: Execution
) -> list[StepRecord]:
    """Return the durable steps of an execution, each as it was last recorded."""
    found: dict[str, StepRecord] = {}
    for event in reader.store.history(view, execution.seq - 1):
        word = _RECORDS.get(event["type"])
        data: Mapping[str, Any] = event["data"]
        if word is None or data.get("execution_id") != execution.execution_id:
            continue
        if (key := data.get("key")) is None:
            continue  # a signal that was consumed by hand
        before = found.pop(key, None)
        kind = "signal" if event["type"] == "signal.consumed" else "step"
        found[key] = StepRecord(
            key,
            word,
            data.get("kind", kind),
            data["attempt"],
            data.get("tries", 0 if before is None else before.tries),
            data.get("error"),
            stamped(event["at"]),
            event["seq"],
        )
    return [*found.values()]


_RECORDS = {
    "step.started": "started",
    "step.completed": "completed",
    "step.failed": "failed",
    "signal.consumed": "completed",
}


def _has_output(step: Step) -> bool:
    return step.status in ("completed", "failed")


def _abandoned(step: Step) -> str | None:
    return "its attempt ended" if step.status == "abandoned" else None


def steps(reader: Reader, view: JobView, execution_id: str) -> list[dict[str, Any]]:
    """Return the steps of an execution as plain JSON, oldest first."""
    execution = view.workflows.executions[execution_id]
    found = []
    for step in execution.steps:
        known = step_fields(reader, view, execution, step)
        known["started_at"] = stamped(step.started_at)
        known["completed_at"] = _stamped_if(step.completed_at)
        known |= {
            "checkpoint_id": step.checkpoint_id,
            "seq": step.seq,
            "attempt": step.attempt,
            "status": step.status,
            "approval_id": step.approval_id,
        }
        found.append(known)
    return found


def snapshot(reader: Reader, view: JobView, execution_id: str) -> dict[str, Any]:
    """Return what an execution has done: its initial data and its outputs, by step.

    Of steps of one name, the last completed one counts.  A purged payload is None.
    """
    execution = view.workflows.executions[execution_id]
    done = {s.name: s.ended_seq for s in execution.steps if s.status == "completed"}
    return {
        "execution_id": execution_id,
        "workflow_name": execution.workflow_name,
        "data": payload_if(reader, view, execution.seq)[0],
        "outputs": {
            name: payload_if(reader, view, seq)[0] for name, seq in done.items()
        },
    }


def execution_fields(
    reader: Reader,
    view: JobView,
    execution: Execution,
    word: str,
    step_of: Callable[[Step], Any],
) -> dict[str, Any]:
    """Return the fields of a `WorkflowExecution` with the exact status `word`."""
    return {
        "execution_id": execution.execution_id,
        "correlation_id": view.job_id,
        "workflow_name": execution.workflow_name,
        "started_at": moment(execution.started_at),
        "current_checkpoint": execution.current_step,
        "state": STATE_OF_EXECUTION[word],
        "checkpoints": [step_of(step) for step in execution.steps],
        "global_data": payload_if(reader, view, execution.seq)[0],
        "completed_at": execution.completed_at and moment(execution.completed_at),
    }


def approval_info(
    view: JobView, approval: Approval, subject: dict[str, Any] | None = None
) -> ApprovalInfo:
    """Return an approval as plain JSON."""
    found = view.workflows
    step = found.steps.get(approval.checkpoint_id or "")
    ended = approval.ended
    return ApprovalInfo(
        approval.approval_id,
        view.job_id,
        approval.execution_id,
        found.executions[approval.execution_id].workflow_name,
        approval.step_key if step is None else step.name,
        approval.checkpoint_id,
        approval.status,
        stamped(approval.requested_at),
        approval.requested_by,
        approval.digest,
        approval.approvers,
        approval.required,
        approval.allow_self,
        approval.deadline,
        approval.on_timeout,
        approval.on_reject,
        tuple(vote.actor for vote in approval.votes),
        _stamped_if(ended and ended.at),
        ended and ended.actor,
        ended and ended.comment,
        subject,
    )


def approvals(
    reader: Reader,
    *,
    status: str,
    job_id: str | None,
    approver: str | None,
    limit: int,
    after: Place,
) -> list[ApprovalInfo]:
    """Return approvals, oldest first: of one status, one job, one approver.

    `approver` leaves out those that this actor may not decide.

    Raises:
        InvalidArgument: there is no such status.
    """
    if status != "all" and status not in DECISION_OF:
        words = ", ".join(["all", *DECISION_OF])
        raise InvalidArgument(f"status must be one of {words}, got {status!r:.60}")
    found: list[tuple[Place, ApprovalInfo]] = []
    for view in jobs_with_executions(reader, job_id):
        for approval in view.workflows.approvals.values():
            execution = view.workflows.executions[approval.execution_id]
            if status not in ("all", approval.status):
                continue
            if execution.removed_at is not None:
                continue
            place = Place(approval.requested_at, view.job_id, approval.seq)
            if place <= after:
                continue
            if approver is None or objection(approval, execution, approver) is None:
                found.append((place, approval_info(view, approval)))
    return [info for _, info in sorted(found)[:limit]]


def _stamped_if(at: str | None) -> str | None:
    return None if at is None else stamped(at)
