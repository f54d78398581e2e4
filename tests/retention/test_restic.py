"""The keep rules mean what restic's ``forget`` means by them, decision by decision."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import Policy, Span
from milepost.journal.retention.decisions import decide
from milepost.journal.retention.keep_rules import Candidate
from tests.retention import restic

if TYPE_CHECKING:
    from collections.abc import Sequence


NOW = datetime(2050, 1, 1, tzinfo=UTC)
CASES = json.loads(
    Path(__file__).with_name("restic_cases").joinpath("cases.json").read_bytes()
)

_PERIODS = [name for name in restic.BUCKETS if name != "last"]
_GAPS = [1, 59, 3600, 5 * 3600, 86_400, 6 * 86_400, 31 * 86_400, 366 * 86_400]
_STARTS = [datetime(2015, 12, 25, 20, tzinfo=UTC), NOW - timedelta(days=40)]
_DURATION = st.builds(
    restic.Duration,
    st.integers(0, 2),
    st.integers(0, 14),
    st.integers(0, 40),
    st.integers(1, 30),
)


@st.composite
def _items(draw: st.DrawFn) -> list[restic.Item]:
    """Return snapshots, each later than the one before; some lie in the future."""
    at = draw(st.sampled_from(_STARTS))
    items = []
    for gap in draw(st.lists(st.sampled_from(_GAPS), min_size=1, max_size=30)):
        at += timedelta(seconds=gap + draw(st.floats(0, 0.9)))
        items.append(restic.Item(at, draw(st.sampled_from([(), ("a",), ("a", "b")]))))
    return items


_OPTIONS: st.SearchStrategy[restic.Options] = st.builds(
    restic.Options,
    st.dictionaries(
        st.sampled_from([*restic.BUCKETS]),
        st.integers(1, 8) | st.just(restic.UNLIMITED),
        max_size=4,
    ),
    st.none() | _DURATION,
    st.dictionaries(st.sampled_from(_PERIODS), _DURATION, max_size=3),
    st.sampled_from([(), (("a",),), (("a", "b"), ("",)), (("c",),)]),
).filter(lambda options: options.counts or options.within or options.within_buckets)


def policy_of(options: restic.Options, timezone: str = "UTC") -> Policy:
    rules: dict[str, Any] = {}
    if not (options.counts or options.within or options.within_buckets):
        rules["keep_last"] = (
            1  # tags alone are refused here, and the newest stays anyway
        )
    for name, count in options.counts.items():
        rules[f"keep_{name}"] = "all" if count == restic.UNLIMITED else count
    if options.within is not None:
        rules["keep_within"] = span_of(options.within)
    for name, duration in options.within_buckets.items():
        rules[f"keep_within_{name}"] = span_of(duration)
    if options.tags:
        rules["keep_tags"] = [[t for t in tags if t] for tags in options.tags]
    return Policy(timezone=timezone, **rules)


def span_of(duration: restic.Duration) -> Span:
    years, months, days, hours = duration
    return Span(years * 12 + months, days, hours * 3600.0)


def in_its_words(reason: str) -> str | None:
    """Return our reason as the oracle says it; None if it is none of the rules'."""
    if reason in {"newest", "windows count from it"}:
        return None
    if reason.startswith(("tag", "no tags")):
        return "tags"
    oldest = "oldest " if reason.startswith("oldest, ") else ""
    first, second, *_ = reason.removeprefix("oldest, ").split()
    return f"{oldest}{first} within" if second == "within" else f"{oldest}{first}"


def reasons_of(items: Sequence[restic.Item], policy: Policy) -> list[list[str]]:
    """Return why our rules keep each of `items`, in the oracle's words."""
    candidates = [
        Candidate(f"c{seq}", seq, item.at, tags=item.tags)
        for seq, item in enumerate(items, start=1)
    ]
    reasons: list[list[str]] = [[] for _ in items]
    for verdict in decide(candidates, policy, NOW).keep:
        said = [in_its_words(reason) for reason in verdict.reasons]
        reasons[verdict.seq - 1] = sorted(r for r in said if r is not None)
    return reasons


@settings(max_examples=300)
@given(_items(), _OPTIONS)
def test_every_decision_and_every_reason_is_restics(
    items: list[restic.Item], options: restic.Options
) -> None:
    expected = restic.forget(items, options, NOW)
    assert reasons_of(items, policy_of(options)) == [sorted(r) for r in expected]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_small_histories_are_kept_as_restic_keeps_them(case: dict[str, Any]) -> None:
    items = [
        restic.Item(datetime.fromisoformat(at), tuple(tags))
        for at, tags, _ in case["items"]
    ]
    options = restic.options_of(case["keep"])
    expected = [reasons for _, _, reasons in case["items"]]
    oracle = restic.forget(items, options, NOW, ZoneInfo(case["zone"]))
    assert [sorted(reasons) for reasons in oracle] == expected
    assert reasons_of(items, policy_of(options, case["zone"])) == expected
