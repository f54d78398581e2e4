"""Lists, pages and the newest state, in short and in long histories."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.contenders import OURS, SQLITE, filled, stores_of_states
from benchmarks.peers import Paged
from benchmarks.running import Subject, Target
from benchmarks.timing import figures, race
from milepost import CheckpointInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.peers import Peer
    from benchmarks.running import Figure, Run

# Filling these takes longer than all the rest of the subject.
SLOW_AT_100_000 = ("JSON files",)
SLOW_AT_1_000_000 = ("JSON files", "diskcache", "eventsourcing", "LangGraph")
_PAGE = 100


def measure(run: Run) -> Subject:
    """Time `list`, `page` and the newest state against the same reads of the peers."""
    found: list[Figure] = []
    for count, rounds, without in (
        (run.pick(1_000, 200), 30, ()),
        (run.pick(100_000, 2_000), 7, SLOW_AT_100_000),
        (run.pick(1_000_000, 5_000), 0, SLOW_AT_1_000_000),
    ):
        folders = filled(run, count, without=without)
        with ExitStack() as stack:
            peers: dict[str, Peer] = {}
            for name, folder in folders.items():
                peers[name] = stores_of_states()[name](folder)
                stack.callback(peers[name].close)
            if rounds:
                target = Target(1.2, of="ratio") if rounds < 10 else None
                found += _lists(peers, count, run.pick(rounds, 3), target)
            found += _newest(peers, count, run.pick(30, 3))
            found += _pages(peers, count, run.pick(30, 3))
    return Subject(
        "Reading",
        "Milepost checks the files at each call, so that it also sees the writes of "
        "other processes, and verifies the newest state.  Its list has every field of "
        "`CheckpointInfo`, a row of SQLite five.  LMDB reads keys, which have the same "
        "five; diskcache keys without them; a folder's list is names and sizes.  "
        "eventsourcing and LangGraph have no list without the states.",
        tuple(found),
    )


def _lists(
    peers: dict[str, Peer], count: int, rounds: int, target: Target | None
) -> list[Figure]:
    calls = {name: peer.list for name, peer in peers.items()}
    times = race(calls, rounds=rounds, waits=False)
    targets = {SQLITE: target} if target else {}
    mine, theirs = (times[name].p50 / count * 1e6 for name in (OURS, SQLITE))
    fields = len(CheckpointInfo._fields)
    why = f"{mine:.2f} µs for each with {fields} fields, SQLite {theirs:.2f} with 5"
    return figures(f"list of {count:,}", "µs", OURS, times, targets=targets, why=why)


def _newest(peers: dict[str, Peer], count: int, rounds: int) -> list[Figure]:
    calls = {name: peer.latest for name, peer in peers.items()}
    times = race(calls, rounds=rounds, calls=10, waits=False)
    return figures(f"latest of {count:,}, with its state", "µs", OURS, times)


def _pages(peers: dict[str, Peer], count: int, rounds: int) -> Iterator[Figure]:
    for which, after in (
        ("first", 0),
        ("middle", count // 2),
        ("last", count - _PAGE),
    ):
        calls = {
            name: partial(peer.page, after, _PAGE)
            for name, peer in peers.items()
            if isinstance(peer, Paged)
        }
        times = race(calls, rounds=rounds, calls=5, waits=False)
        name = f"{which} {_PAGE} of {count:,}"
        yield from figures(name, "µs", OURS, times, targets={OURS: Target(1_000)})
