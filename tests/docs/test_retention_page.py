"""Every example of docs/retention.md, and README's, prints what the page shows."""

from __future__ import annotations

import io
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.api.cli.group import milepost
from milepost.journal.retention.policy import KEEP_RULES
from milepost.worker.config.retention import Rule
from tests.support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "retention.md").read_text()
README = (ROOT / "README.md").read_text()
NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)
PLAN_ID = re.compile(r"\b[0-9a-f]{16}\b")
ID = re.compile(r"_\d{10}_[0-9a-f]{8}\b")


class Terminal(io.TextIOWrapper):
    """A stream that is a terminal, as far as anybody can tell."""

    def isatty(self) -> bool:
        return True


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def sessions(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a page, and what the page says that it prints."""
    for block in blocks(page, "(?:console|text)"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith("milepost "):
                yield command, output


def masked(text: str) -> str:
    """Return `text` without what is another each time, and without its margins."""
    text = ID.sub("_…", PLAN_ID.sub("…", text))
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def typed(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command at a terminal; return all that it shows, in order."""
    shown = io.BytesIO()
    with monkeypatch.context() as at_terminal:
        for name in ("stdout", "stderr"):
            stream = Terminal(shown, "utf-8", write_through=True)
            at_terminal.setattr(f"sys.{name}", stream)
        with pytest.raises(SystemExit):
            milepost.main(shlex.split(command)[1:])
        return shown.getvalue().decode()


@pytest.fixture
def typing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A folder with the job of the page: a save each twelve hours, for six days."""
    clock = Clock(NOW - timedelta(hours=11 * 12 + 1))
    # Who saves is part of what a checkpoint takes.
    with CheckpointManager("checkpoints", actor="etl", clock=clock) as manager:
        for number in range(1, 13):
            step = ("extract", "load")[number % 2]
            tags = ["release"] if number == 2 else []
            manager.save("etl", step, {"n": number}, tags=tags, failed=number == 7)
            clock.turn(hours=12)
    monkeypatch.setattr("milepost.api.cli.commands.cleanup.utc_now", lambda: NOW)
    monkeypatch.setenv("COLUMNS", "88")
    monkeypatch.setenv("NO_COLOR", "1")
    assert folder == Path.cwd()
    return monkeypatch


@pytest.mark.parametrize("page", [PAGE, README], ids=["docs/retention.md", "README.md"])
def test_every_example_prints_what_the_page_shows(
    page: str, typing: pytest.MonkeyPatch
) -> None:
    Path("config.toml").write_text(blocks(page, "toml")[0])
    plan_id, seen = "", 0
    for command, expected in sessions(page):
        shown = typed(PLAN_ID.sub(plan_id, command), typing)
        assert masked(shown) == masked(expected), f"{command}\n{shown}"
        plan_id = next(iter(PLAN_ID.findall(shown)), plan_id)
        seen += 1
    assert seen


def test_the_page_names_every_rule_and_every_cap() -> None:
    for name in {*KEEP_RULES, *Rule.model_fields} - {"inherit"}:
        assert f"`{name}`" in PAGE, name
