"""The examples of docs/workflows.md run, and its tables say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from milepost.journal.execution_models import STATE_OF_EXECUTION
from milepost.worker.config.settings import load

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_do_what_their_comments_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, known)
    assert capsys.readouterr().out.splitlines() == [
        "completed",
        "completed 3",
        "1",
        "[0, 100, 200]",
        "waiting",
        "completed",
        "paused",
        "completed",
        "{'version': '8.0', 'tests': 'green'}",
    ]


def test_the_settings_are_read(tmp_path: Path) -> None:
    block, *others = blocks("toml")
    for each in (*others, block):
        (tmp_path / "config.toml").write_text(each)
        settings = load(tmp_path / "config.toml", environ={})
    (rule,) = settings.workflows
    assert (rule.match, rule.auto_resume) == ("ingest*", True)
    assert tomllib.loads(block)["workflows"][0]["backoff"] == "1s"
    defaults = type(rule)(match="ingest*", auto_resume=True)
    assert rule == defaults  # the page shows the defaults


def test_every_status_is_in_the_table_with_its_old_word() -> None:
    states = PAGE.split("## States")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", states, re.MULTILINE)
    assert dict(rows) == STATE_OF_EXECUTION
