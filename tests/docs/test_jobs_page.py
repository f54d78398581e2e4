"""The programs of docs/jobs.md save when told to stop, and resume from there."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milepost import CheckpointManager
from milepost.journal import errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "jobs.md").read_text()
PROGRAMS = dict(
    zip(
        ("flag", "raise"),
        re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL),
        strict=True,
    )
)
JOB = {"flag": "count", "raise": "sum"}
STOPPED = 143
# What the page leaves to the reader: a step of work, which says that it has begun and
# waits until the test has sent the signal.
WORK = """
import sys


def work(n):
    print(n, flush=True)
    if n == {pause}:
        sys.stdin.readline()
    return n
"""


def start(program: str, folder: Path, *, pause: int) -> subprocess.Popen[str]:
    script = folder / "job.py"
    script.write_text(WORK.format(pause=pause) + program)
    return subprocess.Popen(
        [sys.executable, script],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize("way", PROGRAMS)
def test_a_job_that_is_told_to_stop_saves_and_is_resumed_where_it_was(
    way: str, tmp_path: Path
) -> None:
    with start(PROGRAMS[way], tmp_path, pause=250) as job:
        assert job.stdin is not None
        assert job.stdout is not None
        for line in job.stdout:
            if line == "250\n":
                break
        job.send_signal(signal.SIGTERM)
        job.stdin.close()  # the step goes on, if it is not given up
        assert job.wait(60) == STOPPED
    with CheckpointManager(tmp_path / "checkpoints") as manager:
        done = manager.load(JOB[way])["done"]
    assert done == {"flag": 251, "raise": 250}[way]
    again = start(PROGRAMS[way], tmp_path, pause=-1)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert out.split() == [str(n) for n in range(done, 1000)]
    with CheckpointManager(tmp_path / "checkpoints") as manager:
        assert manager.load(JOB[way])["done"] == 1000
        assert manager.verify(JOB[way], deep=True)[0].ok


def test_the_page_that_a_refused_call_names_is_there() -> None:
    hint = errors.NestedCall.inside().hint or ""
    (named,) = re.findall(r"\((docs/[a-z-]+\.md)\)", hint)
    assert (ROOT / named).is_file()
    assert f"`{errors.NestedCall.code}`" in PAGE
