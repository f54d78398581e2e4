"""Results of commands, as values.

Only `milepost.api.cli.output` prints, so every command has `--json`, TSV and tables
without code of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.api.cli.exits import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

_CELL_MAX = 80


class Table(NamedTuple):
    """Rows for people (a rich table) and for pipes (TSV with a header).

    `spare` are columns that a narrow terminal does without, `quiet` those that any
    terminal leaves out where no row has anything to say there.
    """

    columns: tuple[str, ...]
    rows: Iterable[tuple[object, ...]]
    spare: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()


class Document(NamedTuple):
    """One JSON value to print as it is, say a state.

    `is_exact` leaves the bytes of a pipe as the store has them; without it the
    value is indented for reading.
    """

    value: Any
    is_exact: bool = False


class Report(NamedTuple):
    """Lines that are read from top to bottom, the same on a terminal and in a pipe."""

    lines: tuple[str, ...]


class JsonLines(NamedTuple):
    """JSON values, one a line, written as they come; also with `--json`."""

    values: Iterable[Any]


class Answer(NamedTuple):
    """One command's result.

    `data` is what `--json` shows; `shown` goes to stdout without `--json`;
    `notes` are talk for stderr, `closing` what comes after the data.  A `problem`
    beside data means "not all of it": partly done, nothing to do, damage found.
    """

    data: Any
    shown: Table | Document | Report | JsonLines | str | None = None
    notes: tuple[str, ...] = ()
    problem: Problem | None = None
    closing: tuple[str, ...] = ()


def or_nothing(answer: Answer, *, if_empty: str | None, is_failure: bool) -> Answer:
    """Say `if_empty`, unless it is None; a failure only where one was asked for."""
    if if_empty is None:
        return answer
    if is_failure:
        return answer._replace(problem=Problem("nothing_to_do", if_empty))
    return answer._replace(notes=(*answer.notes, if_empty))


def json_cell(value: object) -> str:
    """Return the JSON of a value for a cell, shortened."""
    import orjson

    return short_cell(orjson.dumps(value).decode())


def short_cell(text: str) -> str:
    """Return at most 80 characters of a text, with an ellipsis where it is cut."""
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 1] + "…"
