"""Retention: what a policy decides, as properties of any checkpoints and any policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from candidates import CANDIDATES, DAY, POLICIES, aged, kept, policies
from conftest import NOW
from hypothesis import example, given
from hypothesis import strategies as st

from journal import Policy
from journal.retention import decide, explain, guard, shrink

if TYPE_CHECKING:
    from random import Random

    from journal.keep_rules import Candidate


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


@given(CANDIDATES, POLICIES)
@example(
    aged(8.5 * DAY, 60, 40 * DAY, -DAY), Policy(keep_within="8d", max_age="9d")
)  # the last one before now has an older time than those before it, and goes
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
