"""Jobs that are complete, steps that failed, metrics: what policies make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import Best, CheckpointManager, Key, KeyRing, Match, Policies, Policy
from milepost.journal import errors
from milepost.journal.clock import stamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUNNING = Policy(name="running", keep_last=9)
DONE = Policy(name="done", keep_last=1)


def policy_in_force(manager: CheckpointManager) -> str:
    manager.policies = Policies(Match("*", RUNNING, DONE))
    (plan,) = manager.plan("job").jobs
    return plan.policy.name


def test_a_completed_job_has_the_policy_for_completed_ones(
    manager: CheckpointManager, root: Path
) -> None:
    for number in range(3):
        manager.save("job", f"s{number}", {})
    assert policy_in_force(manager) == "running"
    assert manager.complete("job", reason="all done", actor="ops") is True
    assert policy_in_force(manager) == "done"
    with CheckpointManager(root) as reopened:
        assert policy_in_force(reopened) == "done"
        info = reopened.job("job")
        assert info is not None
        assert info.completed_at == stamp(manager._clock())
        assert reopened.apply(reopened.plan("job")) == 2
        assert policy_in_force(reopened) == "done"
    (event,) = (e for e in manager.history("job") if e["type"] == "job.completed")
    assert (event["actor"], event["data"]) == ("ops", {"reason": "all done"})


@pytest.mark.parametrize(
    "begin",
    [
        lambda manager: manager.save("job", "again", {}),
        lambda manager: manager.restore("job", manager.list("job")[0].checkpoint_id),
    ],
    ids=["save", "restore"],
)
def test_a_save_or_a_restore_begins_a_completed_job_again(
    manager: CheckpointManager,
    root: Path,
    begin: Callable[[CheckpointManager], object],
) -> None:
    manager.save("job", "s", {})
    manager.complete("job", failed=True)
    begin(manager)
    assert policy_in_force(manager) == "running"
    with CheckpointManager(root) as reopened:
        assert policy_in_force(reopened) == "running"
        info = reopened.job("job")
        assert info is not None
        assert info.completed_at is None


def test_what_only_looks_or_marks_leaves_a_job_complete(
    manager: CheckpointManager,
) -> None:
    saved = manager.save("job", "s", {})
    manager.complete("job")
    manager.get("job", saved)
    manager.pin("job", saved)
    manager.compact("job")
    assert policy_in_force(manager) == "done"


def test_completing_checks_what_it_is_told(manager: CheckpointManager) -> None:
    assert manager.complete("unknown") is False
    manager.save("job", "s", {})
    with pytest.raises(errors.Conflict):
        manager.complete("job", expected_seq=1)
    with pytest.raises(errors.InvalidArgument):
        manager.complete("job", reason="")
    assert manager.seq("job") == 2
    assert manager.complete("job", failed=True, expected_seq=2) is True
    (*_, event) = manager.history("job")
    assert event["data"] == {"failed": True}


def test_what_was_saved_as_failed_takes_no_place_of_the_others(
    manager: CheckpointManager, root: Path
) -> None:
    for step in "aBcDeF":
        manager.save("job", step, {"step": step}, failed=step.isupper())
    with CheckpointManager(root) as reopened:
        plan = reopened.plan("job", Policy(keep_last=2, keep_failed=1))
        assert reopened.apply(plan) == 3
        assert [c.step_name for c in reopened.list("job")] == ["c", "e", "F"]
        newest = [v.reasons for v in plan.keep[:2]]
        assert newest == [
            ("current", "newest", "last failed #1"),
            ("newest that did not fail", "last #1"),
        ]


def test_the_best_are_found_by_a_dotted_path_or_a_key_with_dots(
    manager: CheckpointManager,
) -> None:
    told: list[dict[str, object]] = [
        {"eval": {"loss": 0.3}}, {"eval.loss": 0.1}, {"eval": 5}, {"loss": 0}, {},
        {"eval": {"loss": "0"}}, {"eval": {"loss": True}}, {"eval": {"loss": None}},
    ]  # fmt: skip
    for number, metadata in enumerate(told):
        manager.save("job", f"s{number}", {}, metadata=metadata)
    policy = Policy(keep_within="1ms", keep_best=Best("eval.loss", "min", 9))
    keep = manager.plan("job", policy).keep
    best = {v.reasons[-1] for v in keep}
    assert {"best #1 by eval.loss (0.1)", "best #2 by eval.loss (0.3)"} <= best
    assert not any("#3" in reason for reason in best)


def test_a_metric_that_cannot_be_read_shields_its_checkpoint(
    root: Path,
) -> None:
    key = Key.new("k1")
    with CheckpointManager(root, keys=KeyRing([key])) as owner:
        for loss in (1, 2, 3):
            owner.save("job", "s", {}, metadata={"loss": loss})
        policy = Policy(keep_last=1, keep_best=Best("loss", "min"))
        assert len(owner.plan("job", policy).remove) == 1
    with CheckpointManager(root) as stranger:
        assert stranger.plan("job", policy).remove == ()
        assert stranger.plan("job", policy).keep[1].reasons == (
            "its 'loss' cannot be read",
        )
        assert len(stranger.plan("job", Policy(keep_last=1)).remove) == 2
