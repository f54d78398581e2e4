"""A retention pass over a store of many jobs, and its effect on concurrent saves."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from benchmarks import stores
from benchmarks.running import PROJECT, Figure, Subject, Target
from milepost import CheckpointManager, Span
from milepost.journal.clock import utc_now
from milepost.worker.config.retention import MatchRule, RetentionSettings, Rule
from milepost.worker.config.settings import Settings
from milepost.worker.schedule.priority import give_way
from milepost.worker.tasks.retention import RETENTION
from milepost.worker.tasks.task import TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.running import Run
    from milepost.worker.schedule.report import TaskReport

_T = TypeVar("_T")

_EACH = 100


class _Saver:
    """A process that saves 1 KB durably, one after the other, until `end`."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.saver", str(folder)]
        self._process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # its first line: it has begun

    def end(self) -> list[float]:
        """Return how long each of its saves took, in seconds, shortest first."""
        printed, _ = self._process.communicate(b"\n")
        return sorted(float(line) for line in printed.split())


class _Passes(NamedTuple):
    """Seconds of each pass, and of the saves of another process."""

    fold: float
    idle: float
    half: float
    quiet: list[float]
    beside: list[float]
    bytes_each: float


def measure(run: Run) -> Subject:
    """Run the worker's own task on jobs of 100 checkpoints, twice."""
    jobs = run.pick(10_000, 100)
    folder = run.folder / "many-jobs"
    # In a process of its own, so that its memory does not count.
    making = get_context("spawn").Process(
        target=stores.many_jobs, args=(folder, jobs, _EACH)
    )
    making.start()
    making.join()
    found = _passes(folder)
    scale = jobs / 10_000
    quiet, beside = _p99(found.quiet) * 1e3, _p99(found.beside) * 1e3
    figures = (
        Figure("all jobs read, cold", found.fold, "s"),
        Figure("a pass with nothing to do", found.idle, "s", target=Target(10 * scale)),
        Figure("a pass that removes half", found.half, "s", target=Target(25 * scale)),
        Figure("memory per checkpoint", found.bytes_each, "bytes", target=Target(400)),
        Figure(
            "p99 of another process's saves meanwhile",
            beside,
            "ms",
            peer="the same before",
            peer_value=quiet,
            ratio=beside / quiet,
            target=Target(3, of="ratio"),
        ),
    )
    return Subject(
        "Retention of many jobs",
        f"{jobs:,} jobs of {_EACH} checkpoints, the worker's own task.",
        figures,
    )


def _passes(folder: Path) -> _Passes:
    with CheckpointManager(folder) as manager:
        manager.seq("another")  # load lazy modules before the measurement
        before = stores.resident_bytes()
        fold, infos = _timed(manager.jobs)
        count = sum(info.checkpoints for info in infos)
        each = (stores.resident_bytes() - before) / count
        idle, report = _timed(lambda: _pass(manager, keep_last=_EACH))
        assert report.counts["removed"] == 0, report
        saver = _Saver(folder)
        threading.Event().wait(max(3.0, fold))  # the saver runs during this time
        quiet = saver.end()
        saver = _Saver(folder)
        half, report = _timed(partial(_in_a_thread, manager, _EACH // 2))
        beside = saver.end()
        assert report.counts["removed"] == count // 2, report
    return _Passes(fold, idle, half, quiet, beside, each)


def _in_a_thread(manager: CheckpointManager, keep_last: int) -> TaskReport:
    """Run a pass as the worker's scheduler does: in a thread of low priority."""
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        return pool.submit(_pass, manager, keep_last=keep_last).result()


def _pass(manager: CheckpointManager, *, keep_last: int) -> TaskReport:
    retention = RetentionSettings(
        min_age=Span(),
        max_per_run=10_000_000,
        default=Rule(keep_last=keep_last),
        rule=[MatchRule(match="beside")],
    )
    return RETENTION.run(TaskContext(manager, Settings(retention=retention), utc_now()))


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    start = perf_counter()
    found = work()
    return perf_counter() - start, found


def _p99(seconds: list[float]) -> float:
    return seconds[min(len(seconds) * 99 // 100, len(seconds) - 1)]
