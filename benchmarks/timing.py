"""Timing contenders in turns, so that drift affects all of them alike."""

from __future__ import annotations

import random
import statistics
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Literal, NamedTuple

from benchmarks.running import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.running import Target

Unit = Literal["µs", "ms"]
_PER_SECOND: dict[Unit, float] = {"µs": 1e6, "ms": 1e3}


class Times(NamedTuple):
    """How long each call of one contender took, in seconds, round by round."""

    rounds: tuple[tuple[float, ...], ...]

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
    ) -> Figure:
        """Return the figure of this contender.

        Args:
            name: of the figure.
            unit: to show it in.
            beside: the peer, and its times from the same race.
            parts: how many equal parts one call has; the figure is for one part.
            target: what it should reach.
        """
        scale = _PER_SECOND[unit] / parts
        peer_name, peer = beside or (None, None)
        return Figure(
            name,
            self.p50 * scale,
            unit,
            self.p99 * scale,
            peer_name,
            None if peer is None else peer.p50 * scale,
            None if peer is None else self.ratio_to(peer),
            target,
        )


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
    clock = perf_counter if waits else thread_time
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
    order = list(contenders)
    shuffle = random.Random(7).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            contenders[name]()
            found[name].append(_timed(contenders[name], calls, clock))
    return {name: Times(tuple(turns)) for name, turns in found.items()}


def _timed(
    call: Callable[[], object], times: int, clock: Callable[[], float]
) -> tuple[float, ...]:
    seconds = []
    for _ in range(times):
        start = clock()
        result = call()
        seconds.append(clock() - start)
        del result
    return tuple(seconds)
