"""Retention on the command line: cleanup, and the verbs about policies."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from milepost.worker.config.settings import load, open_manager
from tests.cli.terminal import milepost_on_a_terminal
from tests.support.cli import JOB, START, call, damage, ids_of, reader, run, types_of
from tests.support.client import client_of
from tests.support.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[retention]
min_age = "0s"
min_keep = 1
[[retention.rule]]
match = "etl-*"
keep_last = {keep_last}
[retention.rule.completed]
keep_last = 1
"""


@pytest.fixture
def jobs(folder: Path) -> Path:
    """Two jobs of twelve checkpoints, an hour apart; the policy of one keeps eight."""
    clock = Clock(START)
    with CheckpointManager("checkpoints", clock=clock) as manager:
        for number in range(12):
            manager.save(JOB, "load", {"n": number}, failed=number == 3)
            manager.save("other", "load", {"n": number})
            clock.turn(hours=1)
    configure(folder, keep_last=8)
    return folder / "checkpoints"


def configure(folder: Path, *, keep_last: int) -> None:
    (folder / "config.toml").write_text(CONFIG.format(keep_last=keep_last))


def plan_id_of(*words: str) -> str:
    found: str = call("cleanup", *words, "--dry-run", "--json").json["data"]["plan_id"]
    return found


# -- which rule, which jobs ---------------------------------------------------------


def test_a_bare_cleanup_follows_the_policy_of_the_job(jobs: Path) -> None:
    done = call("cleanup", JOB)

    assert done.code == 0
    assert "deleted 3 checkpoints of job etl-daily, kept 9" in done.err
    assert len(ids_of(jobs)) == 9
    assert len(ids_of(jobs, "other")) == 12


def test_where_no_policy_lets_anything_go_a_bare_cleanup_says_so(jobs: Path) -> None:
    for words in (("other",), ("other", "--dry-run")):
        done = call("cleanup", *words)
        assert done.code == 0
        assert "(default) keeps everything: set one in [retention]" in done.err
    assert call("cleanup", "other", "--fail-if-empty").code == 8
    assert len(ids_of(jobs, "other")) == 12


def test_a_keep_last_is_the_callers_own_rule_and_waits_for_nobody(jobs: Path) -> None:
    dry = call("cleanup", JOB, "--keep-last", "1", "--dry-run")
    done = call("cleanup", JOB, "--keep-last", "1", "--json")

    assert "waits" not in dry.err
    assert done.json["data"] == {"job_id": JOB, "deleted_count": 11, "kept_count": 1}
    assert len(ids_of(jobs)) == 1


def test_the_plan_of_a_keep_last_removes_the_current_one_as_it_showed(
    jobs: Path,
) -> None:
    ids = ids_of(jobs)
    call("restore", f"{JOB}@first")
    dry = call("cleanup", JOB, "--keep-last", "1", "--dry-run", "--json")
    plan = dry.json["data"]["plan_id"]

    call("pin", f"{JOB}@latest")  # moves the job on, and the plan no longer fits
    stale = call("cleanup", JOB, "--keep-last", "1", "--plan", plan)
    call("unpin", f"{JOB}@latest")
    done = call("cleanup", JOB, "--keep-last", "1", "--plan", plan)

    assert (stale.code, done.code) == (5, 0)
    assert ids_of(jobs) == ids[-1:]


def test_the_dry_run_of_a_keep_last_has_the_fields_it_always_had(jobs: Path) -> None:
    data = call("cleanup", JOB, "--keep-last=8", "--dry-run", "--json").json["data"]

    assert data.keys() == {"job_id", "plan_id", "would_delete", "would_keep"}
    gone = [found["checkpoint_id"] for found in data["would_delete"]]
    assert gone == ids_of(jobs)[3::-1]
    assert data["would_delete"][0].keys() >= {"checkpoint_id", "seq", "reasons"}


def test_a_glob_or_all_cleans_up_every_job_that_loses_something(jobs: Path) -> None:
    call("fork", f"{JOB}@latest", "etl-small")

    by_glob = call("cleanup", "--match", "etl-*")
    again = call("cleanup", "--all", "--json")

    assert by_glob.rows == [[JOB, "3", "9"]]
    assert again.json["data"]["jobs"] == []
    assert len(ids_of(jobs, "other")) == 12


