"""Processes that save at the same time: how much they save together, and how evenly."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from contextlib import ExitStack
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.contenders import OURS, stores_of_states
from benchmarks.peers import Logged
from benchmarks.running import Figure, Subject
from benchmarks.states import states

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from benchmarks.running import Run

_PROCESSES = 8
_SHARED = f"{OURS}, all on one job"
_BEGIN_SECONDS = 0.05  # until every process has read when to begin


class _Turn(NamedTuple):
    """What one contender's processes did in one turn, all together."""

    rate: float
    p99: float


def measure(run: Run) -> Subject:
    """Let the same processes save through each contender in turns."""
    folder = run.new_folder("processes")
    names = [*stores_of_states(), _SHARED]
    _make(folder)
    seconds = run.pick(10, 2) / 10
    with ExitStack() as stack:
        pipes = [stack.enter_context(_process(folder, n)) for n in range(_PROCESSES)]
        for pipe in pipes:
            pipe.recv()
        found: dict[str, list[_Turn]] = {name: [] for name in names}
        for _ in range(run.pick(5, 1)):
            for name in names:
                found[name].append(_turn(pipes, name, seconds))
    return Subject(
        f"{_PROCESSES} processes",
        f"{_PROCESSES} processes save 1 KB durably, each to a job of its own in one "
        "store.  The slowest saves are those of a process that others keep waiting.",
        tuple(_figures(found)),
    )


def _make(folder: Path) -> None:
    """Make each store, before many processes open it."""
    for name, opening in stores_of_states().items():
        peer = opening(folder / name)
        if isinstance(peer, Logged):
            peer.warm_up()
        peer.close()


class _process:  # noqa: N801 - a context manager, called like a function
    """A process that saves when it is asked to, and ends with the block."""

    def __init__(self, folder: Path, number: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(folder, number, theirs))

    def __enter__(self) -> Connection:
        self._process.start()
        return self._pipe

    def __exit__(self, *exc: object) -> None:
        self._pipe.send(None)
        self._process.join()


def _serve(folder: Path, number: int, pipe: Connection) -> None:
    """Answer each (contender, begin, end) with the times of its saves."""
    source = cycle(states(1024))
    peers = {
        name: opening(folder / name, f"job-{number}")
        for name, opening in stores_of_states().items()
    }
    peers[_SHARED] = stores_of_states()[OURS](folder / OURS, "shared")
    for peer in peers.values():
        peer.save(next(source))
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        name, begin, end = asked
        save = peers[name].save
        time.sleep(max(0.0, begin - time.monotonic()))
        took = []
        before = time.monotonic()
        while before < end:
            save(next(source))
            now = time.monotonic()
            took.append(now - before)
            before = now
        pipe.send(took)
    for peer in peers.values():
        peer.close()


def _turn(pipes: Sequence[Connection], name: str, seconds: float) -> _Turn:
    begin = time.monotonic() + _BEGIN_SECONDS
    for pipe in pipes:
        pipe.send((name, begin, begin + seconds))
    took = sorted(each for pipe in pipes for each in pipe.recv())
    until = time.monotonic()
    slowest = took[min(len(took) * 99 // 100, len(took) - 1)]
    return _Turn(len(took) / (until - begin), slowest)


def _figures(found: dict[str, list[_Turn]]) -> Iterator[Figure]:
    mine = found.pop(OURS)
    for name, unit, scale, of in (
        ("a job each", "saves/s", 1.0, 0),
        ("a job each, 99th percentile of a save", "ms", 1e3, 1),
    ):
        for peer, theirs in found.items():
            pairs = zip(mine, theirs, strict=True)
            yield Figure(
                name,
                statistics.median(turn[of] for turn in mine) * scale,
                unit,
                peer=peer,
                peer_value=statistics.median(turn[of] for turn in theirs) * scale,
                ratio=statistics.median(a[of] / b[of] for a, b in pairs),
            )
