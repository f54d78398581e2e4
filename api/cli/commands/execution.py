"""`milepost execution`: show one execution, and pause, resume, retry or end it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.context import (
    Frame,
    command,
    example_text,
    reason_option,
    with_shared_options,
)
from milepost.api.cli.inputs import object_option
from milepost.api.cli.output import rows_of
from milepost.api.cli.results import Answer, Table
from milepost.api.cli.workflows import owner, pending, refused, status_of, waits_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.manager import CheckpointManager

_ID = click.argument("execution_id", metavar="ID")
_STEP_COLUMNS = (
    "seq",
    "step_name",
    "status",
    "started_at",
    "completed_at",
    "attempt",
    "agent_id",
    "approval",
    "checkpoint_id",
    "error",
)
_STEP_QUIET = frozenset({"approval", "error"})
_STEP_SPARE = frozenset({"agent_id", "completed_at", "attempt"})
_STATUS_ROWS = (
    *("execution_id", "correlation_id", "workflow_name", "workflow_version"),
    *("status", "current_checkpoint", "attempt", "started_by", "started_at"),
    *("changed_at", "completed_at", "waiting_on", "reason", "error"),
)


@with_shared_options
@click.group(
    "execution",
    epilog=example_text(
        "milepost execution status exec_etl-daily\n"
        "milepost execution pause exec_etl-daily --reason 'disk is full'"
    ),
)
def execution_command() -> None:
    """Show or change one execution of a workflow.

    ID is its id, or exec_JOB for the newest unfinished execution of JOB.
    """


@command("status", example="milepost execution status exec_etl-daily")
@_ID
def status_command(frame: Frame, execution_id: str) -> Answer:
    """Show what an execution does, and whom it waits for."""
    with frame.open() as manager:
        status = status_of(manager, execution_id)
        approvals = pending(manager, status["correlation_id"])
    done, of = status["completed_checkpoints"], status["total_checkpoints"]
    rows = [(name, status[name]) for name in _STATUS_ROWS]
    rows += [
        ("steps", f"{done} of {of} completed"),
        ("owner", owner(status)),
        ("waits_for", waits_for(status, approvals)),
    ]
    return Answer(status, rows_of(row for row in rows if row[1] is not None))


@command("history", example="milepost execution history exec_etl-daily")
@_ID
def history_command(frame: Frame, execution_id: str) -> Answer:
    """List the steps of an execution, oldest first.

    --json has their inputs and outputs.
    """
    with frame.open() as manager:
        name = status_of(manager, execution_id)["execution_id"]
        steps = manager.get_checkpoint_history(name)
    rows = (
        (
            step["seq"],
            step["checkpoint_name"],
            step["status"],
            step["started_at"],
            step["completed_at"],
            step["attempt"],
            step["agent_id"],
            step["approval_status"],
            step["checkpoint_id"],
            step["error_details"],
        )
        for step in steps
    )
    data = {"execution_id": name, "steps": steps, "total": len(steps)}
    notes = () if steps else ("no steps yet",)
    return Answer(data, Table(_STEP_COLUMNS, rows, _STEP_SPARE, _STEP_QUIET), notes)


@command(
    "pause", example="milepost execution pause exec_etl-daily --reason 'disk full'"
)
@_ID
@reason_option
def pause_command(frame: Frame, execution_id: str, reason: str | None) -> Answer:
    """Pause an execution.

    The process that runs it may finish its step; its next one is refused.
    """

    def pause(manager: CheckpointManager, status: dict[str, Any]) -> bool:
        name = status["execution_id"]
        if manager.pause_execution(name, reason=reason):
            return bool(status["status"] != "interrupted")
        now = status_of(manager, name)
        if now["status"] != "waiting" or now["pending_approvals"]:
            raise refused(now, "pause")
        return False

    return _changed(frame, execution_id, pause)


@command("cancel", example="milepost execution cancel exec_etl-daily --reason 'wrong'")
@_ID
@reason_option
def cancel_command(frame: Frame, execution_id: str, reason: str | None) -> Answer:
    """Cancel an execution.

    Its open steps are abandoned and its open approval is withdrawn.  The process that
    runs it is refused at its next call.
    """

    def cancel(manager: CheckpointManager, status: dict[str, Any]) -> bool:
        return manager.cancel_execution(status["execution_id"], reason=reason)

    return _changed(frame, execution_id, cancel)


@command(
    "complete",
    example="""milepost execution complete exec_etl-daily --result '{"rows": 7}'""",
)
@_ID
@click.option(
    "--result", metavar="JSON|@FILE|-", help="The result, which is journaled."
)
def complete_command(frame: Frame, execution_id: str, result: str | None) -> Answer:
    """End an execution successfully, if no other process runs it."""
    given = object_option(result, "--result")

    def complete(manager: CheckpointManager, status: dict[str, Any]) -> bool:
        return manager.complete_execution(status["execution_id"], given)

    return _changed(frame, execution_id, complete)


@command(
    "fail",
    example="milepost execution fail exec_etl-daily --reason 'the source is gone'",
)
@_ID
@click.option(
    "--reason", metavar="TEXT", required=True, help="Why, which is journaled."
)
def fail_command(frame: Frame, execution_id: str, reason: str) -> Answer:
    """End an execution as failed.

    Its open steps are abandoned and its open approval is withdrawn.
    """

    def fail(manager: CheckpointManager, status: dict[str, Any]) -> bool:
        return manager.fail_execution(status["execution_id"], reason)

    return _changed(frame, execution_id, fail)


@command("resume", example="milepost execution resume exec_etl-daily")
@_ID
@reason_option
def resume_command(frame: Frame, execution_id: str, reason: str | None) -> Answer:
    """Let a paused or interrupted execution go on.

    The worker or the configured executor starts its job.  An execution that waits for
    an approval goes on when it is decided.
    """
    return _resumed(frame, execution_id, reason, retry=False)


@command(
    "retry",
    example="milepost execution retry exec_etl-daily --reason 'the source is back'",
)
@_ID
@reason_option
def retry_command(frame: Frame, execution_id: str, reason: str | None) -> Answer:
    """Let a failed or cancelled execution go on from its last checkpoint."""
    return _resumed(frame, execution_id, reason, retry=True)


def _resumed(
    frame: Frame, execution_id: str, reason: str | None, *, retry: bool
) -> Answer:
    from milepost.api.cli.starting import hand_over

    manager, settings = frame.open_with_settings()
    with manager:
        name = status_of(manager, execution_id)["execution_id"]
        has_changed = manager.resume_execution(name, retry=retry, reason=reason)
        status = status_of(manager, name)
        if not has_changed and status["status"] not in ("pending", "running"):
            raise refused(status, "retry" if retry else "resume")
        answer = _answer(status, has_changed=has_changed)
        if not has_changed:
            return answer
        handed = hand_over(manager, settings, status)
    return answer._replace(notes=(*answer.notes, handed.note), problem=handed.problem)


def _changed(
    frame: Frame,
    execution_id: str,
    change: Callable[[CheckpointManager, dict[str, Any]], bool],
) -> Answer:
    """Change an execution; `change` gets its status, and returns whether it did."""
    with frame.open_to_write() as manager:
        status = status_of(manager, execution_id)
        has_changed = change(manager, status)
        status = status_of(manager, status["execution_id"])
    return _answer(status, has_changed=has_changed)


def _answer(status: dict[str, Any], *, has_changed: bool) -> Answer:
    word = "paused" if status["waiting_on"] == "paused" else status["status"]
    said = f"is {word}" if has_changed else f"was already {word}"
    note = f"execution {status['execution_id']} {said}"
    return Answer({**status, "changed": has_changed}, None, (note,))


for _command in (
    *(status_command, history_command, pause_command, resume_command),
    *(retry_command, cancel_command, complete_command, fail_command),
):
    execution_command.add_command(_command)
