"""A store of many jobs: a page of jobs, one checkpoint by its id, the command."""

from __future__ import annotations

from functools import partial
from multiprocessing import get_context
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks import startups, stores
from benchmarks.running import Subject, Target
from benchmarks.timing import race
from milepost import CheckpointManager

if TYPE_CHECKING:
    from benchmarks.running import Run

_EACH = 10
_COMMAND = "`milepost jobs`"


def measure(run: Run) -> Subject:
    """Ask one process repeatedly, and start the command repeatedly."""
    jobs = run.pick(10_000, 50)
    folder = run.folder / "jobs"
    # In a process of its own, whose memory ends with it.
    making = get_context("spawn").Process(
        target=stores.many_jobs, args=(folder, jobs, _EACH)
    )
    making.start()
    making.join()
    with CheckpointManager(folder) as manager:
        start = perf_counter()
        manager.jobs()
        first_seconds = perf_counter() - start
        middle = manager.latest(manager.job_ids()[jobs // 2])
        assert middle is not None
        calls = {
            "a page of 100 jobs": partial(manager.jobs, limit=100),
            "one checkpoint by its id": partial(manager.find, middle),
        }
        times = race(calls, rounds=run.pick(20, 3), calls=3, waits=False)
    listing = {_COMMAND: partial(startups.command, run.folder, folder, "jobs")}
    times |= race(listing, rounds=run.pick(5, 1))
    targets = {_COMMAND: Target(500)}
    return Subject(
        "Many jobs",
        f"{jobs:,} jobs of {_EACH} checkpoints.  The first two are asked again in one "
        "process, which has read the jobs before; the command starts Python each time.",
        tuple(
            found.figure(
                f"{name}, of {jobs:,} jobs",
                "ms" if name == _COMMAND else "µs",
                target=targets.get(name),
                why=f"the first call of a process takes {first_seconds * 1e3:,.0f} ms",
            )
            for name, found in times.items()
        ),
    )
