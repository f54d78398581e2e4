r"""Printing: data to stdout, messages to stderr, without control characters.

| stdout is | a table is printed as | a document as |
|---|---|---|
| anything, with `--json` | one object `{ok, data, error}` | the same |
| a terminal | a rich table | indented JSON |
| a pipe or a file | TSV with a header | indented, or exact bytes |

Names are untrusted: a step called `\x1b]0;…` must not set a window title, so
unprintable characters are printed as escapes.  TSV cells are for reading; programs that
need the exact name use `--json`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from itertools import compress
from typing import TYPE_CHECKING, Any, TextIO

from milepost.api.cli.exits import Exit, Failure, Problem
from milepost.api.cli.results import Answer, Document, JsonLines, Report, Table

if TYPE_CHECKING:
    from collections.abc import Iterable

_NOTHING = (None, False, "")
# A terminal of at least this width shows all columns of a table.
_WIDE = 110


class Unwritable(Failure):
    """Stdout can't be written, so the problem is reported on stderr only."""


def visible(text: str) -> str:
    r"""Return `text` with unprintable characters as Python escapes (`\x1b`, `\n`)."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def visible_json(text: str) -> str:
    """Return JSON `text` with unprintable characters as JSON escapes.

    In JSON they occur only within strings, so the parsed value is unchanged.  Line
    breaks of the layout stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else _json_escape(char)
        for char in text
    )


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
    return "".join(rf"\u{unit}" for unit in pairs)


def report(answer: Answer, *, as_json: bool) -> Exit:
    """Print `answer` and return its exit code."""
    for note in answer.notes:
        say(note)
    problem = answer.problem
    if isinstance(answer.shown, JsonLines):
        _write_lines(answer.shown)
    elif as_json:
        _write_json({"ok": problem is None, "data": answer.data}, problem)
    else:
        _show(answer.shown)
    for line in answer.closing:
        say(line)
    if problem is not None and not as_json:
        say(one_line(problem))
    return Exit.OK if problem is None else problem.exit


def report_problem(problem: Problem, *, as_json: bool) -> Exit:
    """Print a problem and return its exit code."""
    if as_json:
        _write_json({"ok": False, "data": None}, problem)
    else:
        say(one_line(problem))
    return problem.exit


def one_line(problem: Problem) -> str:
    """Return the problem as one line of text, with its hint."""
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"milepost: {problem.message}{hint}"


def say(text: str) -> None:
    """Print one line to stderr; ignore it if stderr can't be written."""
    if sys.stderr is not None:
        with suppress(OSError):
            _write(sys.stderr, visible(text) + "\n")


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def prepare_streams() -> None:
    """Make stdout and stderr take any text.

    An argument that is not UTF-8 becomes lone surrogates; printing an error about it
    must not fail.  Data in a pipe is UTF-8 in every locale.
    """
    for stream in (sys.stdout, sys.stderr):
        # Tests and embedders replace the streams by objects that need no preparation.
        if (reconfigure := getattr(stream, "reconfigure", None)) is None:
            continue
        if stream.isatty():
            reconfigure(errors="backslashreplace")
        else:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def _write_lines(lines: JsonLines) -> None:
    """Write each value as soon as it is available, until the reader closes."""
    import orjson

    for value in lines.values:
        text = orjson.dumps(value).decode()
        if not _write_data((visible_json(text) if is_terminal() else text) + "\n"):
            return


def _show(shown: Table | Document | Report | str | None) -> None:
    match shown:
        case None:
            return
        case str():
            text = visible(shown) + "\n"
        case Report():
            text = "".join(f"{visible(line)}\n" for line in shown.lines)
        case Document():
            text = _document_text(shown)
        case Table() if is_terminal():
            _draw(shown)
            return
        case Table():
            text = _tsv(shown)
    _write_data(text)


def _document_text(document: Document) -> str:
    import orjson

    if is_terminal():
        indented = orjson.dumps(document.value, option=orjson.OPT_INDENT_2)
        return visible_json(indented.decode()) + "\n"
    option = 0 if document.is_exact else orjson.OPT_INDENT_2
    return orjson.dumps(document.value, option=option).decode() + "\n"


def _tsv(table: Table) -> str:
    lines = ["\t".join(table.columns)]
    lines.extend("\t".join(map(_cell, row)) for row in table.rows)
    lines.append("")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if value is True or value is False:
        return "yes" if value else "no"
    return visible(str(value))


def _draw(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    # With NO_COLOR rich still prints bold; users expect no escapes at all.
    header_style = "" if console.no_color else "bold"
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style=header_style)
    rows = [*table.rows]
    shown = _columns_shown(table, rows, is_narrow=console.width < _WIDE)
    for column in compress(table.columns, shown):
        # Ids are copied from the screen: fold a long one, never cut it.
        drawn.add_column(column, overflow="fold")
    for row in rows:
        # Text objects, because rich parses a str with [brackets] as markup.
        drawn.add_row(*(Text(_cell(value)) for value in compress(row, shown)))
    with console.capture() as captured:
        console.print(drawn)
    _write_data(captured.get())


def _columns_shown(
    table: Table, rows: list[tuple[object, ...]], *, is_narrow: bool
) -> list[bool]:
    """Return for each column whether the terminal shows it."""
    left_out = set(table.spare) if is_narrow else set()
    for place, column in enumerate(table.columns):
        if column in table.quiet and all(row[place] in _NOTHING for row in rows):
            left_out.add(column)
    return [column not in left_out for column in table.columns]


def _write_json(answer: dict[str, Any], problem: Problem | None) -> None:
    import orjson

    answer["error"] = None
    if problem is not None:
        code, message, hint, details = problem
        answer["error"] = {
            "code": code,
            "detail": _encodable(message),
            "hint": hint and _encodable(hint),
        }
        if details:
            answer["error"]["details"] = {
                k: v and _encodable(v) for k, v in details.items()
            }
    _write_data(visible_json(orjson.dumps(answer).decode()) + "\n")


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _write_data(text: str) -> bool:
    """Write to stdout; return False if the reader has closed it.

    Raises:
        Unwritable: stdout can't be written, for another reason than a closed pipe.
    """
    if sys.stdout is None:
        return False
    try:
        return _write(sys.stdout, text)
    except OSError as exc:
        msg = f"can't write the answer: {exc.strerror or exc}"
        raise Unwritable("io_failed", msg) from exc


def _write(stream: TextIO, text: str) -> bool:
    """Write `text`; return False if the reader has closed the pipe (`| head -1`).

    Raises:
        OSError: the write failed for another reason.
    """
    try:
        stream.flush()
        rest = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
        # With PYTHONUNBUFFERED a stream makes one system call and drops the rest of a
        # short write: on a full disk the answer would be cut, with exit code 0.
        while rest:
            rest = rest[stream.buffer.write(rest) :]
        stream.buffer.flush()
    except OSError as exc:
        # The interpreter would flush the buffer again at exit, fail again, and print an
        # error message of its own.
        _send_to_nowhere(stream)
        if not isinstance(exc, BrokenPipeError):
            raise
        return False
    return True


def _send_to_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def rows_of(fields: Iterable[tuple[str, object]]) -> Table:
    """Return a two-column table of names and values."""
    return Table(("field", "value"), tuple(fields))
