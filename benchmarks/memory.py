"""Memory of the index per live checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.running import PROJECT, Figure, Subject, Target

if TYPE_CHECKING:
    from benchmarks.running import Run

_TARGET = Target(400)


def measure(run: Run) -> Subject:
    """Open a job in a new process and measure how much that process grows."""
    count = run.pick(100_000, 2_000)
    folder = stores.checkpoints(run, count)
    figures = [_figure(folder, count, "tracemalloc", "allocated by Python")]
    if Path("/proc/self/statm").exists():
        figures.append(_figure(folder, count, "rss", "resident memory"))
    return Subject(
        "Memory of the index",
        f"{count:,} live checkpoints of one job.  Resident memory includes the "
        "read buffer, whose share grows as the count falls.",
        tuple(figures),
    )


def _figure(folder: Path, count: int, how: str, name: str) -> Figure:
    command = [sys.executable, "-m", "benchmarks.memory_probe", str(folder), how]
    found = subprocess.run(
        command, cwd=PROJECT, check=True, capture_output=True, text=True
    )
    return Figure(
        f"per checkpoint, {name}", int(found.stdout) / count, "bytes", target=_TARGET
    )
