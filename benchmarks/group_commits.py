"""The gain of many threads from a shared write and sync, or from parallel syncs."""

from __future__ import annotations

import os
import random
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle
from threading import Barrier
from time import perf_counter, sleep
from typing import TYPE_CHECKING, NamedTuple, cast

from benchmarks import stores
from benchmarks.peers import BareAppend
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import states
from benchmarks.timing import race
from milepost import CheckpointManager
from milepost.journal.disk.disk import PosixDisk, PosixFile
from milepost.journal.storage.files.storage import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.running import Run
    from milepost.journal.disk.disk import Mode

_THREADS = 32
_LONGER_MS = (0.5, 2)
_PINNED = "on one processor"


class _Contender(NamedTuple):
    """`save` is called with the thread's number, `each` times in every thread.

    `is_pinned`: all threads run on one processor.
    """

    threads: int
    each: int
    save: Callable[[int], object]
    is_pinned: bool = False


class _SlowFile(PosixFile):
    """A file of a `SlowDisk`."""

    seconds = 0.0

    def sync(self, *, metadata: bool = False) -> None:
        """See `File.sync`."""
        sleep(self.seconds)
        super().sync(metadata=metadata)


class SlowDisk(PosixDisk):
    """The real disk, with each sync a given number of seconds longer.

    Syncs of several files take no longer than that of one, as on solid-state disks.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> PosixFile:
        """See `Disk.open`."""
        file = super().open(path, mode, create=create, like=like)
        file.__class__ = _SlowFile
        cast("_SlowFile", file).seconds = self._seconds
        return file


def measure(run: Run) -> Subject:
    """Compare 32 threads with one, on one job and on 32 jobs."""
    folder = run.new_folder("group")
    busy_seconds = _seconds_of_python(folder / "unsynced", run.pick(500, 50))
    rates = _rates(run, folder, busy_seconds)
    floor = f"bare append after {busy_seconds * 1e6:.0f} µs of Python, 32 files"
    peer, alone = "1 thread", rates.alone
    why = f"{busy_seconds * 1e6:.0f} µs of Python per save, one thread at a time"
    figures = [
        _figure("1 thread", alone),
        _figure("32 threads, one job", rates.shared, peer, alone, 4, why),
        _figure("32 threads, 32 jobs", rates.own, peer, alone, 2, why),
        _figure("32 threads, 32 jobs", rates.own, floor, rates.busy),
        _figure(f"32 threads, one job, {_PINNED}", rates.shared_pinned, peer, alone),
        _figure(f"32 threads, 32 jobs, {_PINNED}", rates.own_pinned, peer, alone),
        _figure("bare append, 1 thread", rates.bare),
        _figure(
            "bare append, 32 threads, 32 files",
            rates.bare_own,
            "bare append, 1 thread",
            rates.bare,
        ),
    ]
    for milliseconds in _LONGER_MS:
        figures += _on_a_slow_disk(run, folder, milliseconds, why)
    return Subject(
        "Group commit",
        "Durable saves of 1 KB.  Only one thread at a time runs Python, so 32 files "
        "that are synced at once are bound by Python's time on a fast disk: the row "
        "with a bare append after as much Python as a save takes is the most that is "
        "to be had there.  Rows with a longer "
        "sync are of the same disk behind a wrapper that sleeps before each sync.  "
        "Threads on one processor do not wake each other on another one for an "
        "interpreter that is taken.",
        tuple(figures),
    )


def _on_a_slow_disk(
    run: Run, folder: Path, milliseconds: float, why: str
) -> list[Figure]:
    """Compare 32 threads with one where each sync takes longer."""
    source = cycle(states(1024))
    root = folder / f"slow-{milliseconds:g}"
    storage = FileStorage(root, disk=SlowDisk(milliseconds / 1e3))
    with CheckpointManager(storage=storage) as manager:

        def save(job_id: str) -> None:
            manager.save(job_id, stores.STEP, next(source))

        few, many = run.pick(40, 10), run.pick(20, 2)
        contenders = (
            _Contender(1, few, lambda _: save("alone")),
            _Contender(_THREADS, many, lambda _: save("shared")),
            _Contender(_THREADS, many, lambda number: save(f"own-{number}")),
            _Contender(_THREADS, many, lambda number: save(f"own-{number}"), True),
        )
        for contender in contenders:
            _rate(contender)
        turns = [partial(_rate, each) for each in contenders]
        rounds = [_in_any_order(turns) for _ in range(run.pick(5, 2))]
    alone, shared, own, pinned = zip(*rounds, strict=True)
    peer, longer = "1 thread", f"a sync {milliseconds:g} ms longer"
    own_name = f"32 threads, 32 jobs, {longer}"
    return [
        _figure(f"32 threads, one job, {longer}", shared, peer, alone, 4, why),
        _figure(own_name, own, peer, alone, 4, why),
        _figure(f"{own_name}, {_PINNED}", pinned, peer, alone),
    ]


class _Rates(NamedTuple):
    """Saves per second, round by round."""

    alone: Sequence[float]
    shared: Sequence[float]
    own: Sequence[float]
    bare: Sequence[float]
    bare_own: Sequence[float]
    busy: Sequence[float]
    shared_pinned: Sequence[float]
    own_pinned: Sequence[float]


def _figure(
    name: str,
    rates: Sequence[float],
    peer: str | None = None,
    peer_rates: Sequence[float] = (),
    times_more: float | None = None,
    why: str = "",
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
        why=why,
    )


def _seconds_of_python(folder: Path, count: int) -> float:
    """Return the time of a save without disk waits, in seconds."""
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

        contenders = (
            _Contender(1, few, lambda _: save("alone")),
            _Contender(_THREADS, many, lambda _: save("shared")),
            _Contender(_THREADS, many, lambda number: save(f"own-{number}")),
            _Contender(1, few, lambda _: bare[0].save()),
            _Contender(_THREADS, many, lambda number: bare[number].save()),
            _Contender(_THREADS, many, save_busily),
            _Contender(_THREADS, many, lambda _: save("shared"), True),
            _Contender(_THREADS, many, lambda number: save(f"own-{number}"), True),
        )
        for contender in contenders:
            _rate(contender)  # opens every file before the first round
        turns = [partial(_rate, each) for each in contenders]
        rounds = [_in_any_order(turns) for _ in range(run.pick(10, 3))]
    return _Rates(*zip(*rounds, strict=True))


def _in_any_order(turns: Sequence[Callable[[], float]]) -> list[float]:
    """Run the turns in a random order, because each may slow down the next."""
    found = [0.0] * len(turns)
    for number in random.sample(range(len(turns)), len(turns)):
        found[number] = turns[number]()
    return found


def _rate(contender: _Contender) -> float:
    """Return saves per second, all threads together."""
    threads, each, save, is_pinned = contender
    start_line = Barrier(threads + 1)

    def work(number: int) -> None:
        if is_pinned:  # without this call the row has no meaning
            with suppress(AttributeError):
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
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
