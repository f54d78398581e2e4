"""The rules of a policy one by one: what each keeps, and what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import Best, Policy
from milepost.journal.retention.decisions import decide
from milepost.journal.retention.duration import as_span
from milepost.journal.retention.keep_rules import Candidate, how_long, ordinal
from tests.retention.candidates import CANDIDATES, DAY, HOUR, POLICIES, aged, kept
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Iterable


def at(*moments: str, **fields: Any) -> list[Candidate]:
    """Return candidates saved at these moments, which have an offset or are UTC."""
    found = [datetime.fromisoformat(moment) for moment in moments]
    return [
        Candidate(
            f"c{seq}", seq, (m if m.tzinfo else m.replace(tzinfo=UTC)), number=seq
        )._replace(**fields)
        for seq, m in enumerate(found, start=1)
    ]


def reasons(candidates: Iterable[Candidate], policy: Policy) -> dict[int, Any]:
    """Return what is said of each: why it stays, or by how little it missed that."""
    keep, remove = decide([*candidates], policy, NOW)
    return {v.seq: v.reasons for v in keep} | {v.seq: v.reasons[1] for v in remove}


# -- counts and windows ---------------------------------------------------------------


@pytest.mark.parametrize("keep_last", [1, 2, 3, 4, 5, 9])
def test_keep_last_keeps_exactly_the_newest(keep_last: int) -> None:
    candidates = aged(50, 40, 30, 20, 10)
    assert kept(candidates, Policy(keep_last=keep_last)) == [1, 2, 3, 4, 5][-keep_last:]


def test_at_the_same_moment_the_later_event_is_the_newer_one() -> None:
    assert kept(aged(5, 5, 5, 5), Policy(keep_last=2)) == [3, 4]


def test_the_order_is_that_of_the_events_when_the_clock_jumped_back() -> None:
    # "Time is informative, never an order": c1 and c2 only look newer.
    assert kept(aged(-9000, -8000, 50, 40), Policy(keep_last=2)) == [3, 4]


def test_keep_within_counts_from_the_newest_so_a_resting_job_loses_nothing() -> None:
    candidates = aged(1000 * DAY + 61, 1000 * DAY + 60, 1000 * DAY + 59, 1000 * DAY)
    assert kept(candidates, Policy(keep_within="1min")) == [3, 4]


def test_rules_are_ored() -> None:
    candidates = aged(100, 90, 50, 0.5)
    assert kept(candidates, Policy(keep_last=1, keep_within="1min")) == [3, 4]
    assert kept(candidates, Policy(keep_last=3, keep_within="1s")) == [2, 3, 4]


def test_what_is_younger_than_min_age_is_shielded_and_what_is_as_old_is_not() -> None:
    candidates = aged(61, 60, 59.9, 0)
    assert kept(candidates, Policy(keep_last=1, min_age="1min")) == [3, 4]


def test_shields_stand_beside_what_the_rules_keep() -> None:
    candidates = aged(50, 40, 30, 20, 10, shields={1: "pinned", 3: "current"})
    keep, _ = decide(candidates, Policy(keep_last=1), NOW)
    assert {v.seq: v.reasons for v in keep} == {
        5: ("newest", "last #1"),
        3: ("current",),
        1: ("pinned",),
    }


def test_reasons_say_which_rule_kept_it_and_by_how_little_one_missed_it() -> None:
    policy = Policy(keep_last=2, keep_within="15s", min_keep=2)
    keep, remove = decide(aged(30, 20, 10, 1), policy, NOW)
    assert [(v.seq, v.reasons) for v in keep] == [
        (4, ("newest", "min_keep = 2", "last #1", "within 15s of the newest")),
        (3, ("min_keep = 2", "last #2", "within 15s of the newest")),
    ]
    assert [(v.seq, v.reasons) for v in remove] == [
        (2, ("no rule keeps it", "3rd newest; keep_last = 2")),
        (1, ("no rule keeps it", "4th newest; keep_last = 2")),
    ]


def test_the_newest_of_a_period_stays_and_the_rest_say_of_which_they_are_not() -> None:
    days = at("2025-12-28T23:00", "2026-01-01T05:10", "2026-01-01T05:50", "2026-02-28")
    assert reasons(days, Policy(keep_hourly=2)) == {
        4: ("newest", "hourly #1"),
        3: ("hourly #2",),
        2: "not the newest of its hour, 2026-01-01 05:00; keep_hourly = 2",
        1: "in the 3rd hour back; keep_hourly = 2",
    }
    told = {
        "daily": "not the newest of its day, 2026-01-01; keep_daily = 2",
        "monthly": "not the newest of its month, 2026-01; keep_monthly = 2",
    }
    for name, text in told.items():
        assert reasons(days, Policy(**{f"keep_{name}": 2}))[2] == text
    more = at("2020-12-28", "2021-01-02", "2021-01-03T09:00", "2026-01-01")
    weekly = reasons(more, Policy(keep_weekly=2))
    assert weekly[2] == "not the newest of its week, 2020-W53; keep_weekly = 2"
    yearly = reasons(more, Policy(keep_yearly=2))
    assert yearly[2] == "not the newest of its year, 2021; keep_yearly = 2"
    assert yearly[1] == "in the 3rd year back; keep_yearly = 2"


def test_the_oldest_stays_while_a_slot_is_left_and_says_so() -> None:
    days = at("2026-01-01T01:00", "2026-01-01T02:00", "2026-01-01T03:00")
    assert reasons(days, Policy(keep_daily=2)) == {
        3: ("newest", "daily #1"),
        2: "not the newest of its day, 2026-01-01; keep_daily = 2",
        1: ("oldest, daily #2",),
    }
    assert reasons(days, Policy(keep_daily=1))[1].startswith(
        "not the newest of its day"
    )
    assert reasons(days, Policy(keep_within_daily="2h"))[1] == (
        "2h older than the newest; keep_within_daily = 2h"
    )
    assert reasons(days, Policy(keep_within_daily="121min"))[1] == (
        "oldest, daily within 121min",
    )


def test_windows_say_how_much_older_it_is_or_of_which_period_not_the_newest() -> None:
    days = at(
        "2026-01-01", "2026-01-03T01:00", "2026-01-03T02:00", "2026-01-04T04:05:06"
    )
    assert reasons(days, Policy(keep_within="1d")) == {
        4: ("newest", "within 1d of the newest"),
        3: "1d 2h older than the newest; keep_within = 1d",
        2: "1d 3h older than the newest; keep_within = 1d",
        1: "3d 4h older than the newest; keep_within = 1d",
    }
    assert reasons(days, Policy(keep_within_daily="2d")) == {
        4: ("newest", "daily within 2d"),
        3: ("daily within 2d",),
        2: "not the newest of its day, 2026-01-03; keep_within_daily = 2d",
        1: "3d 4h older than the newest; keep_within_daily = 2d",
    }


@given(CANDIDATES, POLICIES)
def test_every_reason_to_keep_is_true(
    candidates: list[Candidate], policy: Policy
) -> None:
    by_seq = {c.seq: c for c in candidates}
    for verdict in decide(candidates, policy, NOW).keep:
        for reason in verdict.reasons:
            assert is_true(reason, by_seq[verdict.seq], candidates, policy), reason


def is_true(  # noqa: C901, PLR0912 - one case per reason, like a table
    reason: str, one: Candidate, candidates: list[Candidate], policy: Policy
) -> bool:
    """Check a reason by its words, as a person would who has all before them."""
    group = [c for c in candidates if c.is_failed == one.is_failed]
    position = sum(c.seq >= one.seq for c in group)
    zone = ZoneInfo(policy.timezone)
    is_of_failed = reason.startswith("of the failed: ")
    reason = reason.removeprefix("of the failed: ")
    is_oldest = reason.startswith("oldest, ")
    match reason.removeprefix("oldest, ").replace("#", "").split():
        case ["held" | "pinned" | "current" as shield]:
            truth = shield in one.shields
        case ["newest", *_]:
            truth = position == 1
        case ["windows", *_]:
            truth = one.at == max(c.at for c in group if c.at < NOW) and position > 1
        case ["no", "keep", "rule"]:
            truth = not policy.rules
        case ["min_keep", *_]:
            truth = one.seq > len(candidates) - policy.min_keep
        case ["younger", *_]:
            truth = one.at > as_span(policy.min_age).before(NOW, zone)
        case ["last", "failed", number]:
            truth = fits(policy.keep_failed, number) and int(number) == position
        case ["last", number]:
            truth = fits(policy.keep_last, number) and int(number) == position
        case ["save", *_]:
            truth = one.number % (policy.keep_every or 0) == 0
        case ["best", rank, *_]:
            truth = policy.keep_best is not None and int(rank) <= policy.keep_best.keep
        case ["tag" | "tags" | "no", *_]:
            lists = [set(tags) for tags in policy.keep_tags or ()]
            truth = any(tags <= {*one.tags} if tags else not one.tags for tags in lists)
        case [bucket, number]:
            truth = fits(getattr(policy, f"keep_{bucket}"), number)
        case [bucket, *_]:
            past = [c.at for c in group if c.at < NOW]
            name = "keep_within" if bucket == "within" else f"keep_within_{bucket}"
            span = as_span(getattr(policy, name))
            truth = not past or one.at > span.before(max(past), zone)
    if is_of_failed and not (one.is_failed and policy.keep_failed is None):
        return False
    return truth and (position == len(group) or not is_oldest)


def fits(count: int | str | None, number: str) -> bool:
    return count == "all" or (isinstance(count, int) and int(number) <= count)


# -- tags, numbers, metrics, failures -------------------------------------------------


def test_tags_of_any_list_are_enough_but_all_of_a_list_are_needed() -> None:
    tags = [("a",), ("a", "b"), ("c",), (), ("x",)]
    tagged = [
        c._replace(tags=t) for c, t in zip(aged(5, 4, 3, 2, 1), tags, strict=True)
    ]
    policy = Policy(keep_last=1, keep_tags=[["a", "b"], []])
    assert reasons(tagged, policy) == {
        5: ("newest", "last #1"),
        4: ("no tags",),
        3: "3rd newest; keep_last = 1",
        2: ("tags a, b",),
        1: "5th newest; keep_last = 1",
    }
    by_tag = Policy(keep_within="1ms", keep_tags=[["c"]])
    assert reasons(tagged, by_tag)[3] == ("tag c",)


@given(st.sets(st.integers(1, 40)), st.integers(1, 7))
def test_every_so_manieth_save_stays_whatever_else_was_deleted(
    deleted: set[int], step: int
) -> None:
    left = [c for c in aged(*range(40, 0, -1)) if c.seq not in deleted]
    stay = kept(left, Policy(keep_every=step, keep_last=1))
    newest = {max((c.seq for c in left), default=0)} - {0}
    assert set(stay) == {c.seq for c in left if c.seq % step == 0} | newest


def with_metrics(*metrics: float | None) -> list[Candidate]:
    ages = range(len(metrics), 0, -1)
    return [c._replace(metric=m) for c, m in zip(aged(*ages), metrics, strict=True)]


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (Best("loss", "min"), [5, 6]),  # of equals, the newer is better
        (Best("loss", "min", 2), [3, 5, 6]),
        (Best("loss", "min", 3), [1, 3, 5, 6]),
        (Best("loss", "min", 99), [1, 3, 4, 5, 6]),
        (Best("loss", "max"), [4, 6]),
        (Best("loss", "max", 2), [1, 4, 6]),
    ],
    ids=str,
)
def test_the_best_by_a_metric_stay(best: Best, expected: list[int]) -> None:
    found = with_metrics(2.0, None, 0.5, 9.0, 0.5, None)
    assert kept(found, Policy(keep_within="1ms", keep_best=best)) == expected


def test_what_is_no_finite_number_is_never_the_best() -> None:
    found = with_metrics(nan, inf, 3.0, -inf, None, None)
    for mode in ("min", "max"):
        policy = Policy(keep_within="1ms", keep_best=Best("a.b", mode))
        assert kept(found, policy) == [3, 6]
        assert reasons(found, policy)[3] == ("best #1 by a.b (3)",)


def test_what_failed_never_takes_a_slot_and_has_a_count_of_its_own() -> None:
    mixed = [c._replace(is_failed=c.seq % 2 == 0) for c in aged(6, 5, 4, 3, 2, 1)]
    assert reasons(mixed, Policy(keep_last=2)) == {
        6: ("newest", "of the failed: last #1"),
        5: ("newest that did not fail", "last #1"),
        4: ("of the failed: last #2",),
        3: ("last #2",),
        2: "of the failed: 3rd newest; keep_last = 2",
        1: "3rd newest; keep_last = 2",
    }
    assert reasons(mixed, Policy(keep_last=2, keep_failed=0)) == {
        6: ("newest",),
        5: ("newest that did not fail", "last #1"),
        4: "2nd newest; keep_failed = 0",
        3: ("last #2",),
        2: "3rd newest; keep_failed = 0",
        1: "3rd newest; keep_last = 2",
    }
    assert reasons(mixed, Policy(keep_last=1, keep_failed="all"))[2] == (
        "last failed #3",
    )


# -- time zones -----------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_the_hour_that_a_clock_repeats_is_two_hours_but_one_day(zone: str) -> None:
    change = {"Europe/Berlin": "2026-10-25T00", "America/New_York": "2026-11-01T05"}
    first = datetime.fromisoformat(change[zone]).replace(tzinfo=UTC)
    quarters = [first + timedelta(minutes=15 * n) for n in range(12)]
    found = at(*(moment.isoformat() for moment in quarters))
    walls = [c.at.astimezone(ZoneInfo(zone)).hour for c in found]
    assert walls[3] == walls[7] != walls[11]
    assert kept(found, Policy(keep_hourly="all", timezone=zone)) == [1, 4, 8, 12]
    assert kept(found, Policy(keep_hourly=2, timezone=zone)) == [8, 12]
    assert kept(found, Policy(keep_daily=1, timezone=zone)) == [12]


@pytest.mark.parametrize(
    ("zone", "skipped"),
    [("Europe/Berlin", "2026-03-29T01:00"), ("America/New_York", "2026-03-08T07:00")],
)
def test_the_hour_that_a_clock_skips_takes_no_slot(zone: str, skipped: str) -> None:
    change = datetime.fromisoformat(skipped).replace(tzinfo=UTC)
    hours = [change + timedelta(minutes=30 * n) for n in range(-4, 4)]
    found = at(*(moment.isoformat() for moment in hours))
    assert kept(found, Policy(keep_hourly=3, timezone=zone)) == [4, 6, 8]
    assert kept(found, Policy(keep_hourly=4, timezone=zone)) == [2, 4, 6, 8]


def test_a_day_within_is_one_of_the_calendar_across_the_change() -> None:
    # In Berlin, noon to noon was 23 hours long.
    found = at(
        "2026-03-28T10:30", "2026-03-28T11:00", "2026-03-28T11:01", "2026-03-29T10:00"
    )
    assert kept(found, Policy(keep_within="1d", timezone="Europe/Berlin")) == [3, 4]
    assert kept(found, Policy(keep_within="1d")) == [1, 2, 3, 4]
    assert kept(found, Policy(keep_within="23h", timezone="Europe/Berlin")) == [3, 4]


def test_days_weeks_and_years_are_those_of_the_policys_zone() -> None:
    # In Auckland the second one is on Monday, the first of January 2024.
    found = at("2023-12-31T10:00", "2023-12-31T11:00", "2023-12-31T23:00")
    for name in ("daily", "weekly", "monthly", "yearly"):
        policy = {f"keep_{name}": "all"}
        here = Policy(**policy, timezone="Pacific/Auckland")
        assert kept(found, here) == [1, 3], name
        there = Policy(**policy, timezone="America/New_York")
        assert kept(found, there) == [1, 3], name  # the first is the oldest


def test_checkpoints_saved_in_other_zones_are_told_apart_by_the_policys() -> None:
    same_hour = at("2026-01-01T23:30-05:00", "2026-01-02T05:45+01:00")
    assert kept(same_hour, Policy(keep_hourly=1)) == [2]
    assert reasons(same_hour, Policy(keep_daily=2))[1] == ("oldest, daily #2",)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_the_ends_of_the_calendar_are_days_like_others(zone: str) -> None:
    ends = [datetime.min.replace(tzinfo=UTC), NOW, datetime.max.replace(tzinfo=UTC)]
    found = at(*(moment.isoformat() for moment in ends))
    policy = Policy(keep_daily=3, keep_within_daily="1y", timezone=zone)
    assert kept(found, policy) == [1, 2, 3]
    assert kept(found[:1], policy) == [1]


def test_a_clock_that_goes_back_and_forth_spends_no_slot_twice() -> None:
    found = aged(2 * DAY, DAY, 2 * DAY, DAY, 2 * DAY, DAY, 0)
    assert kept(found, Policy(keep_daily=3)) == [5, 6, 7]
    assert kept(found, Policy(keep_daily=4)) == [1, 5, 6, 7]


# -- words ----------------------------------------------------------------------------


def test_numbers_and_lengths_are_told_as_people_tell_them() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111, 1013)
    assert " ".join(map(ordinal, numbers)) == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th 1013th"
    )
    seconds = (0, 0.9, 61, HOUR, HOUR + 59, DAY + 61, 400 * DAY, -90)
    lengths = [how_long(timedelta(seconds=n)) for n in seconds]
    assert ", ".join(lengths) == "0s, 0s, 1min 1s, 1h, 1h, 1d, 400d, -1min 30s"
