"""The verbs that free disk space: compact and erase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.context import (
    Frame,
    fail_if_empty_option,
    trust_clock_option,
    verb,
)
from milepost.api.cli.exits import Failure, Problem
from milepost.api.cli.progress import Progress
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.targets import Target, complete_job, job_argument, require_job
from milepost.journal.errors import ClockJumped, MilepostError

if TYPE_CHECKING:
    from milepost.journal.store.compaction import Compaction

_COLUMNS = ("job_id", "dropped", "bytes_freed", "bytes")


@verb("compact", example="milepost compact\nmilepost compact etl-daily")
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option(
    "--rewrap",
    is_flag=True,
    help="Rewrite in any case, so that the current key wraps every state.",
)
@trust_clock_option
@fail_if_empty_option
def compact_verb(
    frame: Frame,
    jobs: tuple[str, ...],
    *,
    rewrap: bool,
    trust_clock: bool,
    fail_if_empty: bool,
) -> Answer:
    """Free the space of deleted states whose trash period has ended.

    Of each JOB, or of every job.  No event goes: the journal still says that
    they existed, and `verify` still proves it.
    """
    done: list[Compaction] = []
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
                    left_out.append((job, exc))  # the others go on
                    found = None
                if found is not None:
                    done.append(found)
                progress.job()
    freed = sum(found.bytes_freed for found in done)
    dropped = sum(found.dropped for found in done)
    answer = Answer(
        {
            "jobs": [_fields(found) for found in done],
            "bytes_freed": freed,
            "left_out": {job: exc.code for job, exc in left_out},
        },
        Table(_COLUMNS, map(_row, done)),
        (
            *(f"left out job {job}: {exc}" for job, exc in left_out),
            *[f"dropped {dropped} states, freed {freed} bytes"] * bool(done),
        ),
    )
    if left_out:
        problem = Problem("partly_done", f"jobs that were left out: {len(left_out)}")
        return answer._replace(problem=problem)
    nothing = None if done else "nothing to compact"
    return or_nothing(answer, if_empty=nothing, is_failure=fail_if_empty)


@verb("erase", example="milepost erase etl-daily --yes --reason 'customer left'")
@job_argument
@click.option(
    "--reason", metavar="TEXT", help="Why; the journal keeps it.", default=None
)
@click.option("--yes", is_flag=True, help="Do it; there is no way back.")
def erase_verb(frame: Frame, job: str, reason: str | None, *, yes: bool) -> Answer:
    """Erase every state of a job, at once and for good.

    The record stays: what was saved when, by whom, and that it was erased.
    """
    with frame.open_to_write() as manager:
        require_job(manager, Target(job, None))
        if not yes:
            count = len(manager.list(job))
            msg = f"would erase {count} checkpoints of job {job!r} for good"
            raise Failure("usage", msg, "--yes does it")
        found = manager.erase(job, reason=reason)
    if found is None:
        msg = f"there is no job {job!r}"
        raise Failure("not_found", msg)
    note = f"erased job {job}: {found.dropped} states, {found.bytes_freed} bytes"
    return Answer(_fields(found), None, (note,))


def _fields(found: Compaction) -> dict[str, Any]:
    return {**found._asdict(), "bytes_freed": found.bytes_freed}


def _row(found: Compaction) -> tuple[object, ...]:
    return found.job_id, found.dropped, found.bytes_freed, found.bytes_after
