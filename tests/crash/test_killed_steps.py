"""A real process with durable steps, killed 20 times."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager

if TYPE_CHECKING:
    from tests.support.tally import Tally

ROOT = Path(__file__).parents[2]
STEPS, KILLS = 30, 20
SCRIPT = """\
import os, sys
from milepost import CheckpointManager

def effect(number):
    token = f"{os.getpid()}-{number}"
    with open(f"effect-{number}", "a") as file:
        print(token, file=file)
    print("ran", number, token, flush=True)
    return token

with CheckpointManager("store", actor="me") as manager:
    with manager.execution("w", job_id="job") as run:
        for number in range(int(sys.argv[1])):
            token = run.step("s", effect, number)
            print("has", number, token, flush=True)
        run.result = "done"
"""


@pytest.mark.slow
def test_each_step_of_a_killed_process_has_one_result(
    tmp_path: Path, crash_seed: int, tally: Tally
) -> None:
    random = Random(crash_seed)
    results: defaultdict[str, set[str]] = defaultdict(set)
    kills = 0
    while True:
        lives = random.randint(1, 2) if kills < KILLS else None
        told = life(tmp_path, lives)
        for word, number, token in told:
            if word == "has":
                results[number].add(token)
        if lives is None:
            break
        kills += 1
    assert {*results} == {str(number) for number in range(STEPS)}
    assert all(len(tokens) == 1 for tokens in results.values()), results
    effects = Counter(
        {n: len((tmp_path / f"effect-{n}").read_text().split()) for n in range(STEPS)}
    )
    assert effects.total() <= STEPS + kills, effects
    with CheckpointManager(tmp_path / "store") as manager:
        (report,) = manager.verify(deep=True)
        assert report.ok
        completed = manager.history("job", types=["step.completed"])
        assert len([*completed]) == STEPS
    tally("kills", kills)


def life(folder: Path, news: int | None) -> list[list[str]]:
    """Run the script until it has run something new so often; then kill it."""
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(STEPS)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    told: list[list[str]] = []
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            told.append(line.split())
            if news is not None and sum(word == "ran" for word, *_ in told) >= news:
                child.kill()
                news = None
    return told
