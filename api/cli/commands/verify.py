"""`milepost verify`: verify the hash chains of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.exits import Problem
from milepost.api.cli.progress import Progress
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.targets import Target, complete_job, require_job
from milepost.api.fields.checkpoints import problem_fields
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from milepost.journal.models import JobReport

_COLUMNS = ("job_id", "ok", "events", "checkpoints", "head_hash", "problem")


@command("verify", example="milepost verify\nmilepost verify etl-daily --deep")
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option("--deep", is_flag=True, help="Read every state, not only events.")
@fail_if_empty_option
def verify_command(
    frame: Frame, jobs: tuple[str, ...], *, deep: bool, fail_if_empty: bool
) -> Answer:
    """Verify that no journal was damaged or changed.

    Checks the hash chain of each JOB, or of every job; exit 7 if one is damaged.
    """
    with frame.open() as manager:
        for job in jobs:
            require_job(manager, Target(job, None))
        reports: list[JobReport] = []
        wanted = jobs or manager.job_ids()
        with Progress() as progress:
            progress.begin("verifying", len(wanted))
            for job in wanted:
                reports += manager.verify(job, deep=deep, on_piece=progress.piece)
                progress.job()
    bad = [report for report in reports if not report.ok]
    said = [str(report.problem) for report in bad]
    said += [f"job {r.job_id!r}: {note}" for r in reports for note in r.notes]
    answer = Answer(
        {
            "jobs": [_fields(report) for report in reports],
            "total": len(reports),
            "damaged": len(bad),
        },
        Table(_COLUMNS, map(_row, reports)),
        tuple(said),
    )
    if bad:
        return answer._replace(problem=_verdict(bad, len(reports)))
    nothing = None if reports else "no jobs to verify"
    return or_nothing(answer, if_empty=nothing, is_failure=fail_if_empty)


def _verdict(bad: list[JobReport], total: int) -> Problem:
    count = f"{len(bad)} of {counted(total, 'job')} failed verification"
    first = bad[0].problem
    return Problem("damaged", count, first.hint if first else None)


def _fields(report: JobReport) -> dict[str, Any]:
    return {
        **report._asdict(),
        "problem": report.problem and problem_fields(report.problem, hint=True),
        "notes": list(report.notes),
    }


def _row(report: JobReport) -> tuple[object, ...]:
    return (
        report.job_id,
        report.ok,
        report.events,
        report.checkpoints,
        report.head_hash,
        report.problem and report.problem.code,
    )
