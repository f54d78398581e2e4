"""How the command line fails: one line or one object, and the right code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from tests.support.cli import JOB, call

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("show", "nope@latest", "--json"), 4, "not_found"),
        (("--json", "show", "nope@latest"), 4, "not_found"),
        (("list", "--json", "--nope"), 2, "usage"),
        (("nope", "--json"), 2, "usage"),
        (("pin", JOB, "--json"), 2, "usage"),
        (("delete", f"{JOB}@4", "--json"), 6, "protected"),
        (("jobs", "--match", "x", "--fail-if-empty", "--json"), 8, "nothing_to_do"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("store")
def test_with_json_an_error_is_one_object_too(
    words: tuple[str, ...], code: int, name: str
) -> None:
    done = call(*words)

    assert done.code == code
    assert done.json["ok"] is False
    assert done.json["error"]["code"] == name
    assert done.json["error"].keys() == {"code", "detail", "hint"}
    assert done.err == ""


def test_a_log_is_listed_and_takes_no_states(store: Path) -> None:
    with CheckpointManager(store) as manager:
        manager.append("chat", [{"text": "hello"}])
    assert call("show", "chat@latest", "--json").json["data"]["state_snapshot"] == {
        "entries": [{"text": "hello"}]
    }
    done = call("save", "chat", "--step", "s", "--json", stdin="{}")
    assert (done.code, done.json["error"]["code"]) == (5, "wrong_kind")


@pytest.mark.usefixtures("store")
def test_json_behind_two_dashes_is_a_job() -> None:
    done = call("list", "--", "--json")

    assert done.code == 4
    assert done.out == ""


@pytest.mark.usefixtures("store")
def test_an_error_is_one_line_unless_a_traceback_is_asked_for() -> None:
    short, long = call("show", "nope"), call("show", "nope", "--traceback")

    assert short.err.count("\n") == 1
    assert short.code == long.code == 4
    assert "Traceback" in long.err


@pytest.mark.usefixtures("folder")
def test_a_mistyped_verb_or_option_names_the_nearest() -> None:
    assert "'save'" in call("saev").err
    assert "--json" in call("list", "--jsno").err


@pytest.mark.usefixtures("folder")
def test_a_verb_is_refused_without_a_name_for_the_step() -> None:
    done = call("save", "j", stdin="{}")

    assert done.code == 2
    assert "--step" in done.err


VERBS = (
    *("save", "list", "show", "jobs", "log", "diff", "restore", "fork", "delete"),
    *(
        "undelete",
        "pin",
        "unpin",
        "hold",
        "release",
        "cleanup",
        "verify",
        "serve",
        "worker",
        "config",
    ),
)


def test_the_help_of_the_group_names_every_verb() -> None:
    shown = call("--help").out

    for verb in VERBS:
        assert f"\n  {verb} " in shown
