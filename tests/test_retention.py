"""Retention: what a policy decides, and that carrying it out does just that."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import NOW
from hypothesis import example, given
from hypothesis import strategies as st

from journal import CheckpointManager, MemoryStorage, Plan, Policy, Verdict, errors
from journal.index import Misfit
from journal.retention import Candidate, decide, describe, plan_id

if TYPE_CHECKING:
    from conftest import Clock

DAY = 86400.0


def aged(*ages: float, shields: dict[int, str] | None = None) -> list[Candidate]:
    """Return candidates of these ages in seconds, in the order they were saved."""
    return [
        Candidate(
            f"c{seq}",
            seq,
            NOW - timedelta(seconds=age),
            (shields[seq],) if shields and seq in shields else (),
        )
        for seq, age in enumerate(ages, start=1)
    ]


def kept(candidates: list[Candidate], policy: Policy) -> list[int]:
    keep, _ = decide(candidates, policy, NOW)
    return sorted(verdict.seq for verdict in keep)


# Ages in any order: a clock may jump.  Few values, so that ties are common.
CANDIDATES = st.lists(
    st.tuples(
        st.sampled_from([-60.0, 0.0, 1.0, 59.0, 60.0, 61.0, DAY]),
        st.sampled_from([(), (), (), ("pinned",), ("current",), ("pinned", "current")]),
    ),
    max_size=12,
).map(
    lambda drawn: [
        Candidate(f"c{seq}", seq, NOW - timedelta(seconds=age), shields)
        for seq, (age, shields) in enumerate(drawn, start=1)
    ]
)
POLICIES = st.builds(
    Policy,
    keep_last=st.none() | st.integers(1, 14),
    keep_within_seconds=st.none() | st.sampled_from([0.0, 1.0, 60.0, DAY]),
    min_age_seconds=st.sampled_from([0.0, 60.0, DAY]),
    min_keep=st.integers(0, 5),
)


# -- deciding is pure ---------------------------------------------------------------


@given(CANDIDATES, POLICIES)
def test_every_checkpoint_is_either_kept_or_removed_and_has_a_reason(
    candidates: list[Candidate], policy: Policy
) -> None:
    keep, remove = decide(candidates, policy, NOW)
    verdicts = [(v.checkpoint_id, v.seq) for v in (*keep, *remove)]
    assert sorted(verdicts) == sorted((c.checkpoint_id, c.seq) for c in candidates)
    assert all(verdict.reasons for verdict in (*keep, *remove))


@given(CANDIDATES, POLICIES, st.randoms(use_true_random=False))
def test_the_order_they_are_given_in_does_not_matter_and_is_left_alone(
    candidates: list[Candidate], policy: Policy, random: Any
) -> None:
    shuffled = random.sample(candidates, len(candidates))
    before = list(shuffled)
    assert decide(shuffled, policy, NOW) == decide(candidates, policy, NOW)
    assert shuffled == before


@given(CANDIDATES, POLICIES)
def test_deciding_again_about_what_was_kept_removes_nothing_more(
    candidates: list[Candidate], policy: Policy
) -> None:
    keep, _ = decide(candidates, policy, NOW)
    ids = {verdict.checkpoint_id for verdict in keep}
    again = [c for c in candidates if c.checkpoint_id in ids]
    assert decide(again, policy, NOW)[1] == ()


@given(CANDIDATES, POLICIES)
@example(aged(60, 0), Policy(keep_within_seconds=0, min_keep=0))
@example(aged(60, 30, 0, shields={1: "pinned"}), Policy(keep_last=1))
def test_the_newest_and_whatever_is_shielded_are_always_kept(
    candidates: list[Candidate], policy: Policy
) -> None:
    shielded = {c.seq for c in candidates if c.shields}  # I6
    newest = {max((c.seq for c in candidates), default=0)} - {0}
    assert shielded | newest <= set(kept(candidates, policy))


@given(CANDIDATES, POLICIES)
def test_never_fewer_stay_than_min_keep_and_keep_last_ask_for(
    candidates: list[Candidate], policy: Policy
) -> None:
    least = max(policy.min_keep, policy.keep_last or 0)
    assert len(kept(candidates, policy)) >= min(least, len(candidates))


@given(CANDIDATES, POLICIES)
def test_each_reason_to_keep_is_true(
    candidates: list[Candidate], policy: Policy
) -> None:
    by_id = {c.checkpoint_id: c for c in candidates}
    for verdict in decide(candidates, policy, NOW)[0]:
        age = (NOW - by_id[verdict.checkpoint_id].at).total_seconds()
        for reason in verdict.reasons:
            if "min_age" in reason:
                assert age < policy.min_age_seconds
            if reason.startswith("last #"):
                assert int(reason[6:]) <= (policy.keep_last or 0)
            if reason in {"pinned", "current"}:
                assert reason in by_id[verdict.checkpoint_id].shields


@given(CANDIDATES, POLICIES)
def test_a_policy_without_a_rule_keeps_everything(
    candidates: list[Candidate], policy: Policy
) -> None:
    no_rule = policy._replace(keep_last=None, keep_within_seconds=None)
    assert kept(candidates, no_rule) == [c.seq for c in candidates]


def test_nothing_is_decided_about_nothing() -> None:
    assert decide([], Policy(keep_last=1), NOW) == ((), ())


# -- the rules ----------------------------------------------------------------------


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
    assert kept(candidates, Policy(keep_within_seconds=60)) == [3, 4]


def test_rules_are_ored() -> None:
    candidates = aged(100, 90, 50, 0)
    assert kept(candidates, Policy(keep_last=1, keep_within_seconds=60)) == [3, 4]
    assert kept(candidates, Policy(keep_last=3, keep_within_seconds=1)) == [2, 3, 4]


def test_what_is_younger_than_min_age_is_shielded_and_what_is_as_old_is_not() -> None:
    candidates = aged(61, 60, 59.9, 0)
    assert kept(candidates, Policy(keep_last=1, min_age_seconds=60)) == [3, 4]


def test_shields_stand_beside_what_the_rules_keep() -> None:
    candidates = aged(50, 40, 30, 20, 10, shields={1: "pinned", 3: "current"})
    assert kept(candidates, Policy(keep_last=1)) == [1, 3, 5]  # I6
    keep, _ = decide(candidates, Policy(keep_last=1), NOW)
    assert {v.seq: v.reasons[0] for v in keep} == {
        5: "newest",
        3: "current",
        1: "pinned",
    }


def test_reasons_say_which_rule_kept_it_and_by_how_little_one_missed_it() -> None:
    policy = Policy(keep_last=2, keep_within_seconds=15, min_keep=1)
    keep, remove = decide(aged(30, 20, 10, 0), policy, NOW)
    assert keep == (
        Verdict(
            "c4", 4, ("newest", "last #1", "within 15 s of the newest", "min_keep 1")
        ),
        Verdict("c3", 3, ("last #2", "within 15 s of the newest")),
    )
    assert [v.reasons for v in remove] == [
        ("#3 by age; keep_last = 2; keep_within = 15 s",),
        ("#4 by age; keep_last = 2; keep_within = 15 s",),
    ]


@pytest.mark.parametrize(
    "rule",
    [
        {"keep_last": 0},
        {"keep_last": -1},
        {"keep_last": True},
        {"keep_last": "3"},
        {"keep_last": 2.5},
        {"keep_within_seconds": -1},
        {"keep_within_seconds": float("nan")},
        {"min_age_seconds": -1},
        {"min_keep": -1},
    ],
    ids=str,
)
def test_a_rule_out_of_bounds_is_refused_by_name(rule: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgument, match=next(iter(rule))):
        decide([], Policy(**rule), NOW)


def test_a_plans_id_changes_with_all_that_it_rests_on() -> None:
    remove = [Verdict("a", 1, ("x",)), Verdict("b", 2, ("y",))]
    base = plan_id("job", Policy(keep_last=1), (9, "hash"), remove)
    assert base == plan_id("job", Policy(keep_last=1), (9, "hash"), remove[::-1])
    others = {
        plan_id("other", Policy(keep_last=1), (9, "hash"), remove),
        plan_id("job", Policy(keep_last=2), (9, "hash"), remove),
        plan_id("job", Policy(keep_last=1), (8, "hash"), remove),
        plan_id("job", Policy(keep_last=1), (9, "hasH"), remove),
        plan_id("job", Policy(keep_last=1), (9, "hash"), remove[:1]),
    }
    assert len({base, *others}) == 6


@pytest.mark.parametrize("rule", ["keep_last", "keep_within_seconds"])
def test_an_event_names_every_rule_of_its_policy_even_one_of_zero(rule: str) -> None:
    policy = Policy("nightly", **{rule: 0})
    assert describe(policy).items() >= {("name", "nightly"), (rule, 0)}


# -- planning and applying ----------------------------------------------------------


@pytest.fixture
def manager(clock: Clock) -> CheckpointManager:
    """Return the manager of a job with the checkpoints a to f, a minute apart."""
    manager = CheckpointManager(storage=MemoryStorage(), clock=clock, actor="lib:x@h")
    for step in "abcdef":
        manager.save("job", step, {"step": step})
        clock.turn(seconds=60)
    return manager


def steps(manager: CheckpointManager) -> str:
    return "".join(info.step_name for info in manager.list("job"))


def id_of(manager: CheckpointManager, step: str) -> str:
    return next(i.checkpoint_id for i in manager.list("job") if i.step_name == step)


def planned(plan: Plan, manager: CheckpointManager) -> str:
    names = {info.checkpoint_id: info.step_name for info in manager.list("job")}
    return "".join(sorted(names[verdict.checkpoint_id] for verdict in plan.remove))


def test_planning_changes_nothing_and_twice_gives_the_same(
    manager: CheckpointManager,
) -> None:
    plans = [manager.plan("job", Policy(keep_last=2)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert planned(plans[0], manager) == "abcd"
    assert (steps(manager), manager.seq("job")) == ("abcdef", 7)


def test_a_plan_shields_what_is_pinned_and_what_is_current(
    manager: CheckpointManager,
) -> None:
    manager.pin("job", id_of(manager, "a"))
    manager.restore("job", id_of(manager, "c"))
    plan = manager.plan("job", Policy(keep_last=1))
    assert planned(plan, manager) == "bde"  # I6
    assert manager.apply(plan) == 3
    assert steps(manager) == "acf"


def test_ages_count_from_the_given_moment_or_else_from_the_managers_clock(
    manager: CheckpointManager, clock: Clock
) -> None:
    policy = Policy(keep_last=1, min_age_seconds=181)
    assert planned(manager.plan("job", policy), manager) == "abc"
    assert planned(manager.plan("job", policy, now=NOW), manager) == ""
    clock.turn(seconds=-60)
    assert planned(manager.plan("job", policy), manager) == "ab"


def test_applying_is_one_event_with_a_reason_for_each(
    manager: CheckpointManager,
) -> None:
    manager.trash_seconds = 3600
    plan = manager.plan("job", Policy("nightly", keep_last=4))
    assert manager.apply(plan, actor="worker:1") == 2
    (event,) = manager.history("job", after_seq=7)
    assert event["type"] == "checkpoints.cleaned"
    assert event["actor"] == "worker:1"
    assert event["data"] == {
        "removed": {v.checkpoint_id: "; ".join(v.reasons) for v in plan.remove},
        "kept": 4,
        "policy": {"name": "nightly", "keep_last": 4},
        "trash_until": "2026-11-23T06:06:00.123456Z",
        "plan_id": plan.plan_id,
    }
    assert list(event["data"]["removed"].values()) == [
        "#5 by age; keep_last = 4",
        "#6 by age; keep_last = 4",
    ]


def test_a_plan_is_carried_out_once(manager: CheckpointManager) -> None:
    plan = manager.plan("job", Policy(keep_last=2))
    assert manager.apply(plan) == 4
    with pytest.raises(errors.StalePlan, match=plan.plan_id) as caught:
        manager.apply(plan)
    assert isinstance(caught.value, errors.Conflict)
    assert caught.value.code == "stale_plan"
    assert manager.seq("job") == 8


def test_a_plan_is_stale_as_soon_as_anything_happened(
    manager: CheckpointManager,
) -> None:
    for change in (manager.pin, manager.restore, manager.delete):
        plan = manager.plan("job", Policy(keep_last=1))
        change("job", id_of(manager, "d" if change == manager.delete else "b"))
        with pytest.raises(errors.StalePlan):
            manager.apply(plan)
    assert steps(manager) == "abcef"


def test_a_plan_of_another_store_is_stale_here(manager: CheckpointManager) -> None:
    other = CheckpointManager(storage=MemoryStorage())
    for step in "abcdef":
        other.save("job", step, {})
    with pytest.raises(errors.StalePlan):
        manager.apply(other.plan("job", Policy(keep_last=1)))
    assert steps(manager) == "abcdef"


def test_a_plan_that_removes_nothing_leaves_no_event(
    manager: CheckpointManager,
) -> None:
    assert manager.apply(manager.plan("job", Policy())) == 0
    assert manager.apply(manager.plan("job", Policy(keep_last=6))) == 0
    assert manager.seq("job") == 7


@pytest.mark.parametrize(
    ("limit", "removed"), [(0, ""), (1, "a"), (3, "abc"), (4, "abcd"), (9, "abcd")]
)
def test_a_limited_plan_removes_the_oldest_first(
    manager: CheckpointManager, limit: int, removed: str
) -> None:
    plan = manager.plan("job", Policy(keep_last=2), limit=limit)
    assert planned(plan, manager) == removed
    assert len(plan.keep) == 6 - len(removed)
    assert manager.apply(plan) == len(removed)


def test_a_plan_that_was_tampered_with_cannot_remove_what_no_policy_may(
    manager: CheckpointManager,
) -> None:
    plan = manager.plan("job", Policy(keep_last=2))
    forged = plan._replace(remove=(*plan.remove, *plan.keep))
    head = (plan.head_seq, plan.head_hash)
    fitting = plan_id("job", plan.policy, head, forged.remove)
    for each in (forged, forged._replace(plan_id=fitting)):
        with pytest.raises(errors.InvalidArgument, match="plan"):
            manager.apply(each)
    assert steps(manager) == "abcdef"  # I6


def test_a_plan_that_names_what_is_not_there_breaks_nothing(
    manager: CheckpointManager,
) -> None:
    plan = manager.plan("job", Policy(keep_last=2))
    forged = plan._replace(remove=(*plan.remove, Verdict("unknown", 99, ("x",))))
    head = (plan.head_seq, plan.head_hash)
    fitting = plan_id("job", plan.policy, head, forged.remove)
    for each in (forged, forged._replace(plan_id=fitting)):
        with pytest.raises((errors.InvalidArgument, Misfit)):
            manager.apply(each)
    assert steps(manager) == "abcdef"
    assert manager.verify("job")[0].ok


def test_what_a_policy_removed_can_be_undeleted_with_its_state(
    manager: CheckpointManager,
) -> None:
    gone = id_of(manager, "a")
    manager.apply(manager.plan("job", Policy(keep_last=2)))
    assert manager.undelete("job", gone) is True
    assert steps(manager) == "aef"
    assert manager.restore("job", gone) == {"step": "a"}  # I5


# -- cleanup: a caller's own keep_last ----------------------------------------------


def test_a_cleanup_is_one_event_that_says_so(manager: CheckpointManager) -> None:
    assert manager.cleanup("job", 5, actor="token:ops") == 1
    (event,) = manager.history("job", after_seq=7)
    assert event["type"] == "checkpoints.cleaned"
    assert event["actor"] == "token:ops"
    assert event["data"]["policy"] == {"name": "cleanup", "keep_last": 5}
    assert "plan_id" not in event["data"]


def test_a_cleanup_keeps_the_last_saved_when_the_clock_jumped_back(
    manager: CheckpointManager, clock: Clock
) -> None:
    clock.turn(seconds=-7200)
    for step in "xyz":
        manager.save("job", step, {})
        clock.turn(seconds=60)
    manager.cleanup("job", 3)
    assert steps(manager) == "xyz"


def test_a_cleanup_does_what_it_says_even_if_all_seems_to_be_in_the_future(
    manager: CheckpointManager, clock: Clock
) -> None:
    clock.turn(seconds=-7200)
    assert manager.cleanup("job", 2) == 4
    assert steps(manager) == "ef"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))), st.integers(1, 4))
def test_no_cleanup_removes_the_newest_the_current_or_a_pinned_one(
    changes: list[tuple[bool, int]], keep_last: int
) -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    ids = [manager.save("job", "s", {}) for _ in range(6)]
    for is_pin, number in changes:
        (manager.pin if is_pin else manager.restore)("job", ids[number])
    now = manager.current("job")
    assert now is not None
    must = {ids[number] for is_pin, number in changes if is_pin}
    must |= {now.checkpoint_id, *ids[-keep_last:]}
    assert manager.cleanup("job", keep_last) == 6 - len(must)
    assert {info.checkpoint_id for info in manager.list("job")} == must  # I6
