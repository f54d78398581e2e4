"""Checkpoints and policies as the retention engine sees them, plain or drawn."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from milepost import Best, Policy
from milepost.journal.retention.decisions import decide
from milepost.journal.retention.keep_rules import Candidate
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Iterable

HOUR = 3600.0
DAY = 24 * HOUR

# Few ages, so that ties are common; in any order, since a clock may jump.
_AGES = [-400 * DAY, -DAY, -60.0, 0.0, 1.0, 60.0, HOUR, DAY, DAY + 1, 9 * DAY, 40 * DAY]
_SHIELDS = [(), (), (), ("held",), ("pinned",), ("current",), ("pinned", "current")]
_TAGS = [(), ("a",), ("b",), ("a", "b")]
_METRICS = [None, 0.0, 1.0, 1.0, 2.0, float("nan"), float("inf"), -float("inf")]
_COUNT = st.integers(1, 4) | st.just("all")
_SPAN = st.sampled_from(["1s", "1min", "25h", "8d", "2mo", "2y"])

RULES: dict[str, st.SearchStrategy[Any]] = {
    "keep_last": _COUNT,
    "keep_hourly": _COUNT,
    "keep_daily": _COUNT,
    "keep_weekly": _COUNT,
    "keep_monthly": _COUNT,
    "keep_yearly": _COUNT,
    "keep_within": _SPAN,
    "keep_within_hourly": _SPAN,
    "keep_within_daily": _SPAN,
    "keep_within_weekly": _SPAN,
    "keep_within_monthly": _SPAN,
    "keep_within_yearly": _SPAN,
    "keep_tags": st.sampled_from([(("a",),), (("a", "b"), ()), ((),)]),
    "keep_every": st.integers(1, 4),
    "keep_best": st.builds(
        Best, st.just("loss"), st.sampled_from(["min", "max"]), st.integers(1, 3)
    ),
    "keep_failed": st.integers(0, 3) | st.just("all"),
}
CAPS: dict[str, st.SearchStrategy[Any]] = {
    "max_age": st.sampled_from(["1s", "1min", "25h", "8d", "3y"]),
    "max_count": st.integers(1, 6),
    "max_bytes": st.integers(1, 40),
}
FLOORS: dict[str, st.SearchStrategy[Any]] = {
    "min_keep": st.integers(1, 5),
    "min_age": st.sampled_from(["1s", "2h"]),
    "timezone": st.sampled_from(["Europe/Berlin", "America/New_York"]),
}


@st.composite
def _candidates(draw: st.DrawFn) -> list[Candidate]:
    """Return checkpoints in the order they were saved."""
    return [
        Candidate(
            f"c{seq}",
            seq,
            NOW - timedelta(seconds=draw(st.sampled_from(_AGES))),
            draw(st.sampled_from(_SHIELDS)),
            number=seq,
            tags=draw(st.sampled_from(_TAGS)),
            stored_bytes=draw(st.integers(0, 9)),
            is_failed=draw(st.sampled_from([False, False, True])),
            metric=draw(st.sampled_from(_METRICS)),
        )
        for seq in range(1, draw(st.integers(0, 12)) + 1)
    ]


@st.composite
def policies(
    draw: st.DrawFn, *, with_rules: bool = True, with_caps: bool = True
) -> Policy:
    """Return a policy that makes sense, with any mixture of rules, caps and floors."""
    drawn = _some(draw, RULES) if with_rules else {}
    if drawn:
        # Alone, some rules are refused; they may match nothing.
        drawn.setdefault("keep_yearly", 1)
    drawn |= _some(draw, FLOORS)
    if with_caps:
        drawn |= _some(draw, CAPS)
    if "max_age" in drawn:
        drawn = {n: v for n, v in drawn.items() if "within" not in n and n != "min_age"}
    if "max_count" in drawn:
        drawn["min_keep"] = min(drawn.get("min_keep", 1), drawn["max_count"])
        if isinstance(last := drawn.get("keep_last"), int):
            drawn["keep_last"] = min(last, drawn["max_count"])
    return Policy(**drawn)


def _some(draw: st.DrawFn, among: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(among)), unique=True, max_size=4))
    return {name: draw(among[name]) for name in names}


CANDIDATES = _candidates()
POLICIES = policies()


def aged(*ages: float, shields: dict[int, str] | None = None) -> list[Candidate]:
    """Return candidates of these ages in seconds, in the order they were saved."""
    return [
        Candidate(
            f"c{seq}",
            seq,
            NOW - timedelta(seconds=age),
            (shields[seq],) if shields and seq in shields else (),
            number=seq,
        )
        for seq, age in enumerate(ages, start=1)
    ]


def kept(candidates: Iterable[Candidate], policy: Policy) -> list[int]:
    """Return the seqs that stay, oldest first."""
    return sorted(v.seq for v in decide([*candidates], policy, NOW).keep)
