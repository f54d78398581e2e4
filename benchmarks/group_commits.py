"""What many threads gain by sharing a write and a sync, or by syncing in parallel."""

from __future__ import annotations

import statistics
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from threading import Barrier
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import stores
from benchmarks.peers import BareAppend
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import states
from benchmarks.timing import race
from journal import CheckpointManager
from journal.write_queue import Waiter, WriteQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.running import Run
    from journal.write_queue import Request

_THREADS = 32


class _Contender(NamedTuple):
    """`save` is called with the thread's number, `each` times in every thread."""

    threads: int
    each: int
    save: Callable[[int], object]


class _NoQueue(WriteQueue):
    """What a save would pass through if none could ever share its write."""

    def submit(
        self,
        request: Request,
        *,
        is_shared: bool,
        commit: Callable[[deque[Waiter]], None],
    ) -> object:
        """See `WriteQueue.submit`."""
        me = Waiter(request, is_shared=is_shared)
        commit(deque([me]))
        if me.error is not None:
            raise me.error
        return me.answer


def measure(run: Run) -> Subject:
    """Compare 32 threads with one, on one job and on 32 jobs; and one with no queue."""
    folder = run.new_folder("group")
    busy_seconds = _seconds_of_python(folder / "unsynced", run.pick(500, 50))
    rates = _rates(run, folder, busy_seconds)
    floor = f"bare append after {busy_seconds * 1e6:.0f} µs of Python, 32 files"
    figures = (
        _figure("1 thread", rates.alone, "1 thread, no queue", rates.direct, 0.95),
        _figure("32 threads, one job", rates.shared, "1 thread", rates.alone, 5),
        _figure("32 threads, 32 jobs", rates.own, "1 thread", rates.alone, 4),
        _figure("32 threads, 32 jobs", rates.own, floor, rates.busy),
        _figure("bare append, 1 thread", rates.bare),
        _figure(
            "bare append, 32 threads, 32 files",
            rates.bare_own,
            "bare append, 1 thread",
            rates.bare,
        ),
    )
    return Subject(
        "Group commit",
        "Durable saves of 1 KB.  Only one thread at a time runs Python, so 32 files "
        "that are synced at once are bound by Python's time on a fast disk: the row "
        "with a bare append after as much Python as a save takes is the most that is "
        "to be had there.  A single thread is compared with one whose saves pass "
        "through no queue, where saves meet to share a write.",
        figures,
    )


class _Rates(NamedTuple):
    """Saves per second, round by round."""

    alone: Sequence[float]
    direct: Sequence[float]
    shared: Sequence[float]
    own: Sequence[float]
    bare: Sequence[float]
    bare_own: Sequence[float]
    busy: Sequence[float]


def _figure(
    name: str,
    rates: Sequence[float],
    peer: str | None = None,
    peer_rates: Sequence[float] = (),
    times_more: float | None = None,
) -> Figure:
    target = None
    if times_more is not None:
        target = Target(times_more, of="ratio", is_floor=True)
    median = statistics.median
    ratios = [mine / theirs for mine, theirs in zip(rates, peer_rates, strict=False)]
    return Figure(
        name,
        median(rates),
        "saves/s",
        peer=peer,
        peer_value=median(peer_rates) if ratios else None,
        ratio=median(ratios) if ratios else None,
        target=target,
    )


def _seconds_of_python(folder: Path, count: int) -> float:
    """Return how long a save takes that waits for no disk."""
    source = cycle(states(1024))
    with CheckpointManager(folder, durability="never") as manager:
        contender = {"save": lambda: manager.save("job", stores.STEP, next(source))}
        return race(contender, rounds=count)["save"].p50


def _rates(run: Run, folder: Path, busy_seconds: float) -> _Rates:
    source = cycle(states(1024))
    few, many = run.pick(100, 20), run.pick(20, 4)
    with ExitStack() as stack:
        manager = stack.enter_context(CheckpointManager(folder / "milepost"))
        bare = [
            stack.enter_context(BareAppend(folder / f"bare-{number}", 1500))
            for number in range(_THREADS)
        ]

        def save(job_id: str) -> None:
            manager.save(job_id, stores.STEP, next(source))

        def save_busily(number: int) -> None:
            end = perf_counter() + busy_seconds
            while perf_counter() < end:
                pass
            bare[number].save()

        manager._store._job("direct").queue = _NoQueue()  # noqa: SLF001 - no public way around it
        contenders = (
            _Contender(1, few, lambda _: save("alone")),
            _Contender(1, few, lambda _: save("direct")),
            _Contender(_THREADS, many, lambda _: save("shared")),
            _Contender(_THREADS, many, lambda number: save(f"own-{number}")),
            _Contender(1, few, lambda _: bare[0].save()),
            _Contender(_THREADS, many, lambda number: bare[number].save()),
            _Contender(_THREADS, many, save_busily),
        )
        for contender in contenders:
            _rate(contender)  # opens every file, so that no round pays for it
        rounds = [[_rate(c) for c in contenders] for _ in range(run.pick(10, 3))]
    return _Rates(*zip(*rounds, strict=True))


def _rate(contender: _Contender) -> float:
    """Return saves per second, all threads together."""
    threads, each, save = contender
    start_line = Barrier(threads + 1)

    def work(number: int) -> None:
        start_line.wait()
        for _ in range(each):
            save(number)

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work, number) for number in range(threads)]
        start_line.wait()
        start = perf_counter()
        for future in working:
            future.result()
        return threads * each / (perf_counter() - start)
