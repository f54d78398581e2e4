"""The verbs that look at what is there: jobs, list, show, log, diff."""

from __future__ import annotations

import json
import os
import pwd
from datetime import timedelta
from pathlib import Path

import pytest

from milepost import CheckpointManager
from tests.support.cli import JOB, START, call, damage, ids_of, types_of


@pytest.mark.usefixtures("store")
def test_list_shows_the_oldest_first_and_says_which_is_current() -> None:
    call("restore", f"{JOB}@2")

    done = call("list", JOB)

    assert [(row[0], row[2], row[7]) for row in done.rows] == [
        ("2", "extract", "yes"),
        ("3", "load", "no"),
        ("4", "report", "no"),
    ]


@pytest.mark.usefixtures("store")
def test_list_as_json_has_every_field_that_http_has() -> None:
    from milepost.api.http.wire.answers import CheckpointList

    data = call("list", JOB, "--json").json["data"]

    answer = CheckpointList.model_validate(
        {**data, "timestamp": "2026-11-23T05:00:00Z"}, extra="ignore"
    )
    assert answer.total == 3
    assert data["checkpoints"][1]["tags"] == ["prod"]
    assert data["checkpoints"][2]["is_current"] is True


def test_list_without_a_job_shows_every_job_except_what_cannot_be_read(
    store: Path,
) -> None:
    call("fork", JOB, "other")
    damage(store)

    done = call("list")

    assert done.code == 3  # I10
    assert [row[0] for row in done.rows] == ["other"]
    assert f"job '{JOB}' is damaged at line" in done.err


@pytest.mark.usefixtures("store")
def test_list_takes_a_glob_but_not_beside_a_job() -> None:
    call("fork", JOB, "other")

    assert {row[0] for row in call("list", "--match", "etl-*").rows} == {JOB}
    assert call("list", JOB, "--match", "etl-*").code == 2


@pytest.mark.usefixtures("store")
def test_an_unknown_job_is_not_an_empty_one() -> None:
    call("delete", f"{JOB}@latest", "--force")
    call("cleanup", JOB, "--keep-last", "1")
    call("delete", f"{JOB}@latest", "--force")

    assert call("list", "nope").code == 4
    assert call("list", JOB).code == 0
    assert call("list", JOB, "--fail-if-empty").code == 8


def test_jobs_shows_damaged_jobs_too_and_what_is_wrong_with_them(store: Path) -> None:
    from milepost.api.http.wire.answers import JobList

    call("fork", JOB, "other")
    damage(store)

    shown = call("jobs")
    data = call("jobs", "--json").json["data"]

    assert [(row[0], row[-1]) for row in shown.rows] == [
        (JOB, "damaged"),
        ("other", ""),
    ]
    answer = JobList.model_validate(
        {**data, "next_cursor": None, "timestamp": "2026-11-23T05:00:00Z"},
        extra="ignore",
    )
    assert answer.jobs[1].checkpoints == 1
    assert answer.jobs[0].damage is not None


@pytest.mark.usefixtures("store")
def test_jobs_can_be_matched_limited_and_missed() -> None:
    call("fork", JOB, "other")

    assert [row[0] for row in call("jobs", "--match", "o*").rows] == ["other"]
    assert [row[0] for row in call("jobs", "--limit", "1").rows] == [JOB]
    assert call("jobs", "--match", "x*", "--fail-if-empty").code == 8


@pytest.mark.parametrize(
    ("selector", "step"),
    [
        ("", "load"),
        ("@latest", "report"),
        ("@first", "extract"),
        ("@current", "load"),
        ("@3", "load"),
        ("@-1", "report"),
        ("@-3", "extract"),
        ("@tag:prod", "load"),
        ("@2026-11-20T10:01", "load"),
        ("@2026-11-20T11:01:59+01:00", "load"),
        ("@2026-11-21", "report"),
    ],
)
@pytest.mark.usefixtures("store")
def test_every_selector_finds_its_checkpoint(selector: str, step: str) -> None:
    call("restore", f"{JOB}@3")

    done = call("show", f"{JOB}{selector}", "--json")

    assert done.json["data"]["step_name"] == step


