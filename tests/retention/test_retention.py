"""Retention: what a policy decides, as properties of any checkpoints and any policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from milepost import Best, Policy
from milepost.journal.retention.decisions import decide, explain, guard, shrink
from milepost.journal.retention.policy import COUNTS, WITHINS
from tests.retention.candidates import (
    CANDIDATES,
    CAPS,
    DAY,
    POLICIES,
    aged,
    kept,
    policies,
)
from tests.support.clock import NOW

if TYPE_CHECKING:
    from random import Random

    from milepost.journal.retention.keep_rules import Candidate


@given(CANDIDATES, POLICIES)
def test_every_checkpoint_is_either_kept_or_removed_and_has_a_reason(
    candidates: list[Candidate], policy: Policy
) -> None:
    keep, remove = decide(candidates, policy, NOW)
    verdicts = [(v.checkpoint_id, v.seq) for v in (*keep, *remove)]
    assert sorted(verdicts) == sorted((c.checkpoint_id, c.seq) for c in candidates)
    assert all(verdict.reasons for verdict in keep)
    assert all(len(verdict.reasons) == 2 for verdict in remove)
    for side in (keep, remove):
        assert [v.seq for v in side] == sorted((v.seq for v in side), reverse=True)


@given(CANDIDATES, POLICIES, st.randoms(use_true_random=False))
def test_the_order_they_are_given_in_does_not_matter_and_is_left_alone(
    candidates: list[Candidate], policy: Policy, random: Random
) -> None:
    shuffled = random.sample(candidates, len(candidates))
    before = list(shuffled)
    assert decide(shuffled, policy, NOW) == decide(candidates, policy, NOW)
    assert shuffled == before


# Windows count from the latest before now, which a clock that jumped leaves anywhere.
@given(CANDIDATES, POLICIES)
@example(aged(8.5 * DAY, 60, 40 * DAY, -60), Policy(keep_within="8d", max_age="9d"))
@example(
    aged(2000 * DAY, 1800, DAY, 8.5 * DAY, -400 * DAY, shields={4: "pinned"}),
    Policy(keep_within_yearly="8d"),
)
@example(
    [
        c._replace(is_failed=c.seq < 3)
        for c in aged(60, -400 * DAY, -400 * DAY, -400 * DAY)
    ],
    Policy(keep_within="1s", keep_yearly=1, max_count=1),
)
def test_deciding_again_about_what_was_kept_removes_nothing_more(
    candidates: list[Candidate], policy: Policy
) -> None:
    stay = {verdict.seq for verdict in decide(candidates, policy, NOW).keep}
    again = [c for c in candidates if c.seq in stay]
    assert decide(again, policy, NOW).remove == ()


@given(CANDIDATES, POLICIES)
@example(aged(60, 0), Policy(keep_within="1ms"))
@example(aged(60, 30, 0, shields={1: "pinned"}), Policy(keep_last=1))
def test_the_newest_and_whatever_is_shielded_are_always_kept(
    candidates: list[Candidate], policy: Policy
) -> None:
    shielded = {c.seq for c in candidates if c.shields}  # I6
    newest = {max((c.seq for c in candidates), default=0)} - {0}
    good = {max((c.seq for c in candidates if not c.is_failed), default=0)} - {0}
    assert shielded | newest | good <= set(kept(candidates, policy))


@given(CANDIDATES, POLICIES)
def test_the_newest_min_keep_are_always_kept(
    candidates: list[Candidate], policy: Policy
) -> None:
    newest = [c.seq for c in candidates][-policy.min_keep :]
    assert set(newest) <= set(kept(candidates, policy))


@given(CANDIDATES, policies(with_rules=False, with_caps=False))
def test_a_policy_without_a_rule_keeps_everything(
    candidates: list[Candidate], policy: Policy
) -> None:
    assert kept(candidates, policy) == [c.seq for c in candidates]


def test_nothing_is_decided_about_nothing() -> None:
    assert decide([], Policy(keep_last=1), NOW) == ((), ())
    assert explain([], Policy(keep_last=1), NOW, "c1") == ()
    assert guard(decide([], Policy(keep_last=1), NOW), Policy()) == ()
    assert shrink({}, 1) == {}


# -- more is never less ---------------------------------------------------------------


def larger(policy: Policy, draw: st.DrawFn) -> Policy:
    """Return a policy that asks for the same and for more."""
    choices: list[tuple[str, Any]] = [("min_keep", policy.min_keep + 1)]
    choices += [("min_age", "3h"), ("min_age", "99d")]
    for name in COUNTS:
        value = getattr(policy, name)
        choices += [
            (name, "all"),
            (name, (value or 0) + 1 if value != "all" else "all"),
        ]
    choices += [(n, v) for n in WITHINS for v in (getattr(policy, n), "3y") if v]
    if policy.keep_tags is None:
        choices.append(("keep_tags", (("b",),)))
    if policy.keep_every is None:
        choices.append(("keep_every", 3))
    if policy.keep_best is None:
        choices.append(("keep_best", Best("loss", "max", 2)))
    elif policy.keep_best.keep < 9:
        best = policy.keep_best
        choices.append(("keep_best", best._replace(keep=best.keep + 1)))
    if isinstance(policy.keep_failed, int):
        choices.append(("keep_failed", policy.keep_failed + 1))
    return replace(policy, **dict([draw(st.sampled_from(choices))]))


@given(CANDIDATES, policies(with_caps=False), st.data())
def test_without_caps_asking_for_more_never_removes_more(
    candidates: list[Candidate], policy: Policy, data: st.DataObject
) -> None:
    if not policy.rules:
        return
    more = larger(policy, data.draw)
    assert set(kept(candidates, policy)) <= set(kept(candidates, more))


def test_what_is_not_monotone_is_so_on_purpose() -> None:
    both = aged(3 * DAY, 2 * DAY, DAY, shields={1: "pinned"})
    # The first rule of all removes; under a cap one kept thing pushes out another.
    assert kept(both, Policy()) == [1, 2, 3]
    assert kept(both, Policy(keep_last=1)) == [1, 3]
    tagged = [c._replace(tags=("a",)) if c.seq == 2 else c for c in both]
    assert kept(tagged, Policy(keep_last=2, max_count=2)) == [1, 3]
    failed = [c._replace(is_failed=True) for c in aged(3, 2, 1)]
    assert kept(failed, Policy(keep_last=3)) == [1, 2, 3]
    assert kept(failed, Policy(keep_last=3, keep_failed=1)) == [3]


# -- caps -----------------------------------------------------------------------------


@given(CANDIDATES, POLICIES)
def test_caps_take_only_what_is_not_shielded_and_never_more_than_they_must(
    candidates: list[Candidate], policy: Policy
) -> None:
    uncapped = decide(candidates, replace(policy, **dict.fromkeys(CAPS)), NOW)
    keep, remove = decide(candidates, policy, NOW)
    assert {v.seq for v in keep} <= {v.seq for v in uncapped.keep}
    assert {v for v in uncapped.keep if v.is_firm} == {v for v in keep if v.is_firm}
    loose = [v for v in keep if not v.is_firm]
    capped = [v for v in remove if v.seq in {u.seq for u in uncapped.keep}]
    if loose and policy.max_count is not None:
        assert len(keep) <= policy.max_count
    if loose and policy.max_bytes is not None:
        assert sum(v.stored_bytes for v in keep) <= policy.max_bytes
    by_amount = [v.seq for v in capped if "were left" in v.reasons[0]]
    assert all(v.seq > max(by_amount) for v in loose if by_amount)
    assert all(v.reasons[1].startswith("would stay by: ") for v in capped)


def test_max_age_counts_from_now_and_the_very_age_is_too_old() -> None:
    policy = Policy(max_age="1h")
    keep, remove = decide(aged(3601, 3600, 3599, 5000, 0), policy, NOW)
    assert [v.seq for v in keep] == [5, 3]
    assert [(v.seq, *v.reasons) for v in remove] == [
        (4, "1h 23min old; max_age = 1h", "would stay by: no keep rule"),
        (2, "1h old; max_age = 1h", "would stay by: no keep rule"),
        (1, "1h old; max_age = 1h", "would stay by: no keep rule"),
    ]


def test_max_count_and_max_bytes_let_the_oldest_go_first() -> None:
    sized = [c._replace(stored_bytes=10) for c in aged(5, 4, 3, 2, 1)]
    assert kept(sized, Policy(max_count=5, max_bytes=50)) == [1, 2, 3, 4, 5]
    assert kept(sized, Policy(max_count=3)) == [3, 4, 5]
    assert kept(sized, Policy(max_bytes=49)) == [2, 3, 4, 5]
    assert kept(sized, Policy(max_bytes=1)) == [5]
    assert kept(sized, Policy(max_count=4, max_bytes=20)) == [4, 5]
    gone = decide(sized, Policy(max_count=4, max_bytes=30), NOW).remove
    assert [v.reasons[0] for v in reversed(gone)] == [
        "5 were left; max_count = 4",
        "40 bytes were left; max_bytes = 30",
    ]


def test_shields_and_floors_are_stronger_than_caps_and_count_towards_them() -> None:
    sized = [
        c._replace(stored_bytes=10)
        for c in aged(50, 40, 30, 20, 10, shields={1: "held", 2: "pinned"})
    ]
    assert kept(sized, Policy(max_count=3)) == [1, 2, 5]
    assert kept(sized, Policy(max_count=1, max_bytes=1, max_age="1s")) == [1, 2, 5]
    assert kept(sized, Policy(max_count=3, min_keep=3)) == [1, 2, 3, 4, 5]
    assert kept(sized, Policy(max_bytes=1, min_age="25s")) == [1, 2, 4, 5]


# -- a budget for all jobs ------------------------------------------------------------


JOBS = st.lists(CANDIDATES, max_size=4).map(
    lambda jobs: {f"job{n}": job for n, job in enumerate(jobs)}
)


@given(JOBS, POLICIES, st.integers(0, 120))
def test_a_budget_only_moves_what_is_not_shielded_from_kept_to_removed(
    jobs: dict[str, list[Candidate]], policy: Policy, budget: int
) -> None:
    before = {job: decide(found, policy, NOW) for job, found in jobs.items()}
    after = shrink(before, budget)
    assert list(after) == list(before)
    for job, (keep, remove) in after.items():
        assert set(keep) <= set(before[job].keep)
        assert set(before[job].remove) <= set(remove)
        assert [v for v in keep if v.is_firm] == [
            v for v in before[job].keep if v.is_firm
        ]
        seqs = sorted((c.seq for c in jobs[job]), reverse=True)
        assert sorted((v.seq for v in (*keep, *remove)), reverse=True) == seqs
        assert [v.seq for v in remove] == [
            s for s in seqs if s in {v.seq for v in remove}
        ]


@given(JOBS, POLICIES, st.integers(0, 120))
def test_a_budget_lets_the_oldest_of_all_jobs_go_until_it_is_kept(
    jobs: dict[str, list[Candidate]], policy: Policy, budget: int
) -> None:
    before = {job: decide(found, policy, NOW) for job, found in jobs.items()}
    keep, gone = [], []
    for job, after in shrink(before, budget).items():
        keep += [(v, job) for v in after.keep]
        gone += [(v, job) for v in after.remove if v not in before[job].remove]
    gone.sort(key=lambda of: (of[0].at, of[1], of[0].seq))
    left = sum(v.stored_bytes for v, _ in keep)
    loose = [v for v, _ in keep if not v.is_firm]
    assert left <= budget or not loose
    if gone:
        assert left + gone[-1][0].stored_bytes > budget
        assert all(v.at >= gone[-1][0].at for v in loose)
    assert all(v.reasons[0] == f"max_store_bytes = {budget}" for v, _ in gone)


# -- the guard ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "going", "fraction", "waits"),
    [
        (10, 9, 0.0, False),
        (11, 1, 0.0, True),
        (11, 5, 0.5, False),
        (11, 6, 0.5, True),
        (12, 6, 0.5, False),
        (12, 7, 0.5, True),
        (20, 19, 1.0, False),
        (20, 0, 0.0, False),
        (100, 30, 0.3, False),
        (100, 31, 0.3, True),
        (100, 7, 0.07, False),
        (100, 29, 0.29, False),
    ],
)
def test_a_plan_waits_if_more_than_the_fraction_of_over_ten_would_go(
    total: int, going: int, fraction: float, *, waits: bool
) -> None:
    policy = Policy(keep_last=total - going, max_remove_fraction=fraction)
    decision = decide(aged(*range(total, 0, -1)), policy, NOW)
    assert len(decision.remove) == going
    said = (
        f"{going} of {total} checkpoints would go; max_remove_fraction = {fraction:g}"
    )
    assert guard(decision, policy) == ((said,) if waits else ())


# -- the clock ------------------------------------------------------------------------


@given(CANDIDATES, policies(with_caps=False), st.integers(0, 10**9))
def test_a_job_that_rests_loses_nothing_to_the_clock(
    candidates: list[Candidate], policy: Policy, seconds: int
) -> None:
    past = [c for c in candidates if c.at < NOW]
    patient = replace(policy, min_age="0s")
    later = decide(past, patient, NOW + timedelta(seconds=seconds))
    assert later == decide(past, patient, NOW)


@given(CANDIDATES)
def test_before_everything_was_saved_windows_and_ages_let_nothing_go(
    candidates: list[Candidate],
) -> None:
    early = NOW - timedelta(days=9999)
    for policy in (Policy(keep_within="1s"), Policy(max_age="1s")):
        assert decide(candidates, policy, early).remove == ()


# -- explaining -----------------------------------------------------------------------


@given(CANDIDATES, POLICIES)
def test_what_is_explained_is_what_was_decided(
    candidates: list[Candidate], policy: Policy
) -> None:
    uncapped = replace(policy, **dict.fromkeys(CAPS))
    keep, remove = decide(candidates, uncapped, NOW)
    for verdict in keep:
        said = explain(candidates, policy, NOW, verdict.checkpoint_id)
        assert tuple(rule.text for rule in said if rule.keeps) == verdict.reasons
    for verdict in remove:
        said = explain(candidates, policy, NOW, verdict.checkpoint_id)
        assert not any(ruling.keeps for ruling in said)
        assert verdict.reasons == ("no rule keeps it", said[0].text)
    assert explain(candidates, policy, NOW, "unknown") == ()


@given(CANDIDATES, POLICIES)
def test_a_cap_that_lets_go_what_rules_keep_is_the_last_that_is_explained(
    candidates: list[Candidate], policy: Policy
) -> None:
    for verdict in (*(found := decide(candidates, policy, NOW)).keep, *found.remove):
        said = explain(candidates, policy, NOW, verdict.checkpoint_id)
        is_capped = any(rule.keeps for rule in said) and verdict in found.remove
        caps = [(verdict.reasons[0], True)] if is_capped else []
        assert [(rule.text, rule.is_cap) for rule in said if rule.is_cap] == caps
        assert not caps or said[-1].is_cap
