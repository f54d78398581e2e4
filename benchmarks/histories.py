"""The cost of a history of states: on the disk, to save, and to restore."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import orjson

from benchmarks import stores
from benchmarks.peers import JsonFiles, SqliteRows
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import chat, edits, in_turns, noise, states
from benchmarks.timing import race
from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from benchmarks.running import Run
    from benchmarks.timing import Times
    from milepost.journal.states.packer import Codec

    States = list[dict[str, Any]]

OURS = "Milepost"
PLAIN = "Milepost, codec json"
FILES = "JSON files"
ROWS = "SQLite rows"
_RESTORE_TARGET = Target(5, of="ratio")
_SAVE_TARGET = Target(1.3, of="ratio")


class History(NamedTuple):
    """Successive states of one job, and their target size."""

    name: str
    states: States
    target: Target


def measure(run: Run) -> Subject:
    """Save each history in every way; then restore, and save, in turns."""
    figures: list[Figure] = []
    for number, history in enumerate(_histories(run)):
        folder = run.new_folder(f"history-{number}")
        figures += _bytes(folder, history)
        if number == 0:
            figures += _restores(folder, history, run.pick(40, 3))
    figures += _saves(run)
    return Subject(
        "Histories of states",
        "Bytes are the sum of all files of the store.  A restore reads one of the "
        "chat's states at random, from the page cache, and verifies it; peers verify "
        "nothing.  A durable save of 10 KB is compared with codec json: "
        "one record edited at each step, or states that share no more than their "
        "shape.",
        tuple(figures),
    )


def _histories(run: Run) -> Iterator[History]:
    steps = run.pick(200, 20)
    yield History(f"chat of {steps} steps", chat(steps), Target(600_000))
    yield History(
        f"chat of {steps} steps with 50 KB", chat(steps, 50_000), Target(700_000)
    )
    for name, found, share in (
        ("1 MB, five records edited", edits(1_000_000, count=run.pick(30, 3)), 0.2),
        ("40 KB, two shapes in turns", in_turns(40_000, count=run.pick(40, 8)), 0.5),
        ("100 KB without any pattern", noise(100_000, count=run.pick(20, 3)), 1.4),
    ):
        yield History(f"{len(found)} of {name}", found, Target(share, of="ratio"))


def _raw(found: States) -> int:
    return sum(len(orjson.dumps(state)) for state in found)


def _bytes(folder: Path, history: History) -> list[Figure]:
    stores.fill(folder / "milepost", history.states)
    stores.fill(folder / "plain", history.states, codec="json")
    (folder / "files").mkdir()
    (folder / "rows").mkdir()
    files = JsonFiles(folder / "files", "not synced")
    with SqliteRows(folder / "rows" / "rows.db", is_durable=False) as rows:
        for state in history.states:
            files.save(state)
            rows.save(state)
    ours = _size(folder / "milepost")
    peers = {"the states' JSON alone": _raw(history.states)}
    peers |= {FILES: _size(folder / "files"), ROWS: _size(folder / "rows")}
    return [
        Figure(
            f"disk, {history.name}, against {peer}",
            ours,
            "bytes",
            None,
            peer,
            size,
            ours / size,
            history.target if peer.startswith("the states") else None,
        )
        for peer, size in peers.items()
    ]


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _restores(folder: Path, history: History, rounds: int) -> list[Figure]:
    files = JsonFiles(folder / "files", "not synced")
    with ExitStack() as stack:
        rows = stack.enter_context(SqliteRows(folder / "rows" / "rows.db"))
        contenders: dict[str, Callable[[int], object]] = {
            OURS: _restorer(stack, folder / "milepost"),
            PLAIN: _restorer(stack, folder / "plain"),
            FILES: files.load,
            ROWS: rows.load,
        }
        count = len(history.states)
        # 7 and the count are coprime, so each contender reads every state.
        order = [n * 7 % count + 1 for n in range(count)]
        times = race(
            {name: _each(load, order) for name, load in contenders.items()},
            rounds=rounds,
            calls=20,
        )
    return [
        _beside(f"restore, {history.name}", times, OURS, peer, target)
        for peer, target in ((PLAIN, _RESTORE_TARGET), (FILES, None), (ROWS, None))
    ]


def _restorer(stack: ExitStack, folder: Path) -> Callable[[int], object]:
    manager = stack.enter_context(CheckpointManager(folder))
    ids = [info.checkpoint_id for info in manager.list(stores.JOB)]
    return lambda number: manager.get(stores.JOB, ids[number - 1])


def _each(load: Callable[[int], object], order: list[int]) -> Callable[[], object]:
    numbers = cycle(order)
    return lambda: load(next(numbers))


def _saves(run: Run) -> Iterator[Figure]:
    kinds = {
        "one record edited": edits(10_240, count=400, changed=1),
        "another state each time": states(10_240, count=64),
    }
    for number, (kind, found) in enumerate(kinds.items()):
        folder = run.new_folder(f"cost-{number}")
        (folder / "files").mkdir()
        with ExitStack() as stack:
            contenders = {
                OURS: _saver(stack, folder / "milepost", "auto", found),
                PLAIN: _saver(stack, folder / "plain", "json", found),
            }
            rows = stack.enter_context(SqliteRows(folder / "rows.db"))
            files = JsonFiles(folder / "files", "synced and renamed")
            contenders[FILES] = _each_state(files.save, found)
            contenders[ROWS] = _each_state(rows.save, found)
            times = race(contenders, rounds=run.pick(60, 3), calls=5)
        for peer, target in ((PLAIN, _SAVE_TARGET), (FILES, None), (ROWS, None)):
            yield _beside(f"durable save, 10 KB, {kind}", times, OURS, peer, target)


def _saver(
    stack: ExitStack, folder: Path, codec: Codec, found: States
) -> Callable[[], object]:
    manager = stack.enter_context(CheckpointManager(folder, codec=codec))
    return _each_state(
        lambda state: manager.save(stores.JOB, stores.STEP, state), found
    )


def _each_state(
    save: Callable[[dict[str, Any]], object], found: States
) -> Callable[[], object]:
    source = cycle(found)
    return lambda: save(next(source))


def _beside(
    name: str, times: dict[str, Times], ours: str, peer: str, target: Target | None
) -> Figure:
    return times[ours].figure(
        f"{name}, against {peer}", "µs", beside=(peer, times[peer]), target=target
    )
