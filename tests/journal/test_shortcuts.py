"""What is left out for speed leaves nothing out that matters."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import CheckpointManager, MemoryStorage, Policy
from milepost.journal.process import gc_pause
from milepost.journal.retention.decisions import decide, may_let_go
from milepost.journal.retention.keep_rules import Candidate

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CANDIDATES = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=9).map(
    lambda drawn: [
        Candidate(f"c{n}", n, NOW - timedelta(days=days), is_failed=is_failed)
        for n, (is_failed, days) in enumerate(drawn, start=1)
    ]
)
COUNTS = st.none() | st.integers(1, 9)
POLICIES = st.builds(
    Policy,
    keep_last=st.none() | st.just("all") | st.integers(3, 9),
    keep_daily=COUNTS,
    keep_within=st.none() | st.just("3d"),
    max_count=st.none() | st.integers(9, 12),
    max_age=st.none() | st.just("5d"),
    min_keep=st.integers(1, 6),
) | st.builds(
    Policy,
    keep_last=st.integers(3, 9),
    keep_failed=COUNTS,
)


@given(CANDIDATES, POLICIES)
def test_a_job_that_is_passed_over_would_have_lost_nothing(
    candidates: list[Candidate], policy: Policy
) -> None:
    if not may_let_go(policy, len(candidates)):
        assert decide(candidates, policy, NOW).remove == ()


@pytest.mark.parametrize(
    ("policy", "count", "may"),
    [
        (Policy(), 10**6, False),
        (Policy(keep_last=10), 10, False),
        (Policy(keep_last=10), 11, True),
        (Policy(keep_last="all", max_count=50), 50, False),
        (Policy(keep_last="all", max_count=50), 51, True),
        (Policy(keep_last=10, max_age="1d"), 5, True),
        (Policy(keep_last=10, min_keep=20), 15, False),
        (Policy(keep_last=10, max_age="1d", min_keep=4), 5, True),
        (Policy(keep_last=10, max_age="1d", min_keep=5), 5, False),
        (Policy(keep_last=10, keep_failed=1), 5, True),
        (Policy(keep_daily=7), 2, True),
    ],
)
def test_only_jobs_that_can_lose_something_are_looked_at(
    policy: Policy, count: int, may: bool
) -> None:
    assert may_let_go(policy, count) is may


def test_a_plan_of_many_jobs_names_those_that_lose_something_and_no_others() -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    for job, saves in (("etl-a", 3), ("etl-b", 1), ("other", 3)):
        for n in range(saves):
            manager.save(job, "step", {"n": n})
    plan = manager.plan("etl-*", Policy(keep_last=2))
    assert [(job.job_id, len(job.remove)) for job in plan.jobs] == [("etl-a", 1)]


def test_the_collector_works_again_once_all_who_asked_it_to_rest_are_through() -> None:
    assert gc.isenabled()

    def rest_again() -> bool:
        assert not gc_pause.at_rest(gc.isenabled)
        return gc.isenabled()

    assert not gc_pause.at_rest(rest_again)
    assert gc.isenabled()


def test_a_collector_that_somebody_switched_off_stays_off() -> None:
    gc.disable()
    try:
        assert not gc_pause.at_rest(gc.isenabled)
        assert not gc.isenabled()
    finally:
        gc.enable()
