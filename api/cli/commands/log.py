"""The verbs that tell what happened: log, diff."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.context import Frame, fail_if_empty_option, verb
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.selectors import parse_instant, resolve
from milepost.api.cli.targets import (
    Target,
    complete_job,
    job_argument,
    parse_target,
    require_job,
)
from milepost.journal.events.vocabulary import EVENT_TYPES
from milepost.journal.repair.steps import told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milepost.journal.events.vocabulary import Event

_LOG_COLUMNS = ("seq", "at", "type", "actor", "detail")
_DIFF_COLUMNS = ("op", "path", "before", "after")
_CELL_MAX = 80
# 64 hex digits tell a person nothing; --json and the journal itself have them.
_NOT_FOR_PEOPLE = frozenset({"state_digest", "nonce", "store"})


@verb(
    "log",
    example="milepost log etl-daily --reverse --limit 20\n"
    "milepost log etl-daily --type 'checkpoint.*' --since 2026-01-01",
)
@job_argument
@click.option("--reverse", is_flag=True, help="Newest first.")
@click.option("--since", metavar="TIME", help="Only events from this instant on (UTC).")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="GLOB",
    help="Only events of this type, say checkpoint.saved or 'checkpoint.*'.",
)
@click.option("--limit", type=click.IntRange(1), help="Only the newest so many.")
@fail_if_empty_option
def log_verb(
    frame: Frame,
    *,
    job: str,
    since: str | None,
    types: tuple[str, ...],
    limit: int | None,
    reverse: bool,
    fail_if_empty: bool,
) -> Answer:
    """Tell who did what, when and why.

    Every event of JOB, oldest first.
    """
    wanted = _event_types(types)
    earliest = None if since is None else parse_instant(since)
    with frame.open() as manager:
        require_job(manager, Target(job, None))
        newest_first: Iterable[Event] = manager.history(
            job,
            types=wanted,
            # With --since the limit counts what is left of it, so it comes later.
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
        Table(_LOG_COLUMNS, map(_log_row, events)),
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
                "usage", f"no event is a {glob!r}", f"did you mean {near[0]}?"
            )
        wanted |= fitting
    return wanted


def _log_row(event: Event) -> tuple[object, ...]:
    if event["type"] == "job.repaired":
        head = event["seq"], event["at"], event["type"], event["actor"]
        return *head, told(event["data"])
    data: Any = event["data"]
    detail = " ".join(
        f"{name}={_short(value)}"
        for name, value in data.items()
        if name not in _NOT_FOR_PEOPLE
    )
    return event["seq"], event["at"], event["type"], event["actor"], detail


def _short(value: object) -> str:
    if isinstance(value, str):
        text = value
    else:
        import orjson

        text = orjson.dumps(value).decode()
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 1] + "…"


@verb(
    "diff",
    example="milepost diff etl-daily@first etl-daily@latest\n"
    "milepost diff etl-daily@-2 etl-daily",
)
@click.argument("before", metavar="JOB@SELECTOR", shell_complete=complete_job)
@click.argument("after", metavar="JOB[@SELECTOR]", shell_complete=complete_job)
@fail_if_empty_option
def diff_verb(frame: Frame, before: str, after: str, *, fail_if_empty: bool) -> Answer:
    """Show what changed between two states.

    Both are checkpoints of one job; without SELECTOR, the second is the
    current one.
    """
    old, new = parse_target(before), parse_target(after)
    if old.job_id != new.job_id:
        msg = f"{old.job_id!r} and {new.job_id!r} are two jobs; a diff stays within one"
        raise Failure("usage", msg)
    with frame.open() as manager:
        a = resolve(manager, old).checkpoint_id
        b = resolve(manager, new).checkpoint_id
        changes = manager.diff(old.job_id, a, b)
    answer = Answer(
        {
            "job_id": old.job_id,
            "before": a,
            "after": b,
            "changes": [change._asdict() for change in changes],
            "total": len(changes),
        },
        Table(
            _DIFF_COLUMNS,
            (
                (op, path, _side(op != "add", was), _side(op != "remove", now))
                for op, path, was, now in changes
            ),
        ),
    )
    return or_nothing(
        answer, if_empty=None if changes else "no changes", is_failure=fail_if_empty
    )


def _side(is_there: bool, value: object) -> str:
    import orjson

    text = orjson.dumps(value).decode() if is_there else ""
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 1] + "…"
