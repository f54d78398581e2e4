"""The cost of a history of states: to save, on the disk, to restore, to delete half."""

from __future__ import annotations

import shutil
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from benchmarks.contenders import OURS, PLAIN, SQLITE, stores_of_states
from benchmarks.peers import JsonFiles, Milepost, Removing, SqliteRows
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import chat, edits, in_turns, noise
from benchmarks.timing import figures, race, race_from_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.peers import Peer
    from benchmarks.running import Run
    from benchmarks.timing import Times

    States = list[dict[str, Any]]
    Openings = dict[str, Callable[..., Peer]]

_JSON = "the states' JSON alone"
_WHOLE = "Milepost, codec zstd"


class History(NamedTuple):
    """Successive states of one job, and the bytes that they may take."""

    name: str
    states: States
    target: Target


def measure(run: Run) -> Subject:
    """Save a chat in every way, restore from it, delete half; then other histories."""
    states = chat(run.pick(200, 20))
    openings: Openings = dict(stores_of_states())
    openings[PLAIN] = partial(Milepost, codec="json")
    openings[_WHOLE] = partial(Milepost, codec="zstd")
    found = [
        *_saves(run, openings, states),
        *_restores(run, openings, states),
    ]
    for history in _histories(run):
        found += _bytes(run, history)
    return Subject(
        "Histories of states",
        "A chat that grows by a message of 1 KB at each step; each save is durable.  "
        "Bytes are the sum of all files of the closed store.  A restore reads from the "
        "page cache; Milepost verifies what it returns, peers do not.  *Saved here*: "
        "the process saved the chat itself.  *Opened*: it has opened the store, and "
        "this is its first read.  Half of the chat is deleted durably, and its space "
        "given back.  What is left of Milepost's is hardly shorter: its newest states "
        "are stored as differences to older ones.",
        tuple(found),
    )


def _saves(run: Run, openings: Openings, states: States) -> Iterator[Figure]:
    """Save the whole chat, and delete half of it, in turns."""
    folder, keep, rounds = run.new_folder("chat"), len(states) // 2, run.pick(3, 1)
    saved: dict[str, int] = {}
    left: dict[str, int] = {}
    saving = {
        name: partial(_saving, opening, folder / name, states, saved)
        for name, opening in openings.items()
    }
    name = f"chat of {len(states)} steps"
    yield from figures(
        f"{name}, saved", "ms", OURS, race_from_start(saving, rounds=rounds)
    )
    yield from _sizes(f"{name}, on the disk", saved, Target(500_000))
    removing = {
        name: partial(_removing, opening, folder / name, states, keep, left)
        for name, opening in openings.items()
        if issubclass(_class_of(opening), Removing)
    }
    times = race_from_start(removing, rounds=rounds)
    yield from figures(f"{name}, half of it deleted", "ms", OURS, times)
    yield from _sizes(f"{name}, left on the disk after that", left, None)


def _class_of(opening: Callable[..., Peer]) -> type:
    return opening.func if isinstance(opening, partial) else opening  # type: ignore[return-value] # all are classes


@contextmanager
def _saving(
    opening: Callable[..., Peer], folder: Path, states: States, sizes: dict[str, int]
) -> Iterator[Callable[[], None]]:
    shutil.rmtree(folder, ignore_errors=True)
    with closing(opening(folder)) as peer:
        yield partial(_save_all, peer, states)
    sizes[folder.name] = _size(folder)


@contextmanager
def _removing(
    opening: Callable[..., Peer],
    folder: Path,
    states: States,
    keep: int,
    sizes: dict[str, int],
) -> Iterator[Callable[[], None]]:
    shutil.rmtree(folder, ignore_errors=True)
    with closing(opening(folder)) as peer:
        assert isinstance(peer, Removing)
        _save_all(peer, states)
        yield partial(peer.keep_last, keep)
    sizes[folder.name] = _size(folder)


def _save_all(peer: Peer, states: States) -> None:
    for state in states:
        peer.save(state)


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _sizes(name: str, sizes: dict[str, int], target: Target | None) -> Iterator[Figure]:
    ours = sizes[OURS]
    for peer, size in sizes.items():
        if peer != OURS:
            yield Figure(
                name,
                ours,
                "bytes",
                peer=peer,
                peer_value=size,
                ratio=ours / size,
                target=target,
            )
            target = None  # it is for the value, and shown once


def _restores(run: Run, openings: Openings, states: States) -> Iterator[Figure]:
    folder, count = run.new_folder("restores"), len(states)
    numbers = {"latest": count, f"{count // 2}th": count // 2}
    peers = {}
    try:
        for name, opening in openings.items():
            peers[name] = opening(folder / name, is_durable=False)
            _save_all(peers[name], states)
            _know_ids(peers[name])
        for which, number in numbers.items():
            calls = {name: partial(peer.load, number) for name, peer in peers.items()}
            times = race(calls, rounds=run.pick(20, 3), calls=5, waits=False)
            name = f"restore the {which} of {count}, saved here"
            yield from _restored(name, times, 1.0)
    finally:
        for peer in peers.values():
            peer.close()
    for which, number in numbers.items():
        fresh = {
            name: partial(_opened, opening, folder / name, number)
            for name, opening in openings.items()
        }
        times = race_from_start(fresh, rounds=run.pick(15, 3), waits=False)
        yield from _restored(f"restore the {which} of {count}, opened", times, 3.0)


def _restored(name: str, times: dict[str, Times], bound: float) -> list[Figure]:
    alone, plain = times[_WHOLE].p50 * 1e6, times[PLAIN].p50 * 1e6
    why = f"a state compressed on its own takes {alone:,.0f} µs, plain {plain:,.0f}"
    targets = {PLAIN: Target(bound, of="ratio")}
    return figures(name, "µs", OURS, times, targets=targets, why=why)


@contextmanager
def _opened(
    opening: Callable[..., Peer], folder: Path, number: int
) -> Iterator[Callable[[], object]]:
    with closing(opening(folder)) as peer:
        _know_ids(peer)
        yield partial(peer.load, number)


def _know_ids(peer: Peer) -> None:
    if isinstance(peer, Milepost):
        peer.look_up()


def _histories(run: Run) -> Iterator[History]:
    steps = run.pick(200, 20)
    constant = chat(steps, 50_000)
    yield History(f"chat of {steps} steps with 50 KB", constant, Target(0.03, "ratio"))
    for name, found, share in (
        ("1 MB, five records edited", edits(1_000_000, count=run.pick(30, 3)), 0.2),
        ("40 KB, two shapes in turns", in_turns(40_000, count=run.pick(40, 8)), 0.5),
        ("100 KB without any pattern", noise(100_000, count=run.pick(20, 3)), 1.4),
    ):
        yield History(f"{len(found)} of {name}", found, Target(share, of="ratio"))


def _bytes(run: Run, history: History) -> list[Figure]:
    folder = run.new_folder(history.name)
    openings = {OURS: Milepost, "JSON files": JsonFiles, SQLITE: SqliteRows}
    sizes = {}
    for name, opening in openings.items():
        with closing(opening(folder / name, is_durable=False)) as peer:
            _save_all(peer, history.states)
        sizes[name] = _size(folder / name)
    sizes[_JSON] = sum(len(orjson.dumps(state)) for state in history.states)
    found = _sizes(f"{history.name}, on the disk", sizes, None)
    return [
        figure._replace(target=history.target) if figure.peer == _JSON else figure
        for figure in found
    ]
