"""One retention pass: what goes, what stays, and what can't stop it."""

from __future__ import annotations

import fcntl
import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Plan
from milepost.journal.errors import StorageFailed
from milepost.journal.ids import file_name
from milepost.worker.config.settings import MatchRule, RetentionSettings, Rule, Settings
from milepost.worker.service import Worker
from tests.support.clock import NOW, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEEP_TWO = RetentionSettings(
    min_keep=1, min_age="0s", max_remove_fraction=1.0, default=Rule(keep_last=2)
)


def but(**changes: Any) -> RetentionSettings:
    """Return `KEEP_TWO` with other values."""
    return RetentionSettings(**{**dict(KEEP_TWO), **changes})


class Interrupted(CheckpointManager):
    """A store on which something happens right before a plan is carried out."""

    before_apply: Callable[[Plan], object] | None = None

    def apply(self, plan: Plan, *, actor: str | None = None) -> int:
        if self.before_apply:
            self.before_apply(plan)
        return super().apply(plan, actor=actor)


@pytest.fixture
def manager(tmp_path: Path, clock: Clock) -> Iterator[Interrupted]:
    with Interrupted(
        tmp_path, durability="never", clock=clock, lock_timeout_seconds=0.01
    ) as made:
        yield made


def fill(manager: CheckpointManager, *jobs: str, each: int = 5) -> None:
    for job in jobs:
        for number in range(each):
            manager.save(job, f"step-{number}", {"n": number})


def left(manager: CheckpointManager) -> dict[str, int]:
    return {info.job_id: info.checkpoints for info in manager.jobs()}


def worker(manager: CheckpointManager, clock: Clock, retention: Any) -> Worker:
    settings = Settings(retention=retention)
    return Worker(manager, settings, clock=clock, steady=clock.steady)


def test_a_pass_removes_what_each_jobs_rule_lets_go(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "etl-a", "etl-b", "other", "precious")
    rules = [MatchRule(match="etl-*", keep_last=1), MatchRule(match="precious")]
    retention = but(rule=rules)
    report = worker(manager, clock, retention).run_task("cleanup")
    assert left(manager) == {"etl-a": 1, "etl-b": 1, "other": 2, "precious": 5}
    assert (report.jobs, report.counts["removed"], report.outcome) == (4, 11, "ok")
    assert report.removed_by_job == {"etl-a": 4, "etl-b": 4, "other": 3}
    assert worker(manager, clock, retention).run_task("cleanup").counts["removed"] == 0


