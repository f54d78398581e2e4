"""Delays of workflows: crash to resumed, decision to running."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING

from benchmarks.contenders import DBOS
from benchmarks.running import PROJECT, Figure, Subject, Target
from benchmarks.timing import Times
from milepost import CheckpointManager
from milepost.worker.config.settings import Settings
from milepost.worker.service import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

from benchmarks.running import Run

_TITLE = "Workflows: crash to resumed, decision to running"
_NOTE = (
    "*crash, worker*: from SIGKILL of the process of an execution until the next "
    "attempt has the lease, with a worker whose executor runs in its own process. "
    "*crash, new process*: from SIGKILL until the next step runs in a process that is "
    "started at once; it includes the start of Python. "
    "*decision*: from the answer to an approval in another process until the next "
    "attempt has the lease. "
)
_DEADLINE_SECONDS = 30.0

_RUN = """
import sys, time
from milepost import CheckpointManager
manager = CheckpointManager(sys.argv[1])
manager.create_checkpoint("exec_job", "step", "agent", {})
print(time.monotonic(), flush=True)
sys.stdin.read()
"""
_APPROVE = """
import sys, time
from milepost import CheckpointManager
manager = CheckpointManager(sys.argv[1], actor="ops")
for line in sys.stdin:
    manager.approve_checkpoint("exec_job", "gate", True)
    print(time.monotonic(), flush=True)
"""
_DBOS = """
import logging, sys, time
logging.disable(logging.CRITICAL)
from dbos import DBOS
DBOS(config={
    "name": "bench", "system_database_url": f"sqlite:///{sys.argv[1]}/dbos.sqlite",
    "run_admin_server": False,
})
@DBOS.step()
def step():
    print(time.monotonic(), flush=True)
    sys.stdin.read()
@DBOS.workflow()
def work():
    step()
DBOS.launch()
if sys.argv[2] == "first":
    DBOS.start_workflow(work)
time.sleep(3600)
"""


class Here:
    """An executor that takes the lease in a thread of this process."""

    def __init__(self, manager: CheckpointManager) -> None:
        self._manager = manager
        self.acquired: Queue[float] = Queue()

    def resume_job(self, job_id: str) -> None:
        """Take the lease of the job's execution."""
        Thread(target=self._acquire, args=(job_id,), daemon=True).start()

    def _acquire(self, job_id: str) -> None:
        self._manager.acquire_lease(f"exec_{job_id}")
        self.acquired.put(time.monotonic())


def measure(run: Run) -> Subject:
    """Kill, restart and decide repeatedly."""
    times = run.pick(20, 3)
    figures = [
        _times("crash, worker", run, times, _crash_with_worker, bound_ms=300),
        _times("decision", run, times, _decision, bound_ms=100),
    ]
    took = [_restart(run, f"restart-{n}", _RUN) for n in range(times)]
    beside = None
    if importlib.util.find_spec("dbos") is not None:
        theirs = [_restart(run, f"dbos-{n}", _DBOS) for n in range(times)]
        beside = DBOS, Times((tuple(theirs),))
    mine = Times((tuple(took),))
    figures.append(mine.figure("crash, new process", "ms", beside=beside))
    return Subject(_TITLE, _NOTE, tuple(figures))


def _times(name: str, run: Run, times: int, once: object, *, bound_ms: float) -> Figure:
    took = [once(run.new_folder(f"{name}-{n}")) for n in range(times)]  # type: ignore[operator] # a function below
    return Times((tuple(took),)).figure(name, "ms", target=Target(bound_ms))


@contextmanager
def _worked(root: Path) -> Iterator[tuple[CheckpointManager, Here]]:
    """Run a worker that resumes every workflow at once."""
    settings = Settings.model_validate({"workflows": [{"auto_resume": True}]})
    with CheckpointManager(root) as manager, ExitStack() as closing:
        here = Here(manager)
        manager.save("other", "step", {})
        worker = Worker(manager, settings, executor=here)
        closing.callback(worker.stop)
        worker.start()
        while not worker.status.leader:
            time.sleep(0.01)
        yield manager, here


def _crash_with_worker(root: Path) -> float:
    with _worked(root) as (manager, here), _child(_RUN, root) as process:
        _said(process)
        while not manager.workflows.unfinished("job"):
            time.sleep(0.01)
        time.sleep(0.3)  # in step with no look
        process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        return here.acquired.get(timeout=_DEADLINE_SECONDS) - killed_at


def _decision(root: Path) -> float:
    with _worked(root) as (manager, here), _child(_APPROVE, root) as process:
        manager.create_checkpoint("exec_job", "gate", "agent", {}, True)
        time.sleep(0.3)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        decided_at = _said(process)
        return max(here.acquired.get(timeout=_DEADLINE_SECONDS) - decided_at, 0.0)


def _restart(run: Run, name: str, code: str) -> float:
    """Return the time from SIGKILL to the next step in a new process."""
    root = run.new_folder(name)
    with _child(code, root, "first") as process:
        _said(process)
        process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
    with _child(code, root, "again") as process:
        said_at = _said(process)
        process.kill()
    return said_at - killed_at


def _said(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    return float(process.stdout.readline())


def _child(code: str, root: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root), *words],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
