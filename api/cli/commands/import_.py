"""`milepost import`: import checkpoints of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.api.cli.context import Frame, command, example_text, with_shared_options
from milepost.api.cli.exits import Failure, Problem
from milepost.api.cli.progress import Progress
from milepost.api.cli.results import Answer, Report
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from milepost.journal.importing.importing import Imported

    # A job or a thread, its new checkpoints, and those that were known.
    Count = tuple[str, int, int]


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
    counts = [(job.job_id, job.imported, job.known) for job in done.jobs]
    yield from _counts(counts, done_word)
    for note in done.remarks:
        yield f"note     {note.path}: {note.text}"
    for note in done.skipped:
        yield f"skipped  {note.path}: {note.text}"
    yield _total(counts, done_word, "job", none="no checkpoint files found")


def _counts(counts: list[Count], done_word: str) -> Iterator[str]:
    for name, imported, known in counts:
        also = f", {known:,} already known" if known else ""
        yield f"{name}: {done_word} {counted(imported, 'checkpoint')}{also}"


def _total(counts: list[Count], done_word: str, unit: str, *, none: str) -> str:
    imported = [number for _, number, _ in counts if number]
    if not counts:
        return none
    if not imported:
        return "nothing to import"
    total = counted(sum(imported), "checkpoint")
    return f"{done_word} {total} of {counted(len(imported), unit)}"


@command(
    "langgraph",
    example="milepost import langgraph sqlite:checkpoints.sqlite --dry-run\n"
    "milepost import langgraph postgresql://localhost/agents --store ./checkpoints",
)
@click.argument("source", metavar="SOURCE")
@click.option(
    "--dry-run", is_flag=True, help="Show what would be imported, import nothing."
)
def langgraph_command(frame: Frame, *, source: str, dry_run: bool) -> Answer:
    """Import the threads of LangGraph's SqliteSaver or PostgresSaver.

    SOURCE is sqlite:PATH or postgresql://..., and is never changed.  Each
    thread becomes a job.  Every checkpoint is read back and compared.  A second
    run imports only new checkpoints.  Exit 3 if one differs.
    """
    moving = _moving()
    with frame.open_to_write(may_create=True) as manager, Progress() as progress:
        moved = []
        for thread in moving.move(
            manager,
            source,
            dry_run=dry_run,
            on_begin=lambda threads: progress.begin(
                "importing", threads, unit="thread"
            ),
        ):
            moved.append(thread)
            progress.job()
    notes = [f"{thread.thread_id}: {note}" for thread in moved for note in thread.notes]
    data = {
        "dry_run": dry_run,
        "imported": sum(thread.imported for thread in moved),
        "threads": [thread._asdict() for thread in moved],
    }
    done_word = "would import" if dry_run else "imported"
    counts = [(thread.thread_id, thread.imported, thread.known) for thread in moved]
    total = _total(counts, done_word, "thread", none="no threads found")
    answer = Answer(data, Report((*_counts(counts, done_word), total, *notes)))
    if not notes:
        return answer
    text = f"{counted(len(notes), 'checkpoint')} not as in the source"
    return answer._replace(problem=Problem("partly_done", text))


def _moving() -> ModuleType:
    try:
        from milepost.langgraph import moving
    except ModuleNotFoundError as exc:
        hint = "pip install 'milepost[langgraph]'"
        raise Failure("usage", f"{exc.name} is not installed", hint) from exc
    return moving


import_command.add_command(files_command)
import_command.add_command(langgraph_command)
