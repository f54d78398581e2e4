"""A rule that matches nothing is named, with why, wherever a policy is looked at."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from milepost import Best, CheckpointManager, Match, Policies, Policy
from milepost.api import create_app
from milepost.worker.config.settings import RetentionSettings, Rule, Settings
from milepost.worker.service import Worker
from tests.support.cli import call
from tests.support.client import client_of
from tests.support.clock import NOW

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import Clock

BEST = Best("loss", "min", 1)


@pytest.mark.parametrize(
    ("metadata", "lines"),
    [
        ([{"loss": "0.1"}] * 5, ["keep_best: loss is text in 5 of 5 checkpoints"]),
        ([{"loss": "x"}, {"loss": 1}], ["keep_best: loss is text in 1 of 2"]),
        ([{"loss": True}, {}], ["keep_best: loss is true or false in 1 of 2"]),
        ([{"loss": [1]}], ["keep_best: loss is a list in 1 of 1"]),
        ([{"loss": {}}, {"loss": ""}], ["loss is an object in", "loss is text in"]),
        ([{"lost": 1}, {}], ["keep_best: none of 2 checkpoints has loss"]),
        ([{"loss": None}], ["keep_best: none of 1 checkpoint has loss"]),
        ([{"loss": 1}, {}, {}], []),
    ],
)
def test_a_metric_that_is_no_number_is_named_with_what_it_is(
    manager: CheckpointManager, metadata: list[dict[str, Any]], lines: list[str]
) -> None:
    for number, found in enumerate(metadata):
        manager.save("a", "s", {"n": number}, metadata=found)
    (job,) = manager.plan("a", Policy(keep_last=1, keep_best=BEST)).jobs
    assert len(job.idle_rules) == len(lines)
    for said, line in zip(job.idle_rules, lines, strict=True):
        assert line in said


@pytest.mark.parametrize(
    ("tags", "line"),
    [
        ((("release",),), "keep_tags: none of 3 checkpoints has tag release"),
        ((("prod", "eu"),), "keep_tags: none of 3 checkpoints has tags eu, prod"),
        ((("prod",),), None),
        (((),), None),
    ],
)
def test_a_tag_that_no_checkpoint_has_is_named(
    manager: CheckpointManager, tags: tuple[tuple[str, ...], ...], line: str | None
) -> None:
    for tag in ("prod", "eu", "test"):
        manager.save("a", "s", {}, tags=[tag])
    (job,) = manager.plan("a", Policy(keep_last=1, keep_tags=tags)).jobs
    assert job.idle_rules == (() if line is None else (line,))


CONFIG = """
[retention]
min_age = "0s"
min_keep = 1
[retention.default]
keep_last = 1
keep_best = {metric = "loss", mode = "min", keep = 1}
"""
SAID = "keep_best: loss is text in 5 of 5 checkpoints, not a number"


@pytest.fixture
def train(folder: Path) -> Path:
    (folder / "config.toml").write_text(CONFIG)
    with CheckpointManager("checkpoints") as manager:
        for number in range(5):
            manager.save("train", "s", {}, metadata={"loss": f"0.{number}"})
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("cleanup", "train", "--dry-run"),
        ("cleanup", "--all", "--dry-run"),
        ("cleanup", "--explain", "train@first"),
        ("cleanup", "train"),
        ("cleanup", "--all"),
        ("config", "check"),
    ],
)
def test_the_command_line_names_it_and_says_what_to_do(
    train: Path, words: tuple[str, ...]
) -> None:
    done = call(*words)
    assert done.code == 0, train
    assert SAID in done.err
    assert "--meta KEY:=NUMBER" in done.err


def test_numbers_from_the_command_line_are_counted(train: Path) -> None:
    for loss in ("0.5", "0.1", "0.9"):
        words = ("save", "good", "--step", "s", "--meta", f"loss:={loss}")
        call(*words, stdin="{}")
    done = call("cleanup", "good", "--json")
    assert done.json["data"]["deleted_count"] == 1, train
    assert "keep_best" not in done.err


def test_a_preview_over_http_and_a_plan_that_was_shown_name_it(
    manager: CheckpointManager,
) -> None:
    manager.policies = Policies(Match("*", Policy(keep_last=1, keep_best=BEST)))
    manager.save("a", "s", {}, metadata={"loss": "1"})
    client = client_of(create_app(manager, clock=lambda: NOW))
    answer = client.get("/api/retention/preview?job_id=a").json()
    (line,) = answer["jobs"][0]["idle_rules"]
    assert line == "keep_best: loss is text in 1 of 1 checkpoint, not a number"


def test_a_scheduled_run_names_it_in_its_log(
    manager: CheckpointManager, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        manager.save("a", "s", {"n": number}, metadata={"loss": "1"})
    best = {"metric": "loss", "mode": "min"}
    rule = Rule.model_validate({"keep_last": 1, "keep_best": best})
    retention = RetentionSettings(min_keep=1, min_age="0s", default=rule)
    with caplog.at_level(logging.WARNING, "milepost.worker"):
        Worker(manager, Settings(retention=retention), clock=clock).run_task("cleanup")
    assert "loss is text in 3 of 3 checkpoints" in caplog.text


# -- rules of config.toml that no job reaches ------------------------------------------


@pytest.mark.parametrize(
    ("globs", "said"),
    [
        (["etl-*"], ["'etl-*' matches none of 1 job"]),
        (["train"], []),
        (["*", "train"], ["'train' comes after match = '*'"]),
        (["t*", "tr*"], ["'tr*' comes after match = 't*'"]),
        (["train", "train"], ["'train' comes after match = 'train'"]),
        (["train", "t*"], ["'t*' is never used: earlier rules match all of its 1"]),
    ],
)
def test_config_check_names_the_rules_that_no_job_reaches(
    train: Path, globs: list[str], said: list[str]
) -> None:
    rules = "".join(
        f'[[retention.rule]]\nmatch = "{glob}"\nkeep_last = 2\n' for glob in globs
    )
    (train / "config.toml").write_text(rules)
    done = call("config", "check", "--json")
    warnings = done.json["data"]["warnings"]
    assert done.code == 0
    assert len(warnings) == len(said)
    for warning, words in zip(warnings, said, strict=True):
        assert words in warning


# -- what `serve` refuses, `config check` refuses --------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('[api]\nhost = "192.0.2.1"', 2),
        ('[api]\nhost = "no such host"', 2),
        ('[executor]\npython = "nopkg.mod:obj"', 1),
        ('[executor]\npython = "json:dumps"', 1),
        ('[store]\nkey_file = "missing.key"', 1),
        ('[store]\nroot = "config.toml"', 10),
        ('[worker]\ncleanup = "0 0 31 2 *"', 1),
        ("[api]\nport = 70000", 1),
    ],
)
def test_config_check_refuses_what_serve_refuses_in_the_same_words(
    folder: Path, text: str, code: int
) -> None:
    (folder / "config.toml").write_text(text + "\n")
    checked = call("config", "check")
    served = call("serve")
    assert (checked.code, served.code) == (code, code)
    assert checked.err == served.err
    assert {path.name for path in folder.iterdir()} - {"checkpoints"} == {"config.toml"}


def test_config_check_needs_no_current_folder_for_an_executor(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    (folder / "config.toml").write_text('[executor]\npython = "nopkg.mod:obj"\n')
    script = (
        f'cd {gone}; rmdir {gone}; exec milepost --config {folder}/config.toml "$@"'
    )
    done = call("config", "check")
    there = run_in_shell(script, "config", "check")
    assert done.code == 1
    assert there == done.err


def run_in_shell(script: str, *words: str) -> str:
    import subprocess

    from tests.support.cli import clean_environ

    done = subprocess.run(
        ["sh", "-c", script, "-", *words],
        capture_output=True,
        env=clean_environ(),
        timeout=60,
        check=False,
    )
    return done.stderr.decode()
