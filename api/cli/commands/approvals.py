"""`milepost approvals`: list what waits for a decision."""

from __future__ import annotations

import sys

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.stores import actor
from milepost.api.cli.targets import Target, complete_job, require_job
from milepost.api.cli.workflows import unreadable, votes

_COLUMNS = (
    "approval_id",
    "job_id",
    "workflow_name",
    "step_name",
    "status",
    "requested_by",
    "requested_at",
    "deadline",
    "approved",
    "approvers",
    "decided_by",
)
_QUIET = frozenset({"step_name", "deadline", "approvers", "decided_by"})
_SPARE = frozenset({"workflow_name", "requested_by", "approvers"})
_STATUSES = ("pending", "approved", "rejected", "expired", "withdrawn", "all")


@command(
    "approvals",
    example="milepost approvals --mine\n"
    "milepost approvals --status all --job etl-daily",
)
@click.option(
    "--status",
    type=click.Choice(_STATUSES),
    metavar="WORD",
    default="pending",
    help="pending (default), approved, rejected, expired, withdrawn, or all.",
)
@click.option("--job", metavar="JOB", shell_complete=complete_job, help="Of this job.")
@click.option("--mine", is_flag=True, help="Only those that you may decide.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Show at most the N oldest."
)
@fail_if_empty_option
def approvals_command(
    frame: Frame,
    *,
    status: str,
    job: str | None,
    limit: int | None,
    mine: bool,
    fail_if_empty: bool,
) -> Answer:
    """List the approvals that wait for a decision, oldest first.

    `milepost approve ID` shows what is decided on, and asks.
    """
    with frame.open() as manager:
        if job is not None:
            require_job(manager, Target(job, None))
        found = manager.approvals(
            status,
            job_id=job,
            approver=actor() if mine else None,
            limit=sys.maxsize if limit is None else limit,
        )
        damaged = unreadable(manager) if job is None else ()
    rows = (
        (
            each.approval_id,
            each.job_id,
            each.workflow_name,
            each.step_name,
            each.status,
            each.requested_by,
            each.requested_at,
            each.deadline,
            votes(each),
            ", ".join(each.approvers),
            each.decided_by,
        )
        for each in found
    )
    listed = [each._asdict() for each in found]
    for fields in listed:
        del fields["subject"]  # lists have none
    data = {"approvals": listed, "total": len(listed)}
    answer = Answer(data, Table(_COLUMNS, rows, _SPARE, _QUIET), damaged)
    nothing = "nothing waits for a decision" if status == "pending" else "no approvals"
    return or_nothing(
        answer, if_empty=None if found else nothing, is_failure=fail_if_empty
    )
