"""What reaches stdout and stderr, whoever chose the names in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.api.cli.exits import EXIT_OF_CODE, Exit, Problem
from milepost.api.cli.output import report, visible, visible_json
from milepost.api.cli.results import Answer, Document, Table
from tests.cli.terminal import milepost_on_a_terminal, shown_by

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "a\x1b]0;owned\x07b\tc\nd\x9b31m\u202eevil\ud800"


def test_no_control_character_survives_becoming_visible() -> None:
    shown = visible(HOSTILE)

    assert shown.isprintable()
    assert shown.startswith(r"a\x1b]0;owned\x07b\tc\nd\x9b31m\u202eevil")
    assert visible("täglich\x07") == r"täglich\x07"


def test_plain_names_are_shown_as_they_are() -> None:
    assert visible("etl-täglich 🚀 [bold]") == "etl-täglich 🚀 [bold]"


def test_json_stays_the_same_value_when_it_becomes_visible() -> None:
    value = {"name": "x\x7f\x9b\u202e\U000e0001y"}

    shown = visible_json(json.dumps(value, ensure_ascii=False))

    assert shown.isprintable()
    assert json.loads(shown) == value


def test_a_row_of_tsv_is_one_line_whatever_its_cells_hold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(Answer({}, Table(("a", "b"), [(HOSTILE, None), (1, True)])), as_json=False)

    header, hostile, plain = capsys.readouterr().out.splitlines()
    assert header == "a\tb"
    assert hostile.count("\t") == 1
    assert "\x1b" not in hostile
    assert plain == "1\tyes"


def test_json_is_one_object_with_ok_data_and_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    problem = Problem("partly_done", "one of two", "look there")

    code = report(Answer({"total": 2}, None, ("talk",), problem), as_json=True)

    shown = capsys.readouterr()
    assert code is Exit.PARTLY_DONE
    assert shown.err == "talk\n"
    assert json.loads(shown.out) == {
        "ok": False,
        "data": {"total": 2},
        "error": {"code": "partly_done", "detail": "one of two", "hint": "look there"},
    }


def test_an_exact_document_leaves_the_bytes_of_the_store(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(Answer({}, Document({"b": 1, "a": [1.5]}, is_exact=True)), as_json=False)

    assert capsys.readouterr().out == '{"b":1,"a":[1.5]}\n'


def test_an_error_code_nobody_knows_is_a_failure() -> None:
    assert Problem("from_the_future", "x").exit is Exit.ERROR


def test_every_error_of_the_library_has_its_exit_code() -> None:
    from milepost.journal import errors

    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.MilepostError)
    }
    assert codes - {errors.MilepostError.code} <= EXIT_OF_CODE.keys()


LOG_A_NAME = """
import logging, sys
from milepost.api.cli.logs import log_to_stderr
log_to_stderr()
try:
    raise ValueError(sys.argv[1])
except ValueError:
    logging.getLogger("milepost.x").exception("job %s", sys.argv[1])
"""


def test_a_name_can_neither_forge_nor_colour_a_line_of_the_log() -> None:
    name = "x\n2026-11-23 WARNING forged\x1b[31m"
    done = subprocess.run(
        [sys.executable, "-c", LOG_A_NAME, name],
        capture_output=True,
        text=True,
        check=True,
    )

    said, *traceback = done.stderr.splitlines()
    assert said.endswith(r"milepost.x: job x\n2026-11-23 WARNING forged\x1b[31m")
    assert all(line.isprintable() for line in traceback)


PRINT_A_TABLE = """
import sys
from milepost.api.cli.results import Answer, Problem, Table
from milepost.api.cli.output import report
rows = [("x" * 90, "[red]not markup[/red]\\x1b[31m")] * int(sys.argv[1])
problem = Problem("damaged", "seen") if len(sys.argv) > 2 else None
sys.exit(report(Answer({}, Table(("name", "note"), rows), (), problem), as_json=False))
"""


HIDDEN = {"stored_bytes", "tags", "pinned", "held", "failed"}


def on_a_terminal(*arguments: str, **environ: str) -> str:
    """Run a table printer whose stdout is a pseudo terminal; return what it shows."""
    return shown_by([sys.executable, "-c", PRINT_A_TABLE, *arguments], **environ)


def test_a_terminal_gets_a_table_that_cuts_no_id() -> None:
    shown = on_a_terminal("1")

    assert shown.count("x") >= 90
    assert "\t" not in shown


def test_a_name_cannot_colour_a_terminal() -> None:
    shown = on_a_terminal("1").replace("\n", "").replace("\r", "").replace(" ", "")

    assert "\x1b[31m" not in shown
    assert "[red]" in shown


@pytest.mark.parametrize(
    ("columns", "has_pin", "shown"),
    [
        ("80", False, ["seq", "step_name", "current"]),
        ("80", True, ["seq", "step_name", "pinned", "current"]),
        ("130", False, ["seq", "step_name", "stored_bytes", "current"]),
    ],
)
def test_a_list_at_a_terminal_has_the_columns_that_say_something(
    tmp_path: Path, columns: str, shown: list[str], *, has_pin: bool
) -> None:
    with CheckpointManager(tmp_path) as manager:
        manager.save("job", "step", {}, pinned=has_pin)

    words = ("list", "job", "--store", str(tmp_path))
    table = milepost_on_a_terminal(*words, COLUMNS=columns, NO_COLOR="1")
    heads = table.split("──")[0]
    assert [name for name in heads.split() if name in {*shown, *HIDDEN}] == shown


@pytest.mark.parametrize("no_color", ["1", "yes"])
def test_no_color_means_no_escape_sequence_at_all(no_color: str) -> None:
    assert "\x1b[1m" in on_a_terminal("1")
    assert "\x1b[1m" not in on_a_terminal("1", NO_COLOR=no_color)


def in_bash(script: str, *arguments: str, unbuffered: str) -> tuple[str, str]:
    """Run `script` with the table printer as its words; return stdout and stderr."""
    words = [sys.executable, "-c", PRINT_A_TABLE, *arguments]
    done = subprocess.run(
        ["bash", "-c", script, "-", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=True,
    )
    return done.stdout, done.stderr


# Set, as in many containers, it changes which calls can fail, and how.
either_way = pytest.mark.parametrize("unbuffered", ["", "1"])
HEAD = '"$@" | head -1; echo ${PIPESTATUS[0]}'


@either_way
def test_a_reader_that_leaves_early_is_no_error(unbuffered: str) -> None:
    said = in_bash(HEAD, "30000", unbuffered=unbuffered)

    assert said == ("name\tnote\n0\n", "")


@either_way
def test_a_reader_that_leaves_early_does_not_hide_a_bad_verdict(
    unbuffered: str,
) -> None:
    out, _ = in_bash(HEAD, "30000", "bad", unbuffered=unbuffered)

    assert out == "name\tnote\n7\n"


@either_way
def test_a_reader_that_was_gone_before_the_first_line_is_no_error(
    unbuffered: str,
) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [sys.executable, "-c", PRINT_A_TABLE, "1"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (0, b"")


@either_way
def test_an_answer_that_fits_only_in_part_is_a_failure(
    tmp_path: Path, unbuffered: str
) -> None:
    script = f'ulimit -f 8; "$@" >{tmp_path}/out; echo $?'

    out, err = in_bash(script, "30000", unbuffered=unbuffered)

    assert out == "1\n"
    assert "can't write the answer: File too large" in err