def test_the_journal_says_who_removed_by_which_rule(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a")
    worker(manager, clock, KEEP_TWO).run_task("cleanup")
    event: Any = manager.history("a", types=["checkpoints.cleaned"])[0]
    assert event["actor"] == "worker:cleanup"
    assert event["data"]["policy"]["name"] == "default"
    assert len(event["data"]["removed"]) == 3


def stored(manager: CheckpointManager) -> int:
    return sum(info.stored_bytes for job in left(manager) for info in manager.list(job))


def test_the_oldest_of_all_jobs_go_until_the_store_fits_its_budget(
    manager: Interrupted, clock: Clock
) -> None:
    for job in ("old", "*"):  # which is also the glob that fits all jobs
        for number in range(5):
            clock.turn(minutes=1)
            manager.save(job, "step", {"text": "x" * 1500, "n": number})
    budget = stored(manager) * 6 // 10 + 500
    fitting = but(default=Rule(), max_store_bytes=budget, max_remove_fraction=1.0)
    report = worker(manager, clock, fitting).run_task("cleanup")
    assert left(manager) == {"old": 1, "*": 5}
    assert report.removed_by_job == {"old": 4}
    assert stored(manager) <= budget
    (event,) = manager.history("old", types={"checkpoints.cleaned"})
    reasons: Any = event["data"]
    assert f"max_store_bytes = {budget}" in next(iter(reasons["removed"].values()))
    again = worker(manager, clock, fitting).run_task("cleanup")
    assert again.counts["removed"] == 0


def test_a_budget_spares_what_is_shielded_and_rules_that_are_only_tried(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a", "b", each=4)
    rules = [MatchRule(match="a", dry_run=True), MatchRule(match="b", min_keep=3)]
    tight = but(default=Rule(), rule=rules, max_store_bytes=1024)
    report = worker(manager, clock, tight).run_task("cleanup")
    assert left(manager) == {"a": 4, "b": 3}
    assert report.counts["kept_by_dry_run"] == 3


def test_what_requires_confirmation_is_counted_once(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a", each=20)
    careful = but(max_remove_fraction=0.5, max_store_bytes=1024)
    report = worker(manager, clock, careful).run_task("cleanup")
    assert left(manager) == {"a": 20}
    assert report.counts["waiting_for_confirmation"] == 1


def test_ages_count_from_the_passs_now(manager: Interrupted, clock: Clock) -> None:
    fill(manager, "a")
    retention = RetentionSettings(min_keep=1, default=Rule(keep_last=2))
    assert worker(manager, clock, retention).run_task("cleanup").counts["removed"] == 0
    later = NOW + timedelta(hours=2)
    assert (
        worker(manager, clock, retention).run_task("cleanup", later).counts["removed"]
        == 3
    )


def test_without_any_rule_everything_stays(manager: Interrupted, clock: Clock) -> None:
    fill(manager, "a", each=30)
    clock.turn(days=4000)
    made = worker(manager, clock, RetentionSettings())
    made.trust_clock()
    report = made.run_task("cleanup")
    assert (report.counts["removed"], report.jobs, left(manager)) == (0, 1, {"a": 30})


# -- I10: one job never stops another --------------------------------------------------


def test_a_job_that_raises_does_not_stop_the_others(
    manager: Interrupted,
    clock: Clock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill(manager, "a", "b", "c")
    with (tmp_path / "heads" / file_name("b")).open("rb") as head:
        fcntl.flock(head, fcntl.LOCK_EX)  # as another process that writes and hangs
        report = worker(manager, clock, KEEP_TWO).run_task("cleanup")
    assert left(manager) == {"a": 2, "b": 5, "c": 2}
    assert (report.failed, report.outcome) == (1, "partly")
    level, line = caplog.record_tuples[-1][1:]
    assert (level, line[:15]) == (logging.WARNING, "cleanup partly:")
    caplog.clear()
    caplog.set_level(logging.INFO, "milepost.worker")
    worker(manager, clock, KEEP_TWO).run_task("cleanup")
    assert caplog.record_tuples[-1][1:] == (
        logging.INFO,
        "cleanup ok: 3 removed, 3 jobs",
    )
    assert [(p.job_id, p.code) for p in report.problems] == [("b", "locked")]
    assert "Traceback" not in caplog.text


def test_a_damaged_job_is_reported_and_left_as_it_is(
    clock: Clock, tmp_path: Path
) -> None:
    with CheckpointManager(tmp_path, clock=clock) as synced:
        fill(synced, "a", "b", "c")
    path = tmp_path / "journals/b.jsonl"
    raw = bytearray(path.read_bytes())
    raw[raw.index(b'"checkpoint.saved"', len(raw) // 2)] ^= 1
    path.write_bytes(raw)
    with CheckpointManager(tmp_path, clock=clock) as fresh:
        report = worker(fresh, clock, KEEP_TWO).run_task("cleanup")
        assert (report.damaged, report.failed, report.outcome) == (1, 0, "partly")
        assert [(p.job_id, p.code) for p in report.problems] == [("b", "damaged")]
        assert len(fresh.list("a")) == len(fresh.list("c")) == 2
    assert path.read_bytes() == raw
    assert "'b'" in report.line


def test_a_bug_in_one_job_does_not_stop_the_others(
    manager: Interrupted, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fill(manager, "a", "b", "c")

    def stumble(plan: Plan) -> None:
        if plan.jobs[0].job_id == "b":
            raise ZeroDivisionError

    manager.before_apply = stumble
    report = worker(manager, clock, KEEP_TWO).run_task("cleanup")
    assert left(manager) == {"a": 2, "b": 5, "c": 2}
    assert report.problems[0] == ("b", "error", "ZeroDivisionError")
    assert "Traceback" in caplog.text


# -- plans that went stale -------------------------------------------------------------


def test_a_plan_that_went_stale_is_made_again_once(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a")

    def save_once(_: Plan) -> None:
        manager.before_apply = None
        manager.save("a", "meanwhile", {})

    manager.before_apply = save_once
    report = worker(manager, clock, KEEP_TWO).run_task("cleanup")
    assert (report.counts["removed"], report.outcome) == (4, "ok")
    assert [info.step_name for info in manager.list("a")] == ["step-4", "meanwhile"]


def test_a_job_that_never_rests_is_left_for_the_next_pass(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a", "b")

    def save_always(plan: Plan) -> None:
        if plan.jobs[0].job_id == "a":
            manager.save("a", "meanwhile", {})

    manager.before_apply = save_always
    report = worker(manager, clock, KEEP_TWO).run_task("cleanup")
    assert [(p.job_id, p.code) for p in report.problems] == [("a", "stale_plan")]
    assert left(manager) == {"a": 7, "b": 2}


# -- bounds ----------------------------------------------------------------------------


def test_a_run_removes_at_most_max_per_run_and_the_next_goes_on(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a", "b", "c")
    retention = but(max_per_run=4)
    first = worker(manager, clock, retention).run_task("cleanup")
    assert (first.counts["removed"], first.resume_after) == (4, "b")
    assert left(manager) == {"a": 2, "b": 4, "c": 5}
    second = worker(manager, clock, retention).run_task("cleanup")
    assert second.removed_by_job == {"c": 3, "b": 1}
    third = worker(manager, clock, retention).run_task("cleanup")
    assert (third.counts["removed"], third.resume_after) == (1, None)
    assert left(manager) == {"a": 2, "b": 2, "c": 2}


def test_a_job_with_more_than_fits_does_not_starve_those_behind_it(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "b")
    retention = but(max_per_run=3)
    removed = []
    for _ in range(2):
        fill(manager, "a", each=10)
        removed.append(
            worker(manager, clock, retention).run_task("cleanup").removed_by_job
        )
    assert removed == [{"a": 3}, {"b": 3}]


def test_a_pass_that_is_asked_to_stop_ends_between_two_jobs(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a", "b")
    stopping = worker(manager, clock, KEEP_TWO)
    manager.before_apply = lambda _: stopping.ask_to_stop()
    report = stopping.run_task("cleanup")
    assert (report.outcome, report.removed_by_job) == ("stopped", {"a": 3})
    assert left(manager) == {"a": 2, "b": 5}


# -- what is remembered ----------------------------------------------------------------


def test_the_last_run_is_remembered_in_the_store(
    manager: Interrupted, clock: Clock
) -> None:
    fill(manager, "a")
    worker(manager, clock, KEEP_TWO).run_task("cleanup")
    last = worker(manager, clock, KEEP_TWO).status.task("cleanup").last
    assert last is not None
    assert (last.at, last.outcome, last.counts["removed"]) == (NOW, "ok", 3)
    assert (last.line, last.error) == ("3 removed, 1 job", None)


def test_a_pass_that_cannot_begin_raises_and_is_remembered(
    manager: Interrupted, clock: Clock, tmp_path: Path
) -> None:
    fill(manager, "a")
    (tmp_path / "heads").rename(tmp_path / "aside")
    (tmp_path / "heads").touch()
    failing = worker(manager, clock, KEEP_TWO)
    with pytest.raises(StorageFailed):
        failing.run_task("cleanup")
    last = failing.status.task("cleanup").last
    assert last is not None
    assert last.outcome == "failed"
    assert "StorageFailed" in str(last.error)


def test_a_pass_over_no_store_makes_none(tmp_path: Path, clock: Clock) -> None:
    with CheckpointManager(tmp_path / "none", clock=clock) as manager:
        report = worker(manager, clock, KEEP_TWO).run_task("cleanup")
    assert (report.jobs, report.outcome) == (0, "ok")
    assert list((tmp_path / "none").iterdir()) == []


def test_a_pass_that_cannot_be_remembered_is_a_pass_and_says_so(
    manager: Interrupted, clock: Clock, tmp_path: Path
) -> None:
    fill(manager, "a")
    (tmp_path / "records/last-runs").mkdir(parents=True)
    forgetful = worker(manager, clock, KEEP_TWO)
    assert forgetful.run_task("cleanup").counts["removed"] == 3
    assert "last run of cleanup: " in str(forgetful.status.problem)
    (tmp_path / "records/last-runs").rmdir()
    forgetful.run_task("cleanup")
    assert forgetful.status.problem is None


def test_last_runs_reach_the_disk_before_they_get_their_name(
    manager: Interrupted,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(manager, "a")
    steps: list[str] = []
    import os

    def note(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            steps.append(name)
            return call(*args, **options)

        return noted

    monkeypatch.setattr(os, "fsync", note("fsync", os.fsync))
    monkeypatch.setattr(Path, "rename", note("rename", Path.rename))
    worker(manager, clock, KEEP_TWO).run_task("cleanup")
    # Of the clocks, then of the run: the folder's name, the file, the file's name.
    assert steps == ["fsync", "fsync", "rename", "fsync"] * 2
    left_over = {path.name for path in (tmp_path / "records").iterdir()}
    assert left_over == {"clock-seen", "last-runs"}
