"""A new process beside a large job: its first answer, and its memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.contenders import OURS, filled, stores_of_states
from benchmarks.peers import Paged
from benchmarks.reading import SLOW_AT_1_000_000, SLOW_AT_100_000
from benchmarks.running import PROJECT, Figure, Subject, Target
from benchmarks.timing import Times, figures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.running import Run

_QUESTIONS = {"latest": "newest state", "page": "first page"}
_BYTES = Target(64)


class _Found(NamedTuple):
    """Of one process, by what it was asked."""

    seconds: float
    grown_bytes: float


def measure(run: Run) -> Subject:
    """Ask new processes, in turns."""
    found: list[Figure] = []
    for count, rounds, without, bound in (
        (run.pick(100_000, 2_000), 5, SLOW_AT_100_000, 10),
        (run.pick(1_000_000, 5_000), 3, SLOW_AT_1_000_000, 100),
    ):
        folders = filled(run, count, without=without)
        found += _figures(folders, count, run.pick(rounds, 1), Target(bound))
    return Subject(
        "Opening in a new process",
        "The time from the opening of the store until the process has its answer, with "
        "all modules loaded and the files in the page cache.  The process that saved "
        "has closed the store, and so kept a snapshot of Milepost's job.  Memory is "
        "what the process grew by until it had the newest state, for each checkpoint.",
        tuple(found),
    )


def _figures(
    folders: dict[str, Path], count: int, rounds: int, target: Target
) -> Iterator[Figure]:
    for question, answer in _QUESTIONS.items():
        names = [
            name
            for name in folders
            if question != "page" or issubclass(stores_of_states()[name], Paged)  # type: ignore[arg-type] # all are classes
        ]
        found: dict[str, list[_Found]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                found[name].append(_ask(name, folders[name], question))
        times = {
            name: Times(tuple((each.seconds,) for each in asked))
            for name, asked in found.items()
        }
        yield from figures(
            f"{answer} of {count:,}",
            "ms",
            OURS,
            times,
            targets={OURS: target},
            why=f"{times[OURS].p50 / count * 1e6:.2f} µs for each checkpoint",
        )
        if question == "latest":
            yield from _memory(found, count)


def _ask(name: str, folder: Path, question: str) -> _Found:
    command = [sys.executable, "-m", "benchmarks.opening_probe"]
    printed = subprocess.run(
        [*command, name, str(folder), question],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return _Found(*map(float, printed.split()))


def _memory(found: dict[str, list[_Found]], count: int) -> Iterator[Figure]:
    each = {
        name: statistics.median(one.grown_bytes for one in asked) / count
        for name, asked in found.items()
    }
    mine = each.pop(OURS)
    name = f"memory for each of {count:,}"
    yield Figure(name, mine, "bytes", target=_BYTES)
    for peer, theirs in each.items():
        ratio = mine / theirs if theirs else None
        yield Figure(name, mine, "bytes", None, peer, theirs, ratio)
