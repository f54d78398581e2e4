"""The worker looks after executions: dead attempts, backoff, deadlines, hand-over."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.worker.config.workflows import WorkflowRule
from milepost.worker.executors import JobStillRunning
from milepost.worker.problems import Problems
from milepost.worker.supervisor import START_SECONDS, Supervisor, backoff
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import Clock


class Jobs:
    """An executor that notes what it is told to start."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.refusal: Exception | None = None

    def resume_job(self, job_id: str) -> None:
        self.started.append(job_id)
        if self.refusal is not None:
            raise self.refusal


class Watched:
    """A store and a supervisor on it, whose clocks stand until they are turned."""

    def __init__(self, root: Path, clock: Clock, **rule: Any) -> None:
        self.manager = CheckpointManager(root, actor="worker", clock=clock)
        self.clock = clock
        self.jobs = Jobs()
        self.problems = Problems()
        self.is_trusted = True
        self.supervisor = Supervisor(
            self.manager,
            self.jobs,
            lambda _: WorkflowRule(**{"auto_resume": True, "jitter": 0.0} | rule),
            self.problems,
            clock=clock,
            may_expire=lambda: self.is_trusted,
            steady=clock.steady,
        )

    def look(self, times: int = 4) -> None:
        """Look as often as it takes for nothing more to be due now."""
        for _ in range(times):
            self.supervisor.notice(None)
            self.supervisor.look()

    def die(self, execution_id: str) -> None:
        """End the attempt as the death of its process does."""
        self.manager.workflows.close()
        self.look(1)
        (status,) = [
            found["status"]
            for found in self.manager.list_executions()
            if found["execution_id"] == execution_id
        ]
        assert status == "interrupted"

    def status(self, execution_id: str) -> str:
        found = self.manager.get_execution_status(execution_id)
        assert found is not None
        return str(found["status"])


@pytest.fixture
def watched(tmp_path: Path, clock: Clock) -> Watched:
    return Watched(tmp_path, clock)


def start(watched: Watched, job_id: str = JOB) -> str:
    return watched.manager.start_workflow_execution(job_id, "ingest").execution_id


def test_a_live_attempt_is_left_alone(watched: Watched) -> None:
    run = start(watched)
    watched.look()
    assert (watched.status(run), watched.jobs.started) == ("running", [])


def test_a_dead_attempt_is_noticed_and_its_job_started_again(watched: Watched) -> None:
    run = start(watched)
    watched.manager.create_checkpoint(run, "load", "a", {})
    watched.die(run)
    watched.look()
    assert (watched.status(run), watched.jobs.started) == ("pending", [JOB])
    types = [event["type"] for event in watched.manager.history(JOB)][-4:]
    assert types == [
        *("lease.expired", "checkpoint.abandoned", "execution.interrupted"),
        "execution.resumed",
    ]


def test_without_a_rule_an_interrupted_execution_waits(
    tmp_path: Path, clock: Clock
) -> None:
    watched = Watched(tmp_path, clock, auto_resume=False)
    run = start(watched)
    watched.die(run)
    clock.turn(days=1)
    watched.look()
    assert (watched.status(run), watched.jobs.started) == ("interrupted", [])


def test_attempts_without_progress_back_off_and_end(
    tmp_path: Path, clock: Clock
) -> None:
    watched = Watched(tmp_path, clock, max_attempts=3, backoff_seconds=10)
    run = start(watched)
    watched.die(run)
    watched.look()  # the first resume is immediate
    assert watched.status(run) == "pending"
    watched.manager.acquire_lease(run)
    watched.die(run)
    clock.turn(seconds=9.9)
    watched.look()
    assert watched.status(run) == "interrupted"
    clock.turn(seconds=0.1)
    watched.look()
    assert watched.status(run) == "pending"
    watched.manager.acquire_lease(run)
    watched.die(run)
    watched.look()
    found = watched.manager.get_execution_status(run)
    assert found is not None
    assert (found["status"], found["reason"]) == ("failed", "max_attempts")
    assert found["error"] == "3 attempts ended early"


def test_a_completed_step_counts_as_progress(tmp_path: Path, clock: Clock) -> None:
    watched = Watched(tmp_path, clock, max_attempts=2)
    run = start(watched)
    for _ in range(4):
        watched.manager.create_checkpoint(run, "step", "a", {})
        watched.manager.complete_checkpoint(run, "step", {})
        watched.die(run)
        watched.look()
        assert watched.status(run) == "pending"


def test_an_exhausted_execution_can_be_paused_instead(
    tmp_path: Path, clock: Clock
) -> None:
    watched = Watched(tmp_path, clock, max_attempts=1, on_exhausted="pause")
    run = start(watched)
    watched.die(run)
    watched.look()
    found = watched.manager.get_execution_status(run)
    assert found is not None
    assert (found["status"], found["state"]) == ("waiting", "paused")
    assert found["reason"] == "max_attempts: 1 attempts ended early"
    assert watched.manager.resume_execution(run)


