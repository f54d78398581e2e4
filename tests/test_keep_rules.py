"""The rules of a policy one by one: what each keeps, and what it says."""

from __future__ import annotations

import pytest
from candidates import DAY, aged, kept
from conftest import NOW

from journal import Policy
from journal.retention import decide


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
