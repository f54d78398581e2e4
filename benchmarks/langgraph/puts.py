"""How long a durable put takes, and how many there are in a second."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import statistics
import threading
import time
from contextlib import ExitStack
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.langgraph.savers import (
    ASYNC_SQLITE,
    MEMORY,
    OURS,
    SQLITE,
    Thread,
    opened,
)
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import growing, states
from benchmarks.timing import figures, race

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.running import Run
    from benchmarks.timing import Times

_THREADS = 8
_PROCESSES = 4
_Rate = "Callable[[], float]"


def measure(run: Run) -> Subject:
    """Put checkpoints with each saver in turns."""
    found: list[Figure] = []
    rounds = run.pick(60, 4)
    for kilobytes in (1, 10, 100):
        sources = growing(kilobytes * 1024, count=16 if kilobytes == 1 else 64)
        found += _latency(run, f"put, growing {kilobytes} KB", sources, rounds, 1.25)
    sources = states(100 * 1024, count=64)
    found += _latency(run, "put, unrelated 100 KB", sources, rounds, 2)
    found += _threads(run)
    found += _processes(run)
    found += _async(run)
    return Subject(
        "Durable puts",
        "A put returns when the checkpoint survives a power cut; SqliteSaver runs "
        "with WAL and synchronous=FULL.  InMemorySaver keeps nothing.  *Threads*: one "
        "saver, a thread_id each.  *Processes*: one store, a thread_id each.  *Async*: "
        "one put after the other in one event loop.",
        tuple(found),
    )


def _latency(
    run: Run, name: str, sources: list[dict[str, Any]], rounds: int, bound: float
) -> list[Figure]:
    folder = run.new_folder(name)
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for saver_name in (OURS, SQLITE, MEMORY):
            saver = stack.enter_context(opened(saver_name, folder / saver_name))
            calls[saver_name] = partial(_put_next, _turns(saver), cycle(sources))
            calls[saver_name]()
        times = race(calls, rounds=rounds, calls=5)
    return [
        *figures(name, "µs", OURS, times, targets={SQLITE: Target(bound, of="ratio")}),
        _tail(f"{name}, p99", times, bound),
        *figures(
            f"{name}, processor time",
            "µs",
            OURS,
            {who: each.computed for who, each in times.items()},
        ),
    ]


def _turns(saver: Any) -> Iterator[Thread]:
    """Yield the thread to put into: another one after each 64 puts."""
    for number in count():
        thread = Thread(saver, f"thread-{number}")
        for _ in range(64):
            yield thread


def _put_next(threads: Iterator[Thread], sources: Iterator[dict[str, Any]]) -> None:
    next(threads).put(**next(sources))


def _tail(name: str, times: Mapping[str, Times], bound: float) -> Figure:
    ours, theirs = times[OURS].p99, times[SQLITE].p99
    return Figure(
        *(name, ours * 1e6, "µs"),
        peer=SQLITE,
        peer_value=theirs * 1e6,
        ratio=ours / theirs,
        target=Target(bound, of="ratio"),
    )


def _threads(run: Run) -> list[Figure]:
    folder, puts = run.new_folder("beside"), run.pick(150, 10)
    with ExitStack() as stack:
        rates = {
            name: partial(
                _rate_of_threads,
                stack.enter_context(opened(name, folder / name)),
                puts,
                count(),
            )
            for name in (OURS, SQLITE, MEMORY)
        }
        return _rates(f"{_THREADS} threads, 1 KB", rates, run.pick(7, 2), {SQLITE: 2})


def _rate_of_threads(saver: Any, puts: int, turns: Iterator[int]) -> float:
    turn = next(turns)
    sources = states(1024, count=64)

    def work(number: int) -> None:
        thread = Thread(saver, f"turn-{turn}-{number}")
        for source in sources[: puts % 64] + sources * (puts // 64):
            thread.put(**source)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(_THREADS)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return _THREADS * puts / (time.perf_counter() - start)


def _processes(run: Run) -> list[Figure]:
    folder, puts = run.new_folder("processes"), run.pick(300, 10)
    for name in (OURS, SQLITE):
        with opened(name, folder / name) as saver:
            Thread(saver, "first").put(text="x")
    rates = {
        name: partial(_rate_of_processes, name, folder / name, puts, count())
        for name in (OURS, SQLITE)
    }
    name = f"{_PROCESSES} processes, 1 KB"
    return _rates(name, rates, run.pick(5, 2), {SQLITE: 1.5})


def _rate_of_processes(
    name: str, folder: Path, puts: int, turns: Iterator[int]
) -> float:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(_PROCESSES + 1), context.Barrier(_PROCESSES + 1)
    turn = next(turns)
    children = [
        context.Process(
            target=_work, args=(name, folder, f"{turn}-{number}", puts, ready, go)
        )
        for number in range(_PROCESSES)
    ]
    for child in children:
        child.start()
    ready.wait()
    start = time.perf_counter()
    go.wait()
    ready.wait()
    took = time.perf_counter() - start
    for child in children:
        child.join()
        assert child.exitcode == 0
    return _PROCESSES * puts / took


def _work(
    name: str, folder: Path, thread_id: str, puts: int, ready: Any, go: Any
) -> None:
    with opened(name, folder) as saver:
        thread = Thread(saver, thread_id)
        sources = cycle(states(1024, count=64))
        thread.put(**next(sources))
        ready.wait()
        go.wait()
        for _ in range(puts):
            thread.put(**next(sources))
        ready.wait()


def _async(run: Run) -> list[Figure]:
    folder, puts = run.new_folder("async"), run.pick(200, 10)
    rates = {
        name: partial(_rate_of_loop, name, folder, puts, count())
        for name in (OURS, ASYNC_SQLITE)
    }
    return _rates("async, 1 KB", rates, run.pick(7, 2), {ASYNC_SQLITE: 1.5})


def _rate_of_loop(name: str, folder: Path, puts: int, turns: Iterator[int]) -> float:
    sources = cycle(states(1024, count=64))

    async def timed(saver: Any) -> float:
        thread = Thread(saver, f"turn-{next(turns)}")
        await thread.aput(**next(sources))
        start = time.perf_counter()
        for _ in range(puts):
            await thread.aput(**next(sources))
        return puts / (time.perf_counter() - start)

    async def run() -> float:
        if name == OURS:
            with opened(OURS, folder / OURS) as saver:
                return await timed(saver)
        path = str(folder / "async.db")
        async with AsyncSqliteSaver.from_conn_string(path) as saver:
            return await timed(saver)

    return asyncio.run(run())


def _rates(
    name: str,
    contenders: Mapping[str, Callable[[], float]],
    rounds: int,
    bounds: Mapping[str, float],
) -> list[Figure]:
    """Return the rates of contenders, each in turns; ratios are medians of rounds."""
    found: dict[str, list[float]] = {each: [] for each in contenders}
    order = list(contenders)
    shuffle = random.Random(7).shuffle
    for _ in range(rounds):
        shuffle(order)
        for each in order:
            found[each].append(contenders[each]())
    mine = found[OURS]
    return [
        Figure(
            *(name, statistics.median(mine), "puts/s"),
            peer=peer,
            peer_value=statistics.median(theirs),
            ratio=statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
            target=Target(bounds[peer], of="ratio", is_floor=True)
            if peer in bounds
            else None,
        )
        for peer, theirs in found.items()
        if peer != OURS
    ]
