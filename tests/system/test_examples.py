"""The examples run as processes that are killed, and docs/examples.md shows them."""

from __future__ import annotations

import importlib.util
import random
import re
import signal
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("etl", "agent", "training", "graph")
PAGE = (ROOT / "docs" / "examples.md").read_text("utf-8")
KILLED = -signal.SIGKILL
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}

needs_numpy = pytest.mark.skipif(
    importlib.util.find_spec("numpy") is None, reason="needs numpy"
)

needs_langgraph = pytest.mark.skipif(
    importlib.util.find_spec("langgraph") is None, reason="needs milepost[langgraph]"
)


def run(name: str, *words: object, ends: int = 0) -> list[str]:
    """Run an example to its end, as a user does; return what it printed."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", *map(str, words)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ends, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_job_of_200_steps_killed_three_times_ends_as_if_undisturbed(
    tmp_path: Path,
) -> None:
    (whole,) = run("etl", tmp_path / "whole")
    kills = sorted(random.sample(range(1, 201), 3))
    for kill in kills:
        (said,) = run("etl", tmp_path / "killed", "--die-at", kill, ends=KILLED)
        assert said.startswith(f"step {kill}: killed")
    (resumed,) = run("etl", tmp_path / "killed")
    assert resumed.startswith(f"attempt 4 ran {201 - kills[-1]} of 200 steps")
    assert resumed.split("checksum ")[1] == whole.split("checksum ")[1]
    names = [path.name for path in (tmp_path / "whole" / "totals").iterdir()]
    assert len(names) == 100
    for name in names:
        ours, theirs = (tmp_path / way / "totals" / name for way in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_agent_waits_for_its_approval_and_is_forked_from_an_older_step(
    tmp_path: Path,
) -> None:
    def say(*words: str) -> list[str]:
        return run("agent", *words, tmp_path)

    *tools, waits = say("run", "one")
    assert [line.split(":")[0].strip() for line in tools] == [
        *("search", "read", "compare", "outline", "draft", "check")
    ]
    assert waits.startswith("one is waiting: appr_")
    assert say("run", "one") == [waits]  # nothing runs again
    say("reject", "one")
    (rejected,) = say("run", "one")
    assert rejected.startswith("one is completed: not published: ")
    assert "rejected by ann" in rejected

    say("run", "two")
    say("approve", "two")
    *tools, done = say("run", "two")
    assert [line.split(":")[0].strip() for line in tools] == ["publish", "announce"]
    assert done.startswith("two is completed: announce of publish of ")

    say("fork", "two")
    *tools, waits = say("run", "two-2")
    assert tools == [
        "  draft: an outline by hand",
        "  check: draft of an outline by hand",
    ]
    assert waits.startswith("two-2 is waiting: appr_")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What an undisturbed training prints."""
    return run("training", tmp_path_factory.mktemp("trained"))


@needs_numpy
def test_a_training_that_was_killed_ends_with_the_same_weights(
    trained: list[str], tmp_path: Path
) -> None:
    for kill in sorted(random.sample(range(1, 17), 2)):
        said = run("training", tmp_path, "--die-at", kill, ends=KILLED)
        assert said[-1] == f"epoch {kill}: killed"
    resumed = run("training", tmp_path)
    assert resumed[0] == f"from epoch {kill - 1}"
    assert resumed[1:] == trained[1:]  # the checkpoints, and the digest of the weights


@needs_numpy
def test_a_training_keeps_the_best_three_and_the_last_two(trained: list[str]) -> None:
    found = re.findall(r"kept epoch-(\d+), loss ([\d.]+)", "\n".join(trained))
    kept = {int(number): float(loss) for number, loss in found}
    assert len(kept) == 5
    last = {15, 16}
    best = kept.keys() - last
    assert last <= kept.keys()
    assert max(kept[number] for number in best) < min(kept[number] for number in last)


@needs_langgraph
def test_a_graph_is_killed_resumed_approved_and_sent_back_in_time(
    tmp_path: Path,
) -> None:
    def say(command: str, *words: object, ends: int = 0) -> list[str]:
        return run("graph", command, "trip", tmp_path, *words, ends=ends)

    kill = random.randrange(1, 5)
    begun = say("run", "--die-at", kill, ends=KILLED)
    *rest, waits = say("run")
    tools = [line.split(":")[0].strip() for line in (*begun, *rest)]
    assert tools == ["search", "read", "outline", "draft"]
    assert len(rest) == 5 - kill  # the tools that were done are not used again
    assert waits.startswith("trip waits for approval of: draft of outline of read of ")
    assert say("run") == [waits]
    *tools, done = say("approve")
    assert [line.split(":")[0].strip() for line in tools] == ["publish", "announce"]
    assert done.startswith("trip is done: announce of publish of ")

    assert say("travel") == [
        "  draft: an outline by hand",
        "trip waits for approval of: draft of an outline by hand",
    ]
    assert say("reject") == ["trip is done: not published"]
    assert say("run") == ["trip is done: not published"]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_each_example_as_it_is(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    assert f"```python\n{text}```" in PAGE


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_fewer_than_60_lines_of_code(name: str) -> None:
    lines: set[int] = set()
    is_statement = True
    with (ROOT / "examples" / f"{name}.py").open(encoding="utf-8") as file:
        for token in tokenize.generate_tokens(file.readline):
            is_text = token.type == tokenize.STRING and is_statement  # a docstring
            if token.type in _NOT_CODE:
                is_statement = True
            elif not is_text:
                lines.update(range(token.start[0], token.end[0] + 1))
                is_statement = False
    assert len(lines) < 60