@pytest.mark.parametrize(
    "words",
    [
        (),
        (JOB, "--all"),
        (JOB, "--match", "x"),
        ("--all", "--match", "x"),
        ("--all", "--keep-last", "3"),
        ("--keep-last", "3", "--dry-run"),
        ("--all", "--expect-seq", "3"),
        (JOB, "--limit", "0"),
        (JOB, "--explain", f"{JOB}@2"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_a_usage_error(
    jobs: Path, words: tuple[str, ...]
) -> None:
    assert call("cleanup", *words).code == 2
    assert len(ids_of(jobs)) == 12


def test_a_job_that_is_called_like_a_glob_does_not_hide_the_others(jobs: Path) -> None:
    for name in ("*", "etl-*"):
        call("save", name, "--step", "s", stdin="{}")

    assert call("cleanup", "--match", "etl-*").rows == [[JOB, "3", "9"]]
    assert call("cleanup", "--all", "--dry-run", "--json").json["data"]["jobs"] == []
    assert len(ids_of(jobs)) == 9


def test_a_completed_job_has_its_own_policy_until_it_goes_on(jobs: Path) -> None:
    call("complete", JOB, "--reason", "all loaded")
    shown = call("policy", "show", JOB)
    assert "job etl-daily is complete" in shown.err
    assert call("cleanup", JOB, "--dry-run").err.count("would delete 10 checkpoints")

    call("save", JOB, "--step", "more", stdin="{}")

    assert "would delete 4" in call("cleanup", JOB, "--dry-run").err
    assert types_of(jobs)[-2:] == ["job.completed", "checkpoint.saved"]


# -- dry runs -----------------------------------------------------------------------


def test_a_dry_run_tells_every_checkpoint_its_verdict_and_all_reasons(
    jobs: Path,
) -> None:
    before = types_of(jobs)
    done = call("cleanup", JOB, "--dry-run")

    assert done.code == 0
    assert types_of(jobs) == before
    assert [row[1] for row in done.rows] == [str(seq) for seq in range(13, 1, -1)]
    verdicts = [row[2] for row in done.rows]
    assert (verdicts.count("would keep"), verdicts.count("would delete")) == (9, 3)
    assert "newest" in done.rows[0][3]
    assert "last #1" in done.rows[0][3]
    assert "keep_last = 8" in done.rows[-1][3]
    assert all(re.fullmatch(r"\d+ B", row[5]) for row in done.rows)


def test_its_summary_has_counts_bytes_and_the_plan_to_repeat(jobs: Path) -> None:
    configure(jobs.parent, keep_last=2)
    done = call("cleanup", JOB, "--dry-run")

    summary, waits, next_step = done.err.splitlines()
    assert re.fullmatch(
        r"would delete 9 checkpoints \(.* KiB\) of job etl-daily, keep 3; "
        r"plan [0-9a-f]{16}",
        summary,
    )
    assert waits.startswith(
        "requires confirmation: job 'etl-daily': 9 of 12 checkpoints"
    )
    assert "deleted" not in done.err
    command = next_step.removeprefix("to apply this plan: milepost ")
    assert call(*command.split()).code == 0
    assert len(ids_of(jobs)) == 3


def test_the_command_to_repeat_is_one_that_a_shell_reads(jobs: Path) -> None:
    call("save", "etl it's; rm", "--step", "s", stdin="{}")
    for words in (("etl it's; rm", "--keep-last=1"), ("--match", "etl-*")):
        call("save", words[0], "--step", "s", stdin="{}")
        *_, line = call("cleanup", *words, "--dry-run").err.splitlines()
        command = shlex.split(line.removeprefix("to apply this plan: "))
        assert call(*command[1:]).code == 0
    assert len(ids_of(jobs, "etl it's; rm")) == 1


def test_json_of_a_dry_run_is_the_plan_as_over_http(jobs: Path) -> None:
    data = call("cleanup", "--dry-run", "--json").json["data"]

    (job,) = data["jobs"]
    assert (job["job_id"], job["keep_count"], job["remove_count"]) == (JOB, 9, 3)
    assert job["policy"]["name"] == "rule:etl-*"
    assert job["policy"]["keep_last"] == 8
    assert job["head_seq"] == 13
    assert {v["checkpoint_id"] for v in job["keep"] + job["remove"]} == set(
        ids_of(jobs)
    )
    assert job["remove"][0].keys() == {
        *("checkpoint_id", "seq", "timestamp", "stored_bytes", "reasons")
    }


@pytest.mark.usefixtures("jobs")
def test_both_doors_show_the_same_plan_field_by_field() -> None:
    with open_manager(load()) as manager:
        app = create_app(manager, settings=load())
        body = {"match": "*"}
        over_http = client_of(app).post("/api/retention/preview", json=body).json()
    on_the_command_line = call("cleanup", "--dry-run", "--json").json["data"]

    assert over_http.pop("timestamp") >= over_http.pop("as_of")
    assert on_the_command_line.pop("as_of")
    assert over_http == on_the_command_line


@pytest.mark.parametrize(("columns", "is_there"), [("80", False), ("120", True)])
def test_a_narrow_terminal_leaves_the_ids_of_a_dry_run_out(
    jobs: Path, columns: str, *, is_there: bool
) -> None:
    shown = milepost_on_a_terminal("cleanup", JOB, "--dry-run", COLUMNS=columns)

    assert "would delete" in shown
    assert (ids_of(jobs)[0] in shown) is is_there


def test_explain_says_what_every_rule_means_for_one_checkpoint(jobs: Path) -> None:
    gone = call("cleanup", "--explain", f"{JOB}@2", "--json").json["data"]
    kept = call("cleanup", "--explain", f"{JOB}@latest")

    assert gone["verdict"] == "remove"
    assert gone["rules"] == [
        {"keeps": False, "text": "11th newest; keep_last = 8", "is_cap": False}
    ]
    assert "policy rule:etl-* would keep" in kept.err
    assert ["keeps it", "last #1"] in kept.rows
    assert call("cleanup", "--explain", f"{JOB}@99").code == 4
    assert len(ids_of(jobs)) == 12


# -- plans and confirmation ------------------------------------------------------------


def test_a_plan_of_many_jobs_holds_for_those_that_rest(jobs: Path) -> None:
    call("fork", f"{JOB}@2", "etl-busy")
    for _ in range(9):
        call("save", "etl-busy", "--step", "load", stdin="{}")
    planned = plan_id_of()
    call("save", "etl-busy", "--step", "more", stdin="{}")

    done = call("cleanup", "--plan", planned, "--json")

    assert (done.code, done.json["error"]["code"]) == (3, "partly_done")
    assert [job["job_id"] for job in done.json["data"]["jobs"]] == [JOB]
    (problem,) = done.json["data"]["problems"]
    assert (problem["job_id"], problem["code"]) == ("etl-busy", "stale_plan")
    assert len(ids_of(jobs, "etl-busy")) == 11
    assert call("cleanup", "--plan", planned).code == 5  # nothing is left of it


def test_a_plan_of_an_edited_policy_or_of_another_job_is_stale(jobs: Path) -> None:
    call("fork", f"{JOB}@2", "other-job")
    planned = plan_id_of(JOB)

    assert call("cleanup", "other-job", "--plan", planned).code == 5
    configure(jobs.parent, keep_last=7)
    edited = call("cleanup", JOB, "--plan", planned)
    assert edited.code == 5
    assert "the policy of job" in edited.err
    assert len(ids_of(jobs)) == 12


def test_only_the_plans_that_were_shown_last_are_kept(jobs: Path) -> None:
    shown = [(call("complete", JOB), plan_id_of(JOB))[1] for _ in range(66)]

    kept = {path.stem for path in (jobs / "worker/plans").iterdir()}
    assert kept == set(shown[2:])


@pytest.mark.parametrize("name", ["../../x", "0" * 16, "", "*"])
def test_a_plan_that_was_never_shown_is_stale(jobs: Path, name: str) -> None:
    assert call("cleanup", JOB, f"--plan={name}").code == 5
    assert len(ids_of(jobs)) == 12


def test_a_kept_plan_that_is_a_pipe_is_made_again(jobs: Path) -> None:
    planned = plan_id_of(JOB)
    kept = jobs / "worker/plans" / f"{planned}.json"
    kept.unlink()
    os.mkfifo(kept)

    assert plan_id_of(JOB) == planned  # a dry run replaces it
    assert kept.is_file()
    kept.unlink()
    os.mkfifo(kept)
    assert call("cleanup", JOB, "--plan", planned).code == 0
    assert len(ids_of(jobs)) == 9


def test_a_plan_is_carried_out_exactly_or_not_at_all(jobs: Path) -> None:
    planned = plan_id_of(JOB)
    call("save", JOB, "--step", "more", stdin="{}")

    stale = call("cleanup", JOB, "--plan", planned, "--json")
    assert (stale.code, stale.json["error"]["code"]) == (5, "stale_plan")
    assert len(ids_of(jobs)) == 13

    assert call("cleanup", JOB, "--plan", plan_id_of(JOB)).code == 0
    assert len(ids_of(jobs)) == 9


def test_a_plan_of_all_jobs_needs_no_other_word(jobs: Path) -> None:
    done = call("cleanup", "--plan", plan_id_of(), "--json")

    assert done.json["data"]["deleted_count"] == 3
    with reader(jobs) as manager:
        *_, event = manager.history(JOB)
    assert event["type"] == "checkpoints.cleaned"
    assert event["data"]["plan_id"] == done.json["data"]["plan_id"]


def test_a_plan_that_removes_much_requires_confirmation(jobs: Path) -> None:
    configure(jobs.parent, keep_last=2)

    for words in ((JOB,), ("--all",), (JOB, "--plan", plan_id_of(JOB))):
        waiting = call("cleanup", *words, "--json")
        assert (waiting.code, waiting.json["error"]["code"]) == (
            6,
            "confirmation_required",
        )
        assert "--confirm" in waiting.json["error"]["hint"]
    assert len(ids_of(jobs)) == 12

    assert call("cleanup", "--all", "--confirm").code == 0
    assert len(ids_of(jobs)) == 3


def test_a_limit_leaves_the_rest_for_the_next_time(jobs: Path) -> None:
    for left in (11, 10, 9, 9):
        assert call("cleanup", JOB, "--limit", "1").code == 0
        assert len(ids_of(jobs)) == left


def test_one_damaged_job_keeps_no_other_from_its_cleanup(jobs: Path) -> None:
    call("fork", f"{JOB}@3", "etl-broken")
    call("save", "etl-broken", "--step", "load", stdin="{}")
    damage(jobs, "etl-broken")

    done = call("cleanup", "--all", "--json")  # I10

    assert (done.code, done.json["error"]["code"]) == (3, "partly_done")
    assert [job["job_id"] for job in done.json["data"]["jobs"]] == [JOB]
    assert done.json["data"]["problems"][0]["job_id"] == "etl-broken"
    assert len(ids_of(jobs)) == 9


def test_a_budget_for_the_whole_store_binds_a_cleanup_of_all(jobs: Path) -> None:
    with (jobs.parent / "config.toml").open("a") as config:
        config.write("[retention.default]\nmin_keep = 10\n")
    text = (jobs.parent / "config.toml").read_text()
    budget = text.replace("[retention]\n", '[retention]\nmax_store_bytes = "1KiB"\n')
    (jobs.parent / "config.toml").write_text(budget)

    assert call("cleanup", "--all", "--confirm").code == 0

    assert len(ids_of(jobs, "other")) == 10


def test_a_cleanup_can_insist_on_the_seq_that_was_seen(jobs: Path) -> None:
    assert call("cleanup", JOB, "--expect-seq", "12").code == 5
    assert call("cleanup", JOB, "--expect-seq", "13").code == 0
    assert len(ids_of(jobs)) == 9


def test_planning_for_many_jobs_tells_how_far_it_is(jobs: Path) -> None:
    told: list[tuple[int, int]] = []
    with reader(jobs) as manager:
        manager.plan("*", on_progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 2), (2, 2)]


# -- completion, failure --------------------------------------------------------------


def test_complete_says_when_and_jobs_shows_it(jobs: Path) -> None:
    assert call("complete", "nope").code == 4
    done = call("complete", JOB, "--failed", "--json").json["data"]

    assert done["failed"] is True
    (job,) = call("jobs", "--match", JOB, "--json").json["data"]["jobs"]
    assert job["completed_at"] == done["completed_at"]
    header, row = (line.split("\t") for line in call("jobs").out.splitlines()[:2])
    assert dict(zip(header, row, strict=True))["completed_at"] == done["completed_at"]
    with reader(jobs) as manager:
        assert [*manager.history(JOB)][-1]["data"] == {"failed": True}


@pytest.mark.usefixtures("jobs")
def test_a_failed_save_is_shown_as_one() -> None:
    call("save", JOB, "--step", "load", "--failed", stdin="{}")

    assert [row[-1] for row in call("list", JOB).rows].count("yes") == 2
    assert ", failed" in call("show", f"{JOB}@latest").err
    assert call("show", f"{JOB}@latest", "--json").json["data"]["failed"] is True


# -- policy show, policy simulate -----------------------------------------------------


@pytest.mark.usefixtures("jobs")
def test_policy_show_tells_where_each_value_comes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILEPOST_RETENTION_MIN_KEEP", "2")
    rows = {row[1]: row[2:] for row in call("policy", "show", JOB, "--origin").rows}

    assert rows["keep_last"] == ["8", "rule:etl-* in config.toml"]
    assert rows["min_age"] == ['"0s"', "retention in config.toml"]
    assert rows["min_keep"] == ["2", "MILEPOST_RETENTION_MIN_KEEP"]
    assert rows["max_remove_fraction"] == ["0.5", "default"]


@pytest.mark.usefixtures("jobs")
def test_policy_show_of_all_is_in_the_order_in_which_they_are_tried() -> None:
    data = call("policy", "show", "--json").json["data"]

    names = [policy["name"] for policy in data["policies"]]
    assert names == ["rule:etl-*", "rule:etl-*:completed", "default"]
    assert data["policies"][1]["completed"] is True


def test_policy_show_works_without_a_store_and_without_a_file(folder: Path) -> None:
    done = call("policy", "show", "some-job")

    assert done.code == 0
    assert "not in the store; its policy is default; it keeps everything" in done.err
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("folder")
def test_a_year_of_hourly_saves_under_a_policy_of_ones_own() -> None:
    words = ("--every=1h", "--for=1y", "--until=2026-11-23", "--policy-file=-")
    text = "keep_hourly = 24\nkeep_daily = 7\nkeep_monthly = 6\n"
    done = call("policy", "simulate", *words, stdin=text)
    data = call("policy", "simulate", *words, "--json", stdin=text).json["data"]

    assert [row[0] for row in done.rows] == [f"{n}mo" for n in range(1, 13)]
    assert done.rows[-1][1:3] == ["8760", str(data["kept"])]
    assert data["ages"] == {
        "the last hour": 1,
        "the last day": 23,
        "the last week": 5,
        "the last month": 1,
        "the last year": 4,
    }
    assert "at the end 34 remain: 1 from the last hour" in done.err


def test_a_simulation_of_a_job_follows_its_policy(jobs: Path) -> None:
    done = call("policy", "simulate", JOB, "--every", "1d", "--for", "30d", "--json")

    data = done.json["data"]
    assert (data["policy"]["name"], data["saved"], data["kept"]) == (
        "rule:etl-*",
        30,
        8,
    )
    assert data["period"] == "1d"
    assert len(ids_of(jobs)) == 12


@pytest.mark.usefixtures("folder")
def test_a_simulation_says_which_run_would_have_waited() -> None:
    words = ("--every=1h", "--for=10d", "--policy-file=-")
    done = call("policy", "simulate", *words, stdin="keep_last = 10")

    assert done.err.count("would require confirmation: ") == 1
    assert "later plans of this policy require none" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--every=1h", "--for=1y"), "give JOB or --policy-file"),
        ((JOB, "--every=1m", "--for=1y"), "could be minutes or months, got '1m'\n"),
        ((JOB, "--every=0s", "--for=1y"), "times above zero"),
        ((JOB, "--every=1s", "--for=1y"), "simulate a shorter time"),
        ((JOB, "--every=1h", "--for=1y", "--size=3MB"), "--size 3MB: expected a size"),
        (("--every=1h", "--for=1y", "--policy-file=-"), "unknown key keep_lst"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("jobs")
def test_a_simulation_that_cannot_be_is_a_usage_error(
    words: tuple[str, ...], said: str
) -> None:
    done = call("policy", "simulate", *words, stdin="keep_lst = 1")

    assert (done.code, said in done.err) == (2, True), done.err


def test_the_real_command_shows_a_dry_run(jobs: Path) -> None:
    done = run("cleanup", JOB, "--dry-run")

    assert (done.code, len(done.rows)) == (0, 12)
    assert len(ids_of(jobs)) == 12
