"""`milepost compact`: free the disk space of deleted states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import (
    Frame,
    command,
    fail_if_empty_option,
    trust_clock_option,
)
from milepost.api.cli.exits import Problem
from milepost.api.cli.progress import Progress
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.targets import Target, complete_job, require_job
from milepost.api.fields.checkpoints import compaction_fields
from milepost.journal.errors import ClockJumped, MilepostError
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from milepost.journal.store.compaction import Compaction

_COLUMNS = ("job_id", "dropped", "bytes_freed", "bytes")


@command("compact", example="milepost compact\nmilepost compact etl-daily")
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option(
    "--rewrap",
    is_flag=True,
    help="Always rewrite, so that the current key wraps every state.",
)
@trust_clock_option
@fail_if_empty_option
def compact_command(
    frame: Frame,
    jobs: tuple[str, ...],
    *,
    rewrap: bool,
    trust_clock: bool,
    fail_if_empty: bool,
) -> Answer:
    """Free the space of deleted states whose trash period has ended.

    Compacts each JOB, or every job.  All events are kept: the journal still
    records the checkpoints, and `verify` still proves it.  A job whose journal
    would not become shorter is skipped, until a deleted state is overdue by 7 days.
    """
    done: list[Compaction] = []
    skipped: list[Compaction] = []
    left_out: list[tuple[str, MilepostError]] = []
    with frame.open_to_write() as manager:
        for job in jobs:
            require_job(manager, Target(job, None))
        wanted = jobs or [info.job_id for info in manager.jobs()]
        with Progress() as progress:
            progress.begin("compacting", len(wanted))
            for job in wanted:
                try:
                    found = manager.compact(
                        job,
                        rewrap=rewrap,
                        trust_clock=trust_clock,
                        on_piece=progress.piece,
                    )
                except MilepostError as exc:
                    if len(wanted) == 1 or isinstance(exc, ClockJumped):
                        raise
                    left_out.append((job, exc))  # continue with the others
                    found = None
                if found is not None:
                    (done if found.growth_bytes is None else skipped).append(found)
                progress.job()
    freed = sum(found.bytes_freed for found in done)
    states = counted(sum(found.dropped for found in done), "state")
    answer = Answer(
        {
            "jobs": [compaction_fields(found) for found in done],
            "bytes_freed": freed,
            "skipped": [compaction_fields(found) for found in skipped],
            "left_out": {job: exc.code for job, exc in left_out},
        },
        Table(_COLUMNS, map(_row, done)),
        (
            *(f"left out job {job}: {exc}" for job, exc in left_out),
            *map(_skip, skipped),
            *[f"dropped {states}, freed {counted(freed, 'byte')}"] * bool(done),
        ),
    )
    if left_out:
        problem = Problem("partly_done", f"jobs that were left out: {len(left_out)}")
        return answer._replace(problem=problem)
    nothing = None if done else "nothing to compact"
    return or_nothing(answer, if_empty=nothing, is_failure=fail_if_empty)


def _row(found: Compaction) -> tuple[object, ...]:
    return found.job_id, found.dropped, found.bytes_freed, found.bytes_after


def _skip(found: Compaction) -> str:
    growth = counted(found.growth_bytes or 0, "byte")
    return f"skipped job {found.job_id}: its journal would grow by {growth}"
