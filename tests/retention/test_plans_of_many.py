"""Plans across jobs: globs, limits, budgets, confirmation, damaged jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager, Match, Plan, Policies, Policy
from milepost.journal import errors
from milepost.journal.ids import file_name
from milepost.journal.retention.decisions import GUARD_FROM
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from tests.support.clock import Clock

KEEP_ONE = Policy(name="one", keep_last=1)


@pytest.fixture
def jobs(manager: CheckpointManager, clock: Clock) -> CheckpointManager:
    """Return a manager whose jobs a, b and etl-* have three checkpoints each."""
    for number in range(3):
        for job in ("a", "b", "etl-1", "etl-*"):
            manager.save(job, f"s{number}", {"job": job, "number": number})
            clock.turn(seconds=1)
    return manager


def left(manager: CheckpointManager) -> dict[str, str]:
    """Return which saves are left of each job."""
    return {
        info.job_id: "".join(c.step_name[1] for c in manager.list(info.job_id))
        for info in manager.jobs()
    }


def sizes(plan: Plan) -> dict[str, int]:
    return {job.job_id: len(job.remove) for job in plan.jobs}


def test_a_plan_is_of_one_job_of_all_that_fit_a_glob_or_of_none(
    jobs: CheckpointManager,
) -> None:
    assert sizes(jobs.plan("a", KEEP_ONE)) == {"a": 2}
    assert sizes(jobs.plan("[ab]", KEEP_ONE)) == {"a": 2, "b": 2}
    assert sizes(jobs.plan("*", KEEP_ONE)) == {"a": 2, "b": 2, "etl-*": 2, "etl-1": 2}
    for nothing in ("unknown", "unknown-*", "A"):
        plan = jobs.plan(nothing, KEEP_ONE)
        assert (plan.jobs, plan.problems) == ((), ())
        assert jobs.apply(jobs.plan(nothing, KEEP_ONE)) == 0
    with pytest.raises(errors.InvalidArgument):
        jobs.plan("", KEEP_ONE)


def test_a_job_whose_id_is_a_glob_is_meant_itself(jobs: CheckpointManager) -> None:
    assert sizes(jobs.plan("etl-*", KEEP_ONE)) == {"etl-*": 2}
    assert sizes(jobs.plan("etl-?", KEEP_ONE)) == {"etl-*": 2, "etl-1": 2}
    assert jobs.apply(jobs.plan("etl-*", KEEP_ONE)) == 2
    assert left(jobs) == {"a": "012", "b": "012", "etl-*": "2", "etl-1": "012"}


def test_of_many_jobs_only_those_are_listed_that_lose_something(
    jobs: CheckpointManager,
) -> None:
    jobs.cleanup("b", 1)
    assert sizes(jobs.plan("*", KEEP_ONE)) == {"a": 2, "etl-*": 2, "etl-1": 2}
    assert sizes(jobs.plan("*", KEEP_ONE, limit=3)) == {"a": 2, "etl-*": 1}
    assert sizes(jobs.plan("*", KEEP_ONE, limit=0)) == {}
    (one,) = jobs.plan("b", KEEP_ONE).jobs
    assert (len(one.keep), one.remove) == (1, ())


def test_a_limit_holds_across_jobs_and_the_next_run_goes_on(
    jobs: CheckpointManager,
) -> None:
    assert jobs.apply(jobs.plan("*", KEEP_ONE, limit=3)) == 3
    assert left(jobs) == {"a": "2", "b": "12", "etl-*": "012", "etl-1": "012"}
    over = jobs.plan("b", KEEP_ONE, limit=0).keep[-1]
    assert over.reasons == ("over the limit of one run",)
    assert jobs.apply(jobs.plan("*", KEEP_ONE, limit=9)) == 5
    assert jobs.apply(jobs.plan("*", KEEP_ONE)) == 0


@pytest.mark.parametrize("number", [{"limit": -1}, {"max_bytes": -1}])
def test_a_negative_limit_or_budget_is_refused(
    jobs: CheckpointManager, number: dict[str, int]
) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"must not be negative, got -1"):
        jobs.plan("*", KEEP_ONE, **number)


def test_a_budget_takes_the_oldest_of_all_jobs_and_leaves_what_is_shielded(
    jobs: CheckpointManager,
) -> None:
    jobs.pin("a", jobs.list("a")[0].checkpoint_id)
    plan = jobs.plan("*", max_bytes=1)
    assert sizes(plan) == {"a": 1, "b": 2, "etl-*": 2, "etl-1": 2}
    whole = sum(v.stored_bytes for job in plan.jobs for v in (*job.keep, *job.remove))
    assert jobs.plan("*", max_bytes=whole).jobs == ()
    just_less = jobs.plan("*", max_bytes=whole - 1)
    assert sizes(just_less) == {"b": 1}  # the oldest that is not pinned
    assert just_less.remove[0].reasons == (
        f"max_store_bytes = {whole - 1}",
        "would stay by: no keep rule",
    )
    assert jobs.apply(just_less) == 1
    assert left(jobs) == {"a": "012", "b": "12", "etl-*": "012", "etl-1": "012"}


def test_bytes_are_those_that_checkpoints_take_in_the_journal(
    manager: CheckpointManager, root: Path
) -> None:
    manager.save("job", "s", {"text": "x" * 500})
    manager.save("job", "s", {})
    large, small = reversed(manager.plan("job").keep)
    journal = (root / "journals" / f"{file_name('job')}.jsonl").read_bytes()
    opened = journal.index(b"\n") + 1
    assert large.stored_bytes + small.stored_bytes == len(journal) - opened
    assert large.stored_bytes > 500 > small.stored_bytes // 2


def damage(root: Path, job: str) -> None:
    path = root / "journals" / f"{file_name(job)}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seq":2', b'"seq":9', 1))


def test_a_damaged_job_is_a_problem_and_no_end(
    jobs: CheckpointManager, root: Path
) -> None:
    damage(root, "b")
    with CheckpointManager(root) as fresh:
        plan = fresh.plan("[ab]", KEEP_ONE)
        assert sizes(plan) == {"a": 2}
        ((job, problem),) = plan.problems
        assert (job, problem.code) == ("b", "damaged")
        assert fresh.apply(plan) == 2  # I10
        with pytest.raises(errors.DamagedJournal):
            fresh.plan("b", KEEP_ONE)
    assert [c.step_name for c in jobs.list("a")] == ["s2"]


def test_a_job_that_moved_on_is_skipped_and_those_that_rest_are_cleaned(
    jobs: CheckpointManager,
) -> None:
    plan = jobs.plan("*", KEEP_ONE)
    jobs.save("etl-1", "s3", {})
    applied = jobs.apply(plan)
    assert applied == 6
    ((job, problem),) = applied.skipped
    assert (job, problem.code) == ("etl-1", "stale_plan")
    assert "of job 'etl-1'" in str(problem)
    assert left(jobs) == {"a": "2", "b": "2", "etl-*": "2", "etl-1": "0123"}
    with pytest.raises(errors.StalePlan, match="of job 'a'"):
        jobs.apply(plan)  # nothing is left of it


@pytest.mark.parametrize(
    ("change", "is_carried_out"),
    [
        (lambda m, ids: m.pin("a", ids[2]), True),
        (lambda m, ids: m.restore("a", ids[2]), True),
        (lambda m, _: m.complete("a"), True),
        (lambda m, _: m.save("a", "s3", {}), False),
        (lambda m, ids: m.pin("a", ids[0]), False),
        (lambda m, ids: m.hold("a", ids[1]), False),
        (lambda m, ids: m.restore("a", ids[0]), False),
        (lambda m, ids: m.delete("a", ids[0]), False),
    ],
    ids=range(8),
)
def test_a_job_that_moved_on_is_cleaned_if_all_that_was_shown_is_still_so(
    jobs: CheckpointManager,
    change: Callable[[CheckpointManager, list[str]], object],
    is_carried_out: bool,
) -> None:
    ids = [info.checkpoint_id for info in jobs.list("a")]
    plan = jobs.plan("a", KEEP_ONE)
    change(jobs, ids)
    before = left(jobs)["a"]
    if is_carried_out:
        assert jobs.apply(plan) == 2
        event = jobs.history("a")[-1]
        assert event["data"]["removed"].keys() == {*ids[:2]}
        assert event["data"]["plan_id"] == plan.plan_id
    else:
        with pytest.raises(errors.StalePlan):
            jobs.apply(plan)
        assert left(jobs)["a"] == before


def test_a_limited_plan_holds_for_a_job_that_moved_on(jobs: CheckpointManager) -> None:
    plan = jobs.plan("a", KEEP_ONE, limit=1)
    jobs.complete("a")
    assert jobs.apply(plan) == 1
    assert left(jobs)["a"] == "12"


def test_a_checkpoint_that_was_not_shown_stays(jobs: CheckpointManager) -> None:
    policy = Policy(keep_last=3, keep_failed=0)
    failed = jobs.save("a", "failed", {}, failed=True)
    jobs.restore("a", jobs.list("a")[2].checkpoint_id)
    jobs.save("a", "failed", {}, failed=True)
    plan = jobs.plan("a", policy)
    assert [v.checkpoint_id for v in plan.remove] == [failed]
    late = jobs.save("a", "failed-late", {}, failed=True)
    jobs.restore("a", jobs.list("a")[2].checkpoint_id)
    with pytest.raises(errors.StalePlan):  # the newest that was shown would go by now
        jobs.apply(plan)
    assert late in {info.checkpoint_id for info in jobs.list("a")}


def test_a_job_that_moves_on_while_a_plan_is_carried_out_ends_no_other(
    jobs: CheckpointManager, root: Path
) -> None:
    meddling: list[str] = []

    def clock() -> datetime:  # asked as soon as the first job is written to
        while meddling:
            jobs.save(meddling.pop(), "s3", {})
        return NOW

    with CheckpointManager(root, clock=clock) as manager:
        plan = manager.plan("*", KEEP_ONE)
        meddling.append("etl-*")
        applied = manager.apply(plan)
    assert (applied, [job for job, _ in applied.skipped]) == (6, ["etl-*"])
    assert left(jobs) == {"a": "2", "b": "2", "etl-*": "0123", "etl-1": "2"}


def test_a_plan_that_removes_much_waits_until_somebody_confirms_it(
    jobs: CheckpointManager,
) -> None:
    for number in range(GUARD_FROM):
        jobs.save("large", f"s{number}", {})
    plan = jobs.plan("*", KEEP_ONE)
    (why,) = plan.waits
    assert why == (
        "job 'large': 10 of 11 checkpoints would go; max_remove_fraction = 0.5"
    )
    with pytest.raises(
        errors.ConfirmationRequired,
        match=f"{plan.plan_id} requires confirmation.*10 of 11",
    ):
        jobs.apply(plan)
    assert len(left(jobs)["a"]) == 3
    assert jobs.apply(plan, confirm=True) == 8 + 10
    assert jobs.plan("large", KEEP_ONE).waits == ()


def test_a_limit_does_not_slip_much_past_the_guard_but_nothing_waits_for_nothing(
    jobs: CheckpointManager,
) -> None:
    for number in range(GUARD_FROM):
        jobs.save("large", f"s{number}", {})
    assert jobs.plan("large", KEEP_ONE, limit=1).waits
    assert jobs.plan("large", KEEP_ONE, limit=0).waits == ()
    assert jobs.cleanup("large", 1) == 10  # a caller's own number is its confirmation


def test_each_job_is_planned_by_its_own_policy(jobs: CheckpointManager) -> None:
    jobs.policies = Policies(
        Match("*", Policy(name="default", keep_last=2)),
        (Match("etl-*", KEEP_ONE), Match("b", Policy(name="all"))),
    )
    plan = jobs.plan("*", now=NOW)
    assert sizes(plan) == {"a": 1, "etl-*": 2, "etl-1": 2}
    assert [job.policy.name for job in plan.jobs] == ["default", "one", "one"]
    assert jobs.apply(plan) == 5
    names = [
        jobs.history(job, after_seq=4)[0]["data"]["policy"]["name"]
        for job in ("a", "etl-1")
    ]
    assert names == ["default", "one"]
