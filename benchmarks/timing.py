"""Timing contenders in turns, so that drift affects all of them alike."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Literal, NamedTuple

from benchmarks.running import Figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.running import Target

Unit = Literal["µs", "ms"]
_PER_SECOND: dict[Unit, float] = {"µs": 1e6, "ms": 1e3}

Rounds = tuple[tuple[float, ...], ...]
_Turn = tuple[tuple[float, ...], tuple[float, ...]]
_Opened = AbstractContextManager[Callable[[], object]]


class Times(NamedTuple):
    """How long each call of one contender took, in seconds, round by round.

    Attributes:
        computing: the processor time of the same calls in the calling thread.
    """

    rounds: Rounds
    computing: Rounds = ()

    @property
    def seconds(self) -> list[float]:
        """All calls."""
        return [seconds for turn in self.rounds for seconds in turn]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """The 99th percentile of the calls; the slowest of fewer than 100."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)]

    @property
    def computed(self) -> Times:
        """The processor time of the same calls."""
        return Times(self.computing, self.computing)

    def shown_p99(self, scale: float) -> float | None:
        """Return the 99th percentile where it says something."""
        # What only computes has no delays but those of its clock.
        is_computing = self.rounds == self.computing
        return None if is_computing or len(self.seconds) < 10 else self.p99 * scale

    def ratio_to(self, peer: Times) -> float:
        """Return how many times as long as the peer this took.

        Each round is compared with itself: a disk that changes its pace tenfold within
        a second, as shared ones do, would make a ratio of two medians random.
        """
        pairs = zip(self.rounds, peer.rounds, strict=True)
        return statistics.median(
            statistics.median(mine) / statistics.median(theirs)
            for mine, theirs in pairs
        )

    def figure(
        self,
        name: str,
        unit: Unit,
        *,
        beside: tuple[str, Times] | None = None,
        parts: int = 1,
        target: Target | None = None,
        why: str = "",
    ) -> Figure:
        """Return the figure of this contender.

        Args:
            name: of the figure.
            unit: to show it in.
            beside: the peer, and its times from the same race.
            parts: how many equal parts one call has; the figure is for one part.
            target: what it should reach.
            why: what was measured about a miss of the target.
        """
        scale = _PER_SECOND[unit] / parts
        peer_name, peer = beside or (None, None)
        return Figure(
            name,
            self.p50 * scale,
            unit,
            self.shown_p99(scale),
            peer_name,
            None if peer is None else peer.p50 * scale,
            None if peer is None else self.ratio_to(peer),
            target,
            None if peer is None else peer.shown_p99(scale),
            why,
        )


def figures(
    name: str,
    unit: Unit,
    ours: str,
    times: Mapping[str, Times],
    *,
    targets: Mapping[str, Target] | None = None,
    why: str = "",
) -> list[Figure]:
    """Return the figures of one contender beside each other one of its race.

    Args:
        name: of the row that they make.
        unit: to show it in.
        ours: the contender that the row is about.
        times: the race.
        targets: for the ratio to the contender of that name; for the value itself
            under the name `ours`.
        why: what was measured about a miss of the targets.
    """
    wanted = dict(targets or {})
    mine, bound = times[ours], wanted.pop(ours, None)
    found = [
        mine.figure(name, unit, beside=(peer, theirs), target=wanted.get(peer), why=why)
        for peer, theirs in times.items()
        if peer != ours
    ]
    if bound is not None or not found:
        found.append(mine.figure(name, unit, target=bound, why=why))
    return found


def race(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    waits: bool = True,
) -> dict[str, Times]:
    """Time every contender `calls` times a round, in another order each round.

    Each turn begins with a call that does not count, because it also pays for the
    contender before, for example its unwritten files.  The result of a call is
    dropped after the clock was stopped.

    Args:
        contenders: what to call, by name.
        rounds: how many turns each gets.
        calls: how many of a turn count.
        waits: they wait for a disk or a process.  Pure computation, in this thread,
            is timed by the processor clock, which other work does not advance.
    """

    def turn(name: str) -> _Turn:
        contenders[name]()
        return _timed(contenders[name], calls)

    return _in_turns(contenders, turn, rounds=rounds, waits=waits)


def race_from_start(
    contenders: Mapping[str, Callable[[], _Opened]],
    *,
    rounds: int,
    waits: bool = True,
) -> dict[str, Times]:
    """Time the first call of what each contender opens, in another order each round.

    Args:
        contenders: each opens what to call, and closes it; neither is timed.
        rounds: how often each is opened.
        waits: as in `race`.
    """

    def turn(name: str) -> _Turn:
        with contenders[name]() as call:
            return _timed(call, 1)

    return _in_turns(contenders, turn, rounds=rounds, waits=waits)


def _in_turns(
    names: Iterable[str],
    turn: Callable[[str], _Turn],
    *,
    rounds: int,
    waits: bool,
) -> dict[str, Times]:
    found: dict[str, list[_Turn]] = {name: [] for name in names}
    order = list(found)
    shuffle = random.Random(7).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            found[name].append(turn(name))
    times = {}
    for name, turns in found.items():
        walls, computing = zip(*turns, strict=True)
        times[name] = Times(walls if waits else computing, computing)
    return times


def _timed(call: Callable[[], object], times: int) -> _Turn:
    walls, computing = [], []
    for _ in range(times):
        computed, start = thread_time(), perf_counter()
        result = call()
        walls.append(perf_counter() - start)
        computing.append(thread_time() - computed)
        del result
    return tuple(walls), tuple(computing)
