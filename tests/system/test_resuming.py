"""A worker, a job in a process of its own, SIGKILL: the execution goes on by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from tests.support.cli import BIN, clean_environ
from tests.support.eventually import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = "ingest-7"
CONFIG = """
[store]
root = "store"

[executor]
command = [{python}, {script}, "--job={{job_id}}"]

[[workflows]]
match = "ingest"
auto_resume = true
"""
# Three steps; the first attempt at the second one stays in it until it is killed.
SCRIPT = """
import os, pathlib, signal, sys
from milepost import CheckpointManager

job = sys.argv[1].removeprefix("--job=")
manager = CheckpointManager("store", actor="job")
run = f"exec_{job}"
state = manager.load(job, default={"done": 0})
for n in range(state["done"], 3):
    manager.create_checkpoint(run, f"step-{n}", "script", {"n": n})
    if n == 1 and not os.path.exists("killed"):
        pathlib.Path("killed").touch()
        pathlib.Path("pid.new").write_text(str(os.getpid()))
        os.replace("pid.new", "pid")
        signal.pause()
    manager.complete_checkpoint(run, f"step-{n}", {"done": n + 1})
manager.complete_execution(run, {"steps": 3})
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a store, on which a real worker works."""
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    python, path = json.dumps(sys.executable), json.dumps(str(script))
    (tmp_path / "config.toml").write_text(CONFIG.format(python=python, script=path))
    with CheckpointManager(tmp_path / "store") as manager:
        manager.save("other", "step", {})
    with subprocess.Popen(
        [BIN / "milepost", "worker"],
        cwd=tmp_path,
        env=clean_environ(PYTHONPATH=str(Path(__file__).parents[2])),
    ) as worker:
        yield tmp_path
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_SECONDS) in (0, 130, 143)


def status(manager: CheckpointManager) -> dict[str, Any]:
    (found,) = manager.list_executions()
    return found


def test_a_killed_job_is_resumed_where_it_was(home: Path) -> None:
    with CheckpointManager(home / "store", actor="me") as manager:
        manager.start_workflow_execution(JOB, "ingest", pending=True)
        pid = int(eventually(lambda: (home / "pid").exists() and _read(home / "pid")))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: status(manager)["status"] == "completed")
        found = status(manager)
        assert (found["attempt"], found["completed_checkpoints"]) == (2, 3)
        steps = manager.get_checkpoint_history(found["execution_id"])
        assert [(step["checkpoint_name"], step["status"]) for step in steps] == [
            ("step-0", "completed"),
            ("step-1", "abandoned"),
            ("step-1", "completed"),
            ("step-2", "completed"),
        ]
        assert manager.load(JOB) == {"done": 3}
        assert manager.verify(JOB)[0].ok
    # The process gives up its lease after the write that the others see.
    eventually(lambda: not [*(home / "store" / "records").glob("exec_*")])


def _read(path: Path) -> str:
    return path.read_text()
