r"""Printing: data to stdout, talk to stderr, and nothing that can fool a terminal.

| stdout is | a table comes out as | a document as |
|---|---|---|
| anything, with `--json` | one object `{ok, data, error}` | the same |
| a terminal | a rich table | indented JSON |
| a pipe or a file | TSV with a header | indented, or exact bytes |

Names come from whoever wrote the checkpoint.  A step called `\x1b]0;…` must not
set a window title, so what is not printable leaves as an escape.  TSV cells are
made to be read; a program that needs every byte of a name asks for `--json`.
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
# Columns of a terminal from which on there is room for all of a table's.
_WIDE = 110

_KIBI = 1024


class Unwritable(Failure):
    """Stdout takes no answer, so the problem can only be told on stderr."""


def visible(text: str) -> str:
    r"""Return `text` with everything unprintable as a Python escape (`\x1b`, `\n`)."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def visible_json(text: str) -> str:
    """Return JSON `text` with unprintable characters as JSON escapes.

    Inside JSON such a character can only stand in a string, so the value that
    comes out of a parser is the same.  Line breaks of the layout stay.
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
    """Print `answer` and return the exit code that it stands for."""
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
    """Print why there is no answer and return the exit code."""
    if as_json:
        _write_json({"ok": False, "data": None}, problem)
    else:
        say(one_line(problem))
    return problem.exit


def one_line(problem: Problem) -> str:
    """Return the problem as a person reads it: one line, hint included."""
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"milepost: {problem.message}{hint}"


def say(text: str) -> None:
    """Say one line to the person, on stderr; where that is impossible, to nobody."""
    if sys.stderr is not None:
        with suppress(OSError):
            _write(sys.stderr, visible(text) + "\n")


def is_terminal() -> bool:
    """Whether stdout is a person's terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def prepare_streams() -> None:
    """Make stdout and stderr take any text.

    An argument that is no UTF-8 reaches us as lone surrogates; printing the error
    about it must not be an error.  Data in a pipe is UTF-8 in every locale.
    """
    for stream in (sys.stdout, sys.stderr):
        # Tests and embedders put other objects there, which need no preparing.
        if (reconfigure := getattr(stream, "reconfigure", None)) is None:
            continue
        if stream.isatty():
            reconfigure(errors="backslashreplace")
        else:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def _write_lines(lines: JsonLines) -> None:
    """Write each value as soon as it is there, until nobody reads on."""
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
    # For rich, NO_COLOR leaves bold; for whoever sets it, it means no escapes at all.
    header_style = "" if console.no_color else "bold"
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style=header_style)
    rows = [*table.rows]
    shown = _columns_shown(table, rows, is_narrow=console.width < _WIDE)
    for column in compress(table.columns, shown):
        # Ids are there to be copied: fold a long one, never cut it.
        drawn.add_column(column, overflow="fold")
    for row in rows:
        # Text objects, because rich reads a str with [brackets] as markup.
        drawn.add_row(*(Text(_cell(value)) for value in compress(row, shown)))
    with console.capture() as captured:
        console.print(drawn)
    _write_data(captured.get())


def _columns_shown(
    table: Table, rows: list[tuple[object, ...]], *, is_narrow: bool
) -> list[bool]:
    """Tell of each column whether a terminal has it."""
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
    """Write to stdout; return whether somebody may still read it.

    Raises:
        Unwritable: stdout takes no more, for another reason than a closed pipe.
    """
    if sys.stdout is None:
        return False
    try:
        return _write(sys.stdout, text)
    except OSError as exc:
        msg = f"can't write the answer: {exc.strerror or exc}"
        raise Unwritable("io_failed", msg) from exc


def _write(stream: TextIO, text: str) -> bool:
    """Write all of it; False if the reader went away (`| head -1`), which is no error.

    Raises:
        OSError: the stream takes no more for another reason.
    """
    try:
        stream.flush()
        rest = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
        # With PYTHONUNBUFFERED a stream calls the system once and forgets what that
        # did not take: on a full disk the answer would end early, with exit code 0.
        while rest:
            rest = rest[stream.buffer.write(rest) :]
        stream.buffer.flush()
    except OSError as exc:
        # What is still buffered would fail once more when the interpreter flushes
        # at its end, with a message nobody asked for.
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
    """Return a two-column table, for answers that are one thing with fields."""
    return Table(("field", "value"), tuple(fields))


def size_text(size_bytes: int) -> str:
    """Return a size as people read it: ``812 B``, ``1.4 MiB``."""
    if size_bytes < _KIBI:
        return f"{size_bytes} B"
    size, unit = size_bytes / _KIBI, "KiB"
    for larger in ("MiB", "GiB"):
        if size >= _KIBI:
            size, unit = size / _KIBI, larger
    return f"{size:.1f} {unit}"
