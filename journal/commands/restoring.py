"""Record a restore, and what goes on from the restored checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.commands.executions import Workflow, expire, start
from milepost.journal.commands.requests import NO_KEY, Request
from milepost.journal.execution_models import Continuation
from milepost.journal.reading.reader import entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milepost.journal.batch import Batch
    from milepost.journal.commands.executions import Payload
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.index.executions import Execution
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.migrations import Migrated

    # Whether this process runs an execution; raises LeaseLive if another one does.
    RunsHere = Callable[[Execution], bool]


def restore(
    batch: Batch,
    checkpoint_id: str,
    migrated: Migrated,
    *,
    actor: str,
    expected_seq: int | None,
    runs_here: RunsHere,
    resume: Payload | None = None,
    request: Request = NO_KEY,
) -> Continuation | None:
    """Make a checkpoint current, whose state was returned as `migrated`.

    Attempts of dead processes are recorded as expired first.  With `resume`, the
    checkpoint's execution goes on, if it can, or a new one with this initial data
    branches from it.  A repeat of a request changes nothing and returns None.

    Raises:
        Conflict: `expected_seq` is stale.
        UnknownCheckpoint: it was deleted meanwhile.
        LeaseLive: another process runs an execution of the job.
    """
    if request.earlier(batch.view, batch.now) is not None:
        return None
    batch.check_seq(expected_seq)
    entry_of(batch.view, checkpoint_id)
    for execution in [*batch.view.workflows.live.values()]:
        if execution.leased and not runs_here(execution):
            expire(batch, execution.execution_id, execution.attempt, actor=actor)
    owner = execution_with(batch.view, checkpoint_id)
    name = None if owner is None else owner.execution_id
    found = Continuation("restored" if resume is None else "resumed", name)
    if resume is not None and owner is not None:
        found = _continued(batch, owner, checkpoint_id)
    data: dict[str, object] = {"checkpoint_id": checkpoint_id}
    if batch.view.current is not None:
        data["previous"] = batch.view.current.checkpoint_id
    if migrated.from_version is not None and migrated.to_version is not None:
        data["migrated_from"] = migrated.from_version
        data["migrated_to"] = migrated.to_version
    if found.why_not is not None:
        data["not_resumed"] = found.why_not
    batch.add("checkpoint.restored", actor, request.recorded(data))
    if resume is not None and owner is not None:
        _go_on(batch, owner, checkpoint_id, found, resume, actor, request)
    return found


def execution_with(view: JobView, checkpoint_id: str) -> Execution | None:
    """Return the execution that a checkpoint belongs to, if it belongs to one."""
    found = view.workflows
    step = found.steps.get(checkpoint_id)
    return None if step is None else found.executions[step.execution_id]


def _continued(batch: Batch, owner: Execution, checkpoint_id: str) -> Continuation:
    """Return what goes on from a checkpoint of `owner`."""
    name, status = owner.execution_id, batch.state_of("execution", owner.execution_id)
    if status == "waiting":
        approval = batch.view.workflows.open_approval(owner)
        what = "is paused"
        if approval is not None:
            what = f"waits for approval {approval.approval_id}"
        return Continuation("restored", name, f"execution {name} {what}")
    if status == "running":
        return Continuation("restored", name, f"execution {name} runs in this process")
    kept = batch.view.checkpoints
    saved = [s for s in owner.steps if s.checkpoint_id in kept and s.ended_seq]
    latest = max(saved, key=lambda step: step.ended_seq)
    newest = batch.view.workflows.newest_unfinished()
    # The job finds the newest unfinished execution, so an older one cannot go on.
    is_behind = newest is not None and newest.seq > owner.seq
    is_latest = latest.checkpoint_id == checkpoint_id
    if status == "completed" or is_behind or not is_latest:
        return Continuation("branched", ids.new_execution_id())
    return Continuation("resumed", name)


def _go_on(
    batch: Batch,
    owner: Execution,
    checkpoint_id: str,
    found: Continuation,
    resume: Payload,
    actor: str,
    request: Request,
) -> None:
    """Add the event that makes an execution pending, unless it is."""
    status = batch.state_of("execution", owner.execution_id)
    if found.mode == "branched" and found.execution_id is not None:
        workflow = Workflow(
            owner.workflow_name,
            owner.workflow_version,
            {"checkpoint_id": checkpoint_id, "execution_id": owner.execution_id},
        )
        start(
            batch,
            found.execution_id,
            workflow,
            resume,
            actor=actor,
            owner=None,
            refuse_live=lambda _: None,  # refused before
            request=request,
        )
    elif found.mode == "resumed" and status != "pending":
        resumed: dict[str, object] = {"execution_id": owner.execution_id}
        resumed["reason"] = "restored"
        batch.add("execution.resumed", actor, request.recorded(resumed))


def continued(view: JobView, events: Sequence[Event]) -> Continuation:
    """Return what went on, by the events of a request with a resume."""
    first, last = events[0], events[-1]
    assert first["type"] == "checkpoint.restored"
    if last["type"] == "execution.started":
        return Continuation("branched", last["data"]["execution_id"])
    owner = execution_with(view, first["data"]["checkpoint_id"])
    name = None if owner is None else owner.execution_id
    why_not = first["data"].get("not_resumed")
    return Continuation("resumed" if why_not is None else "restored", name, why_not)