def test_a_job_that_does_not_take_its_lease_is_started_again_a_few_times(
    tmp_path: Path, clock: Clock
) -> None:
    watched = Watched(tmp_path, clock, max_attempts=3)
    watched.manager.start_workflow_execution(JOB, "ingest", pending=True)
    for times in range(1, 4):
        watched.look()
        assert len(watched.jobs.started) == times
        clock.turn(seconds=START_SECONDS)
    watched.look()
    (found,) = watched.manager.list_executions()
    assert (found["status"], len(watched.jobs.started)) == ("failed", 3)


def test_a_job_that_still_runs_is_not_a_failed_start(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched = Watched(tmp_path, clock, max_attempts=1)
    watched.jobs.refusal = JobStillRunning(JOB)
    watched.manager.start_workflow_execution(JOB, "ingest", pending=True)
    for _ in range(3):
        watched.look()
        clock.turn(seconds=START_SECONDS)
    (found,) = watched.manager.list_executions()
    assert found["status"] == "pending"
    assert "started" not in caplog.text


def test_a_decision_starts_the_job(watched: Watched) -> None:
    run = start(watched)
    watched.manager.create_checkpoint(run, "gate", "a", {}, True)
    watched.look()
    assert watched.jobs.started == []
    assert watched.manager.approve_checkpoint(run, "gate", True)
    watched.look()
    assert watched.jobs.started == [JOB]


def test_a_reminder_and_a_deadline_are_recorded_when_they_are_due(
    watched: Watched, clock: Clock
) -> None:
    run = start(watched)
    watched.manager.request_approval(
        run,
        {},
        remind_at=clock.now + timedelta(hours=1),
        deadline=clock.now + timedelta(hours=2),
        on_timeout="fail",
    )
    seen = []
    for _ in range(3):
        watched.look()
        (found,) = watched.manager.approvals("all")
        seen.append((found.status, watched.status(run)))
        clock.turn(hours=1)
    assert seen == [
        ("pending", "waiting"),
        ("pending", "waiting"),
        ("expired", "failed"),
    ]
    types = [event["type"] for event in watched.manager.history(JOB)]
    assert types.count("approval.reminded") == 1


def test_no_deadline_passes_while_the_clock_is_not_trusted(
    watched: Watched, clock: Clock
) -> None:
    run = start(watched)
    deadline = clock.now + timedelta(hours=1)
    watched.manager.request_approval(run, {}, deadline=deadline)
    watched.is_trusted = False
    clock.turn(days=300)
    watched.look()
    assert watched.status(run) == "waiting"
    watched.is_trusted = True
    watched.look()
    (found,) = watched.manager.approvals("all")
    assert found.status == "expired"


def test_trouble_with_one_job_stops_no_other(watched: Watched, tmp_path: Path) -> None:
    """I10."""
    bad, good = start(watched, "a-bad"), start(watched, "b-good")
    watched.look()
    watched.manager.workflows.close()
    journal = tmp_path / "journals" / "a-bad.jsonl"
    damaged = tmp_path / "damaged"
    damaged.write_bytes(journal.read_bytes().replace(b"ingest", b"INGEST"))
    damaged.replace(journal)
    watched.look()
    assert watched.status(good) == "pending"
    assert watched.jobs.started == ["b-good"]
    assert "a-bad" in str(watched.problems)
    assert bad


def test_the_pause_doubles_up_to_its_bound_and_is_the_same_for_every_worker() -> None:
    rule = WorkflowRule(backoff_seconds=1, max_backoff_seconds=60, jitter=0.0)
    pauses = [backoff(rule, "exec_1", n).total_seconds() for n in range(1, 10)]
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    wide = rule.model_copy(update={"jitter": 0.5})
    spread = {backoff(wide, f"exec_{n}", 5).total_seconds() for n in range(200)}
    assert 4.0 <= min(spread) < 5.0
    assert 11.0 < max(spread) <= 12.0
    assert backoff(wide, "exec_1", 10_000) == backoff(wide, "exec_1", 10_000)


def test_a_look_costs_what_is_unfinished_and_not_what_was(
    watched: Watched,
) -> None:
    for number in range(30):
        run = start(watched, f"done-{number}")
        watched.manager.complete_execution(run)
    start(watched, "live")
    watched.look()
    asked: list[str] = []
    unfinished = watched.manager.workflows.unfinished

    def count(job_id: str) -> Any:
        asked.append(job_id)
        return unfinished(job_id)

    watched.manager.workflows.unfinished = count  # type: ignore[method-assign] # counts
    for _ in range(10):
        watched.clock.turn(seconds=0.1)
        watched.supervisor.look()
    assert set(asked) == {"live"}


def test_an_asynchronous_executor_is_awaited(watched: Watched, clock: Clock) -> None:
    class Awaited:
        started: list[str] = []  # noqa: RUF012 - of one test

        async def resume_job(self, job_id: str) -> None:
            self.started.append(job_id)

    supervisor = Supervisor(
        watched.manager,
        Awaited(),
        lambda _: WorkflowRule(auto_resume=True),
        watched.problems,
        clock=clock,
        may_expire=lambda: True,
        steady=clock.steady,
    )
    watched.manager.start_workflow_execution(JOB, "ingest", pending=True)
    supervisor.notice(None)
    supervisor.look()
    assert Awaited.started == [JOB]
