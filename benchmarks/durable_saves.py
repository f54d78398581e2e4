"""The time of a durable save, beside a bare write and sync, and other stores."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from benchmarks import stores
from benchmarks.contenders import OURS, PLAIN, SQLITE, opened
from benchmarks.peers import BareAppend, Logged, Milepost
from benchmarks.running import Subject, Target
from benchmarks.states import edits, growing, states
from benchmarks.timing import figures, race
from milepost import CheckpointManager, Key, KeyRing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from benchmarks.running import Figure, Run
    from benchmarks.timing import Times

FLOOR = "bare append + fdatasync"
_KINDS = ("unrelated", "edited", "growing")
_OF_THE_FLOOR = {1: 1.45, 10: 1.75, 100: 3.6}
_OF_A_ROW = {"unrelated": 1.15, "edited": 1.0, "growing": 1.0}


def measure(run: Run) -> Subject:
    """Save states of three sizes and three kinds, each in turns with every peer."""
    found: list[Figure] = []
    for kilobytes, rounds in ((1, 80), (10, 60), (100, 40)):
        for kind in _KINDS:
            folder = run.new_folder(f"save-{kilobytes}-{kind}")
            sources = _states(kilobytes * 1024, kind)
            times = _race(folder, sources, kind, run.pick(rounds, 5))
            found += _figures(kilobytes, kind, times)
    return Subject(
        "Durable save",
        "Time until one caller has its answer.  *Unrelated* states share no more than "
        "their shape; *edited* ones have some records changed at each save; *growing* "
        "ones get longer by a message.  The bare append writes as many bytes as "
        "Milepost stores, and adds nothing to the cost of the disk.  What a save adds "
        "is Python's time and hardly depends on the disk, so the faster the disk the "
        "higher the ratio.  Peers store orjson's bytes, LangGraph its own; none has a "
        "digest, a chain, or a check that what is stored can be read.",
        tuple(found),
    )


def _states(size_bytes: int, kind: str) -> list[dict[str, Any]]:
    if kind == "edited":
        return edits(size_bytes, count=64, changed=5 if size_bytes > 50_000 else 1)
    if kind == "growing":
        return growing(size_bytes, count=64 if size_bytes > 5_000 else 16)
    return states(size_bytes, count=64)


def _race(
    folder: Path, sources: list[dict[str, Any]], kind: str, rounds: int
) -> dict[str, Times]:
    with ExitStack() as stack:
        peers = dict(opened(folder))
        peers[PLAIN] = Milepost(folder / "json", codec="json")
        if kind == "unrelated":
            keys = KeyRing([Key.new("bench")])
            peers[f"{OURS}, encrypted"] = Milepost(folder / "encrypted", keys=keys)
        contenders: dict[str, Callable[[], object]] = {}
        for name, peer in peers.items():
            stack.callback(peer.close)
            if isinstance(peer, Logged):
                peer.warm_up()
            contenders[name] = partial(_save, peer.save, cycle(sources))
            for _ in range(2):  # the first one also opens the job
                contenders[name]()
        size_bytes = _stored_bytes(folder / OURS)
        bare = stack.enter_context(BareAppend(folder / "bare", size_bytes))
        contenders[FLOOR] = bare.save
        if kind == "unrelated":
            least = stack.enter_context(BareAppend(folder / "least", size_bytes))
            save = partial(_save, least.save_checked, cycle(sources))
            contenders[f"dumps + SHA-256 + {FLOOR}"] = save
        return race(contenders, rounds=rounds, calls=5)


def _save(
    save: Callable[[dict[str, Any]], object], source: Iterable[dict[str, Any]]
) -> None:
    save(next(iter(source)))


def _stored_bytes(folder: Path) -> int:
    with CheckpointManager(folder) as manager:
        return manager.list(stores.JOB)[-1].stored_bytes


def _figures(kilobytes: int, kind: str, times: dict[str, Times]) -> list[Figure]:
    targets = {SQLITE: Target(_OF_A_ROW[kind], of="ratio")}
    if kind == "unrelated":
        targets[FLOOR] = Target(_OF_THE_FLOOR[kilobytes], of="ratio")
    if kilobytes == 10:
        targets[PLAIN] = Target(1.3, of="ratio")
    computed = {name: found.computed for name, found in times.items()}
    spent = ", ".join(
        f"{name} {computed[name].p50 * 1e6:,.0f}" for name in (OURS, SQLITE, FLOOR)
    )
    name, why = f"{kilobytes} KB, {kind}", f"processor time, µs: {spent}"
    return [
        *figures(name, "µs", OURS, times, targets=targets, why=why),
        *figures(f"{name}, processor time", "µs", OURS, computed),
    ]
