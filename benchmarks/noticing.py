"""The delay until the index of one process has the save of another."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.running import PROJECT, Subject, Target
from benchmarks.timing import Times
from milepost import CheckpointManager
from milepost.worker.config.settings import Settings
from milepost.worker.service import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.running import Run

_TITLE = "Noticing the saves of another process"
_NOTE = (
    "From the answer to a save in one process until the index of another, whose "
    "worker runs with the defaults, has it. A read checks the files first "
    "and never waits for this."
    " *busy*: a third process saves to ten other jobs meanwhile."
)
_DEADLINE_SECONDS = 10.0
_PAUSE_SECONDS = 0.3
_SAVER = """
import sys, time
from milepost import CheckpointManager
with CheckpointManager(sys.argv[1], durability="never") as manager:
    for _ in sys.stdin:
        manager.save("watched", "step", {})
        print(time.monotonic(), flush=True)
"""
_CROWD = """
import itertools, sys, threading, time
from milepost import CheckpointManager
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
with CheckpointManager(sys.argv[1], durability="never") as manager:
    for number in itertools.count():
        if over.is_set():
            break
        manager.save(f"other-{number % 10}", "step", {})
        time.sleep(0.002)
"""


class _Noticing(CheckpointManager):
    """A store that records when a refresh found new events of the watched job."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._seen = 0
        self.noticed = threading.Event()
        self.noticed_at = 0.0

    def _has_read(self) -> bool:
        """Return whether this process has read more of the job since the last call."""
        # The worker's supervisor may have read it first; then it is not in `moved`.
        view = self._store._job("watched").view  # noqa: SLF001 - without a look at files
        seen, self._seen = self._seen, view.seq
        return self._seen > seen

    def refresh(self, job_ids: Iterable[str] | None = None) -> set[str]:
        moved = super().refresh(job_ids)
        if self._has_read():
            self.noticed_at = time.monotonic()
            self.noticed.set()
        return moved


def measure(run: Run) -> Subject:
    """Save repeatedly in another process, in a quiet and in a busy store."""
    root = run.new_folder("noticing")
    figures = []
    with _Noticing(root) as manager, ExitStack() as closing:
        manager.save("watched", "step", {})
        worker = Worker(manager, Settings())
        closing.callback(worker.stop)
        worker.start()
        saver = closing.enter_context(_child(_SAVER, root))
        for name in ("quiet", "busy"):
            with ExitStack() as crowd:
                if name == "busy":
                    crowd.enter_context(_child(_CROWD, root))
                took = [_notice(manager, saver) for _ in range(run.pick(50, 3))]
            times = Times((tuple(took),))
            figures.append(times.figure(name, "ms", target=Target(200)))
    return Subject(_TITLE, _NOTE, tuple(figures))


def _notice(manager: _Noticing, saver: subprocess.Popen[str]) -> float:
    """Return how long one save went unnoticed, in seconds."""
    # In step neither with the sweep nor with the pause after the last refresh.
    time.sleep(_PAUSE_SECONDS)
    assert saver.stdin is not None
    assert saver.stdout is not None
    manager.noticed.clear()
    saver.stdin.write("\n")
    saver.stdin.flush()
    saved_at = float(saver.stdout.readline())
    if not manager.noticed.wait(_DEADLINE_SECONDS):
        raise TimeoutError("a save was not noticed, not even by the sweep")
    return max(0.0, manager.noticed_at - saved_at)


def _child(code: str, root: Path) -> subprocess.Popen[str]:
    """Start a process that ends when its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
