"""`milepost log`: show the event history of a job."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.context import Frame, command, fail_if_empty_option
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer, Table, json_cell, or_nothing, short_cell
from milepost.api.cli.selectors import parse_instant
from milepost.api.cli.targets import Target, job_argument, require_job
from milepost.journal.events.vocabulary import EVENT_TYPES
from milepost.journal.recovery.steps import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milepost.journal.events.vocabulary import Event

_COLUMNS = ("seq", "at", "type", "actor", "detail")
# Hashes are of no use to a reader; --json has them.
_NOT_FOR_PEOPLE = frozenset({"state_digest", "nonce", "store"})


@command(
    "log",
    example="milepost log etl-daily --reverse --limit 20\n"
    "milepost log etl-daily --type 'checkpoint.*' --since 2026-01-01",
)
@job_argument
@click.option("--reverse", is_flag=True, help="Newest first.")
@click.option(
    "--since", metavar="TIME", help="Only events at or after this time (UTC)."
)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="GLOB",
    help="Only events of this type: checkpoint.saved, 'checkpoint.*'.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Show at most the N newest events.",
)
@fail_if_empty_option
def log_command(
    frame: Frame,
    *,
    job: str,
    since: str | None,
    types: tuple[str, ...],
    limit: int | None,
    reverse: bool,
    fail_if_empty: bool,
) -> Answer:
    """Show a job's event history, oldest first."""
    wanted = _event_types(types)
    earliest = None if since is None else parse_instant(since)
    with frame.open() as manager:
        require_job(manager, Target(job, None))
        newest_first: Iterable[Event] = manager.history(
            job,
            types=wanted,
            # With --since the limit applies after the filter.
            limit=limit if earliest is None else None,
            reverse=True,
        )
    if earliest is not None:
        newest_first = (e for e in newest_first if parse_instant(e["at"]) >= earliest)
    events = list(islice(newest_first, limit))
    if not reverse:
        events.reverse()
    answer = Answer(
        {"job_id": job, "events": events, "total": len(events)},
        Table(_COLUMNS, map(_log_row, events)),
    )
    return or_nothing(
        answer, if_empty=None if events else "no such events", is_failure=fail_if_empty
    )


def _event_types(globs: tuple[str, ...]) -> set[str] | None:
    if not globs:
        return None
    wanted: set[str] = set()
    for glob in globs:
        fitting = {name for name in EVENT_TYPES if fnmatchcase(name, glob)}
        if not fitting:
            from difflib import get_close_matches

            near = get_close_matches(glob, EVENT_TYPES, n=1, cutoff=0.0)
            raise Failure(
                "usage", f"no event type matches {glob!r}", f"did you mean {near[0]}?"
            )
        wanted |= fitting
    return wanted


def _log_row(event: Event) -> tuple[object, ...]:
    if event["type"] == "job.repaired":
        head = event["seq"], event["at"], event["type"], event["actor"]
        return *head, in_words(event["data"])
    data: Any = event["data"]
    detail = " ".join(
        f"{name}={_cell(value)}"
        for name, value in data.items()
        if name not in _NOT_FOR_PEOPLE
    )
    return event["seq"], event["at"], event["type"], event["actor"], detail


def _cell(value: object) -> str:
    return short_cell(value) if isinstance(value, str) else json_cell(value)
