"""The input and the result of a subject."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

PROJECT = Path(__file__).resolve().parents[1]


class Run(NamedTuple):
    """One run of the benchmarks.

    Attributes:
        folder: where subjects write; it is removed afterwards.
        is_quick: whether rough figures within seconds are wanted.
    """

    folder: Path
    is_quick: bool

    def pick(self, full: int, quick: int) -> int:
        """Return `quick` in a quick run, else `full`."""
        return quick if self.is_quick else full

    def new_folder(self, name: str) -> Path:
        """Make and return a folder of that name."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder


class Target(NamedTuple):
    """What a figure should reach: its value, or its ratio to the peer's."""

    bound: float
    of: Literal["value", "ratio"] = "value"
    is_floor: bool = False


class Figure(NamedTuple):
    """One measured number, and its peer.

    Figures of one name are one row of the table, each beside another peer.

    Attributes:
        unit: of `value`, `p99` and both values of the peer.
        ratio: to the peer; the median of the rounds' own ratios, so it need not be
            the quotient of `value` and `peer_value`.
        why: what was measured about a miss of the target; shown if it is missed.
    """

    name: str
    value: float
    unit: str
    p99: float | None = None
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    target: Target | None = None
    peer_p99: float | None = None
    why: str = ""

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        found = self.value if self.target.of == "value" else self.ratio
        assert found is not None, f"{self.name}: a target for a ratio needs a peer"
        if self.target.is_floor:
            return found >= self.target.bound
        return found <= self.target.bound


class Subject(NamedTuple):
    """All figures about one question.

    Attributes:
        note: how to read them.
        skipped: why there are none, if there are none.
    """

    title: str
    note: str
    figures: tuple[Figure, ...] = ()
    skipped: str | None = None
