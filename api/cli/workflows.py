"""What the commands of workflows share: finding an execution, and whom it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost.api.cli.exits import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.journal.execution_models import ApprovalInfo
    from milepost.journal.manager import CheckpointManager

_PREFIX = "exec_"


def status_of(manager: CheckpointManager, execution_id: str) -> dict[str, Any]:
    """Return the status of an execution, which may be named ``exec_<job id>``.

    Raises:
        Failure: unknown_execution.
    """
    found = manager.get_execution_status(execution_id)
    if found is not None:
        return found
    hint = "`milepost executions` lists them"
    job_id = execution_id.removeprefix(_PREFIX)
    if job_id not in ("", execution_id) and manager.seq(job_id):
        # The alias names an unfinished one, and the job may have none.
        hint = f"unfinished or not: milepost executions --job {job_id}"
    msg = f"no execution {execution_id!r:.120} in {manager.root}"
    raise Failure("unknown_execution", msg, hint)


def refused(status: Mapping[str, Any], wish: str) -> Failure:
    """Return why an execution with this status cannot be paused or resumed."""
    name, word = status["execution_id"], status["status"]
    refusal = f"cannot {wish} execution {name}: it"
    if word == "waiting" and not status["pending_approvals"]:
        hint = f"it goes on by itself, or milepost execution cancel {name}"
        return Failure(
            "execution_paused", f"{refusal} waits for {waits_for(status, {})}", hint
        )
    if word == "waiting":
        approval = status["waiting_on"]
        hint = f"milepost approve {approval}, or milepost execution cancel {name}"
        return Failure(
            "approval_pending", f"{refusal} waits for approval {approval}", hint
        )
    hint = f"milepost execution retry {name}"
    if word == "completed":
        hint = "`milepost run` starts another one"
    return Failure("execution_final", f"{refusal} is {word}", hint)


def is_orphan(status: Mapping[str, Any]) -> bool:
    """Return whether an execution lost its process, and no event says so yet."""
    return status["status"] == "interrupted" and status["lease"] is not None


def owner(status: Mapping[str, Any]) -> str | None:
    """Return the process that runs an execution, None if none does."""
    lease = status["lease"]
    if lease is None:
        return None
    has_died = "" if lease["is_live"] else ", which ended"
    return f"process {lease['pid']} on {lease['host']}{has_died}"


def waits_for(
    status: Mapping[str, Any], approvals: Mapping[str, ApprovalInfo]
) -> str | None:
    """Return whom or what an execution waits for, None if it runs or has ended.

    `approvals` are the pending ones, by id.
    """
    match status["status"]:
        case "pending":
            return "a process"
        case "interrupted":
            return "a resume"
        case "waiting":
            return _waits(status, approvals.get(status["waiting_on"] or ""))
    return None


def _waits(status: Mapping[str, Any], approval: ApprovalInfo | None) -> str:
    """Return what a waiting execution waits for."""
    if approval is not None:
        return f"approval of {voters(approval)}"
    if status["waiting_child"] is not None:
        return f"child job {status['waiting_child']}"
    until = status["waiting_until"] and f"until {status['waiting_until']}"
    if status["waiting_signal"] is not None:
        return " ".join(filter(None, (f'signal "{status["waiting_signal"]}"', until)))
    if until:
        return str(until)
    return "a resume" + (f" (paused: {status['reason']})" if status["reason"] else "")


def voters(approval: ApprovalInfo) -> str:
    """Return who may decide, and how many have approved."""
    who = ", ".join(approval.approvers) or "anybody"
    return f"{who} ({votes(approval)})"


def votes(approval: ApprovalInfo) -> str:
    """Return the votes so far and those required, as ``1/2``."""
    return f"{len(approval.votes)}/{approval.required}"


def pending(
    manager: CheckpointManager, job_id: str | None = None
) -> dict[str, ApprovalInfo]:
    """Return the pending approvals by id."""
    found = manager.approvals(job_id=job_id)
    return {approval.approval_id: approval for approval in found}


def unreadable(manager: CheckpointManager) -> tuple[str, ...]:
    """Return a note for each damaged job: its executions are not listed."""
    return tuple(str(job.damage) for job in manager.jobs() if job.damage)


def approval_of(manager: CheckpointManager, approval_id: str) -> ApprovalInfo:
    """Return an approval with its subject.

    Raises:
        Failure: unknown_approval.
        UnreadableState: its subject can't be read.
    """
    from milepost.journal.errors import UnknownApproval

    try:
        return manager.get_approval(approval_id)
    except UnknownApproval as exc:
        msg = f"no approval {approval_id!r:.120} in {manager.root}"
        raise Failure(exc.code, msg, "`milepost approvals` lists them") from exc
