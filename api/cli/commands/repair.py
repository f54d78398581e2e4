"""`milepost repair`: repair a damaged job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.commands.doctor import fields_of, job_lines
from milepost.api.cli.context import Frame, command
from milepost.api.cli.exits import Failure, Problem
from milepost.api.cli.results import Answer, Report
from milepost.api.cli.targets import job_argument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.recovery.steps import Repair


@command(
    "repair",
    example="milepost repair --dry-run etl-daily\n"
    "milepost repair --accept-loss etl-daily",
)
@job_argument
@click.option("--dry-run", is_flag=True, help="Show the steps, change nothing.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Accept the loss of acknowledged events or states.",
)
def repair_command(
    frame: Frame, job: str, *, dry_run: bool, accept_loss: bool
) -> Answer:
    """Repair a job that `milepost doctor` reports as damaged.

    Without --accept-loss it makes only repairs that lose nothing.  With it a damaged
    journal is cut after its last proven event; the cut bytes are kept in salvage/,
    and the journal records the loss and who accepted it.
    """
    with frame.open_to_write() as manager:
        if not manager.diagnose(job):
            hint = "`milepost doctor` checks all jobs"
            raise Failure("not_found", f"no job {job!r} in {manager.root}", hint)
        done = manager.repair(job, accept_loss=accept_loss, dry_run=dry_run)
    answer = Answer(
        {
            "job_id": job,
            "dry_run": dry_run,
            "before": fields_of(done.before),
            "steps": [
                {"text": step.would if dry_run else step.did, "is_lossy": step.is_lossy}
                for step in done.steps
            ],
            "after": None if done.after is None else fields_of(done.after),
        },
        Report(tuple(_lines(done))),
    )
    return answer._replace(problem=_problem(done, accept_loss=accept_loss))


def _lines(done: Repair) -> Iterator[str]:
    yield from job_lines(done.before, with_advice=not done.steps)
    if not done.steps:
        yield "nothing to do"
        return
    for step in done.steps:
        yield f"  {step.would if done.after is None else step.did}"
    if done.after is not None:
        yield from job_lines(done.after)


def _problem(done: Repair, *, accept_loss: bool) -> Problem | None:
    if done.after is not None and not done.after.ok:
        return Problem("damaged", f"job {done.job_id!r}: {done.after.message}")
    if done.after is None and done.is_lossy and not accept_loss:
        return Problem(
            "loss_not_accepted",
            "this needs --accept-loss",
            "a backup may have more",
        )
    return None
