"""`milepost import`: import checkpoints of other programs (files)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import Frame, command, example_text, with_shared_options
from milepost.api.cli.exits import Problem
from milepost.api.cli.results import Answer, Report
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.importing.importing import Imported


@with_shared_options
@click.group("import", epilog=example_text("milepost import files ./checkpoints"))
def import_command() -> None:
    """Import checkpoints of other programs."""


@command(
    "files",
    example="milepost import files ./checkpoints --dry-run\n"
    "milepost import files old-checkpoints --store ./checkpoints",
)
@click.argument("folder", metavar="DIR")
@click.option(
    "--dry-run", is_flag=True, help="Show what would be imported, import nothing."
)
def files_command(frame: Frame, *, folder: str, dry_run: bool) -> Answer:
    """Import a folder with one JSON file per checkpoint.

    DIR has <job>/<step>_<unix seconds>_<8 characters>.json; it may be the
    store's own folder, and is never changed.  Ids and times are kept.  A second
    run imports only new files.  Exit 3 if a file was skipped.
    """
    with frame.open_to_write(may_create=True) as manager:
        done = manager.import_files(folder, dry_run=dry_run)
    data = {
        "dry_run": dry_run,
        "imported": done.imported,
        "jobs": [job._asdict() for job in done.jobs],
        "skipped": [note._asdict() for note in done.skipped],
        "remarks": [note._asdict() for note in done.remarks],
    }
    done_word = "would import" if dry_run else "imported"
    answer = Answer(data, Report(tuple(_lines(done, done_word))))
    if not done.skipped:
        return answer
    text = f"{counted(len(done.skipped), 'file')} skipped"
    return answer._replace(problem=Problem("partly_done", text))


def _lines(done: Imported, done_word: str) -> Iterator[str]:
    for job in done.jobs:
        known = f", {job.known:,} already known" if job.known else ""
        yield f"{job.job_id}: {done_word} {counted(job.imported, 'checkpoint')}{known}"
    for note in done.remarks:
        yield f"note     {note.path}: {note.text}"
    for note in done.skipped:
        yield f"skipped  {note.path}: {note.text}"
    if not done.jobs:
        yield "no checkpoint files found"
    elif not done.imported:
        yield "nothing to import"
    else:
        jobs = counted(sum(job.imported > 0 for job in done.jobs), "job")
        yield f"{done_word} {counted(done.imported, 'checkpoint')} of {jobs}"


import_command.add_command(files_command)
