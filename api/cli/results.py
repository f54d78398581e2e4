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

    `spare` columns are hidden on a narrow terminal, `quiet` ones on any terminal if no
    row has a value there.
    """

    columns: tuple[str, ...]
    rows: Iterable[tuple[object, ...]]
    spare: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()


class Document(NamedTuple):
    """One JSON value, for example a state.

    With `is_exact` a pipe gets the bytes of the store, else the value is indented.
    """

    value: Any
    is_exact: bool = False


class Report(NamedTuple):
    """Lines of text, the same on a terminal and in a pipe."""

    lines: tuple[str, ...]


class JsonLines(NamedTuple):
    """JSON values, one per line, written one by one; also with `--json`."""

    values: Iterable[Any]


class Answer(NamedTuple):
    """One command's result.

    `data` is for `--json`; `shown` goes to stdout without `--json`; `notes` go to
    stderr, `closing` too, after the data.  A `problem` with data means a partial
    result: partly done, nothing to do, damage found.
    """

    data: Any
    shown: Table | Document | Report | JsonLines | str | None = None
    notes: tuple[str, ...] = ()
    problem: Problem | None = None
    closing: tuple[str, ...] = ()


def or_nothing(answer: Answer, *, if_empty: str | None, is_failure: bool) -> Answer:
    """Add the note `if_empty` unless None, or make it the problem if `is_failure`."""
    if if_empty is None:
        return answer
    if is_failure:
        return answer._replace(problem=Problem("nothing_to_do", if_empty))
    return answer._replace(notes=(*answer.notes, if_empty))


def json_cell(value: object) -> str:
    """Return the JSON of a value, shortened to the size of a cell."""
    import orjson

    return short_cell(orjson.dumps(value).decode())


def short_cell(text: str) -> str:
    """Return at most 80 characters of a text, with an ellipsis if it is cut."""
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 1] + "…"
