"""The cost of a durable save beyond the bare write and sync below it."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import cycle
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.peers import BareAppend, JsonFiles, SqliteRows
from benchmarks.running import Subject, Target
from benchmarks.states import states
from benchmarks.timing import race
from milepost import CheckpointManager, Key, KeyRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers import Care
    from benchmarks.running import Figure, Run
    from benchmarks.timing import Times

OURS = "Milepost, durability always"
ENCRYPTED = "Milepost, encrypted"
PLAIN = "Milepost, codec json"
FLOOR = "bare append + fdatasync"
_CARES: tuple[Care, ...] = ("synced and renamed", "synced in place", "not synced")
_TARGETS = {1: Target(1.5, of="ratio")}


def measure(run: Run) -> Subject:
    """Save states of three sizes, each in turns with every peer."""
    figures: list[Figure] = []
    for kilobytes, rounds in ((1, 80), (10, 50), (100, 40)):
        figures += _figures(kilobytes, _race(run, kilobytes, run.pick(rounds, 5)))
        figures.append(_computing(run, kilobytes, run.pick(rounds, 5)))
    return Subject(
        "Durable save",
        "Time until one caller has its answer.  The ratio is to the bare append of the "
        "same number of bytes: 1.0 adds nothing to the cost of the disk; that of "
        "the encrypted save is to the same one without keys.  What a "
        "save adds is Python's time and hardly depends on the disk, so the faster the "
        "disk the higher the ratio; the row with dumps and SHA-256 shows how much of "
        "it any checked save in Python pays.  “Not synced” survives no power cut.  A "
        "SQLite row and a file hold orjson's bytes, without digest, chain or check; "
        "SQLite's copying of its log into the database is not in the figures.",
        tuple(figures),
    )


def _race(run: Run, kilobytes: int, rounds: int) -> dict[str, Times]:
    folder = run.new_folder(f"save-{kilobytes}")
    source = cycle(states(kilobytes * 1024))
    with ExitStack() as stack:
        manager = stack.enter_context(CheckpointManager(folder / "milepost"))
        keys = KeyRing([Key.new("bench")])
        locked = stack.enter_context(CheckpointManager(folder / "locked", keys=keys))
        plain = stack.enter_context(CheckpointManager(folder / "plain", codec="json"))
        for _ in range(2):  # the first one also opens the job
            manager.save(stores.JOB, stores.STEP, next(source))
            locked.save(stores.JOB, stores.STEP, next(source))
            plain.save(stores.JOB, stores.STEP, next(source))
        size_bytes = manager.list(stores.JOB)[-1].stored_bytes
        bare = stack.enter_context(BareAppend(folder / "bare", size_bytes))
        least = stack.enter_context(BareAppend(folder / "least", size_bytes))
        rows = stack.enter_context(SqliteRows(folder / "rows.db"))
        contenders: dict[str, Callable[[], object]] = {
            FLOOR: bare.save,
            OURS: lambda: manager.save(stores.JOB, stores.STEP, next(source)),
            ENCRYPTED: lambda: locked.save(stores.JOB, stores.STEP, next(source)),
            PLAIN: lambda: plain.save(stores.JOB, stores.STEP, next(source)),
            "dumps + SHA-256 + bare append": lambda: least.save_checked(next(source)),
            "SQLite row, WAL, FULL": lambda: rows.save(next(source)),
        }
        for care in _CARES:
            (folder / care).mkdir()
            files = JsonFiles(folder / care, care)
            contenders[f"JSON file, {care}"] = _saver(files, source)
        return race(contenders, rounds=rounds, calls=5)


def _computing(run: Run, kilobytes: int, rounds: int) -> Figure:
    """Return the processor time of a save."""
    folder = run.new_folder(f"computing-{kilobytes}")
    source = cycle(states(kilobytes * 1024))
    with CheckpointManager(folder / "milepost") as manager:
        for _ in range(2):
            manager.save(stores.JOB, stores.STEP, next(source))
        size_bytes = manager.list(stores.JOB)[-1].stored_bytes
        with BareAppend(folder / "bare", size_bytes) as bare:
            contenders: dict[str, Callable[[], object]] = {
                FLOOR: bare.save,
                OURS: lambda: manager.save(stores.JOB, stores.STEP, next(source)),
            }
            times = race(contenders, rounds=rounds, calls=5, waits=False)
    return times[OURS].figure(
        f"{kilobytes} KB: {OURS}, processor time", "µs", beside=(FLOOR, times[FLOOR])
    )


def _saver(files: JsonFiles, source: cycle[dict[str, object]]) -> Callable[[], None]:
    return lambda: files.save(next(source))


def _figures(kilobytes: int, times: dict[str, Times]) -> list[Figure]:
    floor, ours = times[FLOOR], times[OURS]
    return [
        found.figure(
            f"{kilobytes} KB: {name}",
            "µs",
            beside=_beside(name, floor, ours),
            target=_TARGETS.get(kilobytes) if name == OURS else None,
        )
        for name, found in times.items()
    ]


def _beside(name: str, floor: Times, ours: Times) -> tuple[str, Times] | None:
    """Return the peer of a row; of encryption, the same save without it."""
    if name == FLOOR:
        return None
    return (OURS, ours) if name == ENCRYPTED else (FLOOR, floor)
