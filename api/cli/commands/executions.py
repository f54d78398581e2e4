"""`milepost executions`: list executions, and whom they wait for."""

from __future__ import annotations

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.targets import Target, complete_job, require_job
from milepost.api.cli.workflows import owner, pending, unreadable, waits_for
from milepost.journal.execution_models import STATE_OF_EXECUTION

_COLUMNS = (
    "execution_id",
    "job_id",
    "workflow_name",
    "status",
    "step_name",
    "steps",
    "attempt",
    "owner",
    "waits_for",
    "started_at",
    "changed_at",
)
_QUIET = frozenset({"step_name", "owner", "waits_for"})
_SPARE = frozenset(
    {"workflow_name", "steps", "attempt", "owner", "started_at", "changed_at"}
)
_STATES = tuple(dict.fromkeys([*STATE_OF_EXECUTION, *STATE_OF_EXECUTION.values()]))


@command(
    "executions",
    example="milepost executions --state waiting\n"
    "milepost executions --job etl-daily --limit 5",
)
@click.option("--job", metavar="JOB", shell_complete=complete_job, help="Of this job.")
@click.option(
    "--state",
    type=click.Choice(_STATES),
    metavar="WORD",
    help="In this state; paused means waiting or interrupted.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Show at most the N newest ones.",
)
@fail_if_empty_option
def executions_command(
    frame: Frame,
    job: str | None,
    state: str | None,
    limit: int | None,
    *,
    fail_if_empty: bool,
) -> Answer:
    """List executions of workflows, oldest first.

    WORD is pending, running, waiting, interrupted, completed, failed or cancelled;
    "running" includes pending ones.  The column waits_for says what an unfinished one
    needs: a process, the approval of a person, a signal, a time, the end of a child
    job, or a resume.
    """
    with frame.open() as manager:
        if job is not None:
            require_job(manager, Target(job, None))
        found = manager.list_executions(state, job_id=job)
        found = found[-limit:] if limit else found
        approvals = pending(manager, job)
        damaged = unreadable(manager) if job is None else ()
    rows = (
        (
            each["execution_id"],
            each["correlation_id"],
            each["workflow_name"],
            each["status"],
            each["current_checkpoint"],
            f"{each['completed_checkpoints']}/{each['total_checkpoints']}",
            each["attempt"],
            owner(each),
            waits_for(each, approvals),
            each["started_at"],
            each["changed_at"],
        )
        for each in found
    )
    data = {"executions": found, "total": len(found)}
    answer = Answer(data, Table(_COLUMNS, rows, _SPARE, _QUIET), damaged)
    return or_nothing(
        answer, if_empty=None if found else "no executions", is_failure=fail_if_empty
    )