@pytest.mark.parametrize(
    "selector", ["99", "1", "-4", "tag:x", "2026-11-20", "load_1_00000000"]
)
@pytest.mark.usefixtures("store")
def test_a_selector_that_finds_nothing_is_not_found(selector: str) -> None:
    done = call("show", f"{JOB}@{selector}")

    assert done.code == 4
    assert done.out == ""
    assert done.err.count("\n") == 1


def test_show_prints_the_state_and_journals_nothing(store: Path) -> None:
    before = types_of(store)

    done = call("show", f"{JOB}@3")

    assert json.loads(done.out) == {"rows": 120, "files": ["a", "b"]}
    assert "step load" in done.err
    assert types_of(store) == before


def test_show_says_who_deleted_what_is_gone(store: Path) -> None:
    gone = ids_of(store)[1]
    call("delete", f"{JOB}@{gone}")

    done = call("show", f"{JOB}@{gone}")

    assert done.code == 4
    assert "by cli:" in done.err


@pytest.mark.usefixtures("store")
def test_log_tells_everything_in_order_or_backwards() -> None:
    forwards = [row[0] for row in call("log", JOB).rows]

    assert forwards == ["1", "2", "3", "4"]
    assert [row[0] for row in call("log", JOB, "--reverse").rows] == forwards[::-1]


@pytest.mark.parametrize(
    ("options", "seqs"),
    [
        (["--type", "checkpoint.saved"], [2, 3, 4]),
        (["--type", "job.*"], [1]),
        (["--type", "job.*", "--type", "*.saved"], [1, 2, 3, 4]),
        (["--limit", "2"], [3, 4]),
        (["--limit", "2", "--reverse"], [4, 3]),
        (["--since", "2026-11-20T10:01"], [3, 4]),
        (["--since", "2026-11-20T10:01", "--limit", "1"], [4]),
        (["--since", "2026-11-20T09:00", "--limit", "3"], [2, 3, 4]),
    ],
)
@pytest.mark.usefixtures("store")
def test_log_can_be_narrowed_down(options: list[str], seqs: list[int]) -> None:
    events = call("log", JOB, "--json", *options).json["data"]["events"]

    assert [event["seq"] for event in events] == seqs


def test_a_clock_that_went_back_hides_nothing_from_log(store: Path) -> None:
    yesterday = START - timedelta(days=1)
    with CheckpointManager(store, clock=lambda: yesterday) as manager:
        manager.save(JOB, "late", {})

    words = ("log", JOB, "--json", "--since", "2026-11-20", "--limit", "1")

    assert [event["seq"] for event in call(*words).json["data"]["events"]] == [4]


@pytest.mark.usefixtures("store")
def test_log_names_the_nearest_type_for_one_that_does_not_exist() -> None:
    done = call("log", JOB, "--type", "checkpoint.save")

    assert done.code == 2
    assert "did you mean checkpoint.saved?" in done.err


@pytest.mark.usefixtures("store")
def test_log_says_who_and_why() -> None:
    call("delete", f"{JOB}@3", "--reason", "wrong input")

    *_, (_, _, kind, actor, detail) = call("log", JOB).rows

    assert kind == "checkpoint.deleted"
    assert actor == f"cli:{pwd.getpwuid(os.getuid()).pw_name}@{os.uname().nodename}"
    assert detail.endswith("reason=wrong input")


@pytest.mark.usefixtures("store")
def test_diff_shows_what_changed_between_two_checkpoints() -> None:
    done = call("diff", f"{JOB}@first", f"{JOB}@3")

    assert done.rows == [
        ["replace", "$.rows", "0", "120"],
        ["add", "$.files[1]", "", '"b"'],
    ]


@pytest.mark.usefixtures("store")
def test_diff_of_nothing_can_fail_and_of_two_jobs_must() -> None:
    assert call("diff", f"{JOB}@3", f"{JOB}@3", "--fail-if-empty").code == 8
    assert call("diff", f"{JOB}@3", "other@3").code == 2
