"""Plans: what policies would do to jobs, carried out exactly or not at all."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import CheckpointManager, MemoryStorage, Plan, Policy, Verdict
from milepost.journal import errors
from milepost.journal.index.job_view import InvalidEvent
from milepost.journal.retention.plans import apply_or_plan_again, plan_of
from milepost.journal.retention.policy import describe, policy_hash
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from milepost import JobPlan
    from tests.support.clock import Clock


@pytest.fixture
def manager(root: Path, clock: Clock) -> Iterator[CheckpointManager]:
    """Return the manager of a job with the checkpoints a to f, a minute apart."""
    with CheckpointManager(root, clock=clock, actor="lib:x@h") as manager:
        for step in "abcdef":
            manager.save("job", step, {"step": step})
            clock.turn(seconds=60)
        yield manager


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
    policy = Policy(keep_last=1, min_age="181s")
    assert planned(manager.plan("job", policy), manager) == "abc"
    assert planned(manager.plan("job", policy, now=NOW), manager) == ""
    clock.turn(seconds=-60)
    assert planned(manager.plan("job", policy), manager) == "ab"


def test_a_job_that_changed_is_decided_again_as_of_the_time_of_the_plan(
    manager: CheckpointManager, clock: Clock
) -> None:
    policy = Policy(keep_last=1, min_age="181s", min_keep=1)
    plan = manager.plan("job", policy)
    assert plan.as_of == plan.jobs[0].as_of
    clock.turn(minutes=30)  # d and e are over the minimal age now
    manager.complete("job")
    assert manager.plan("job", policy, now=plan.as_of).plan_id == plan.plan_id
    assert manager.plan("job", policy).plan_id != plan.plan_id
    assert manager.apply(plan) == 3
    assert steps(manager) == "def"


def test_applying_is_one_event_with_a_reason_for_each(
    manager: CheckpointManager,
) -> None:
    manager.trash_seconds = 3600
    policy = Policy(name="nightly", keep_last=4)
    plan = manager.plan("job", policy)
    assert manager.apply(plan, actor="worker:1") == 2
    (event,) = manager.history("job", after_seq=7)
    assert event["type"] == "checkpoints.cleaned"
    assert event["actor"] == "worker:1"
    assert event["data"] == {
        "removed": {v.checkpoint_id: "; ".join(v.reasons) for v in plan.remove},
        "kept": 4,
        "policy": {"name": "nightly", "keep_last": 4, "hash": policy_hash(policy)},
        "trash_until": "2026-11-23T06:06:00.123456+00:00",
        "plan_id": plan.plan_id,
    }
    assert list(event["data"]["removed"].values()) == [
        "no rule keeps it; 5th newest; keep_last = 4",
        "no rule keeps it; 6th newest; keep_last = 4",
    ]


def test_a_plan_is_carried_out_once(manager: CheckpointManager) -> None:
    plan = manager.plan("job", Policy(keep_last=2))
    assert manager.apply(plan) == 4
    with pytest.raises(errors.StalePlan, match=plan.plan_id) as caught:
        manager.apply(plan)
    assert isinstance(caught.value, errors.Conflict)
    assert caught.value.code == "stale_plan"
    assert manager.seq("job") == 8


def test_a_plan_is_stale_as_soon_as_what_it_shows_is_no_longer_so(
    manager: CheckpointManager,
) -> None:
    for change, step in (
        (manager.pin, "b"),
        (manager.restore, "c"),
        (manager.delete, "d"),
    ):
        plan = manager.plan("job", Policy(keep_last=1))
        change("job", id_of(manager, step))
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


def test_what_a_limit_spares_stands_in_its_place_among_what_stays(
    manager: CheckpointManager,
) -> None:
    manager.pin("job", id_of(manager, "a"))
    keep = manager.plan("job", Policy(keep_last=2), limit=1).keep
    assert [verdict.seq for verdict in keep] == [7, 6, 5, 4, 2]
    assert keep[2].reasons == keep[3].reasons == ("over the limit of one run",)


def forgeries(plan: Plan, remove: tuple[Verdict, ...]) -> tuple[Plan, Plan]:
    """Return a plan that would remove something else, with its old id and a new one."""
    jobs: tuple[JobPlan, ...] = (plan.jobs[0]._replace(remove=remove),)
    return plan._replace(jobs=jobs), plan_of(jobs)


def test_a_plan_that_was_tampered_with_cannot_remove_what_no_policy_may(
    manager: CheckpointManager,
) -> None:
    plan = manager.plan("job", Policy(keep_last=2))
    for forged in forgeries(plan, (*plan.remove, *plan.keep)):
        with pytest.raises(errors.InvalidArgument, match="plan"):
            manager.apply(forged)
    assert steps(manager) == "abcdef"  # I6


def test_a_plan_that_names_what_is_not_there_breaks_nothing(
    manager: CheckpointManager,
) -> None:
    plan = manager.plan("job", Policy(keep_last=2))
    unknown = plan.remove[0]._replace(checkpoint_id="unknown")
    for forged in forgeries(plan, (*plan.remove, unknown)):
        with pytest.raises((errors.InvalidArgument, InvalidEvent)):
            manager.apply(forged)
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
    policy = Policy(name="cleanup", keep_last=5)
    assert event["data"]["policy"] == describe(policy) | {"hash": policy_hash(policy)}
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
def test_a_cleanup_leaves_exactly_the_newest_besides_the_pinned_ones(
    changes: list[tuple[bool, int]], keep_last: int
) -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    ids = [manager.save("job", "s", {}) for _ in range(6)]
    for is_pin, number in changes:
        (manager.pin if is_pin else manager.restore)("job", ids[number])
    must = {ids[number] for is_pin, number in changes if is_pin}
    must |= {*[i for i in ids if i not in must][-keep_last:]}
    shown = manager.plan_cleanup("job", keep_last)
    assert {v.checkpoint_id for v in shown.keep} == must
    assert manager.cleanup("job", keep_last) == 6 - len(must) == len(shown.remove)
    assert {info.checkpoint_id for info in manager.list("job")} == must


def test_a_cleanup_may_keep_more_than_there_could_ever_be(
    manager: CheckpointManager,
) -> None:
    assert manager.cleanup("job", sys.maxsize) == 0
    with pytest.raises(errors.InvalidArgument, match="keep_last must be at most"):
        manager.cleanup("job", sys.maxsize + 1)


# -- who confirms a plan confirms its policy ------------------------------------------


def saved(manager: CheckpointManager, job: str, count: int = 20) -> None:
    for number in range(count):
        manager.save(job, "step", {"n": number})


def test_plans_of_a_policy_wait_until_one_of_them_was_confirmed(tmp_path: Path) -> None:
    policy = Policy(name="nightly", keep_last=5)
    with CheckpointManager(tmp_path) as manager:
        for job in ("a", "b"):
            saved(manager, job)
        first, other = (manager.plan(job, policy) for job in ("a", "b"))
        assert first.waits
        assert other.waits
        assert manager.apply(first, confirm=True, actor="token:ops") == 15
        (event,) = manager.history("a", types={"checkpoints.cleaned"})
        assert (event["actor"], event["data"].get("confirmed")) == ("token:ops", True)
        assert manager.plan("b", policy).waits == ()
    with CheckpointManager(tmp_path) as again:  # it is in the journal
        again.jobs()
        assert again.apply(again.plan("b", policy)) == 15
        assert "confirmed" not in again.history("b")[-1]["data"]


def test_an_edited_policy_waits_again_and_small_removals_confirm_nothing(
    tmp_path: Path,
) -> None:
    with CheckpointManager(tmp_path) as manager:
        for job, count in (("a", 20), ("b", 20), ("small", 3)):
            saved(manager, job, count)
        manager.apply(manager.plan("a", Policy(keep_last=5)), confirm=True)
        mistyped = Policy(keep_last=1)
        assert manager.apply(manager.plan("small", mistyped)) == 2
        assert manager.plan("b", mistyped).waits


def test_what_a_caller_cleans_up_confirms_no_policy(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        for job in ("a", "b"):
            saved(manager, job)
        manager.cleanup("a", keep_last=5)
        assert manager.plan("b", Policy(name="cleanup", keep_last=5)).waits


def test_a_stale_plan_is_made_again_once(manager: CheckpointManager) -> None:
    def plan() -> Plan:
        return manager.plan("job", Policy(keep_last=3))

    def spoilt() -> Plan:
        made = plan()
        manager.delete("job", made.remove[0].checkpoint_id)
        return made

    assert apply_or_plan_again(spoilt(), manager.apply, plan) == 2
    assert steps(manager) == "def"
    manager.delete("job", id_of(manager, "e"))
    assert apply_or_plan_again(plan(), manager.apply, spoilt) == 0
    for _ in range(4):
        manager.save("job", "more", {})
    with pytest.raises(errors.StalePlan):
        apply_or_plan_again(spoilt(), manager.apply, spoilt)
    made = spoilt()
    assert apply_or_plan_again(made, manager.apply, lambda: plan_of(())) == 0
