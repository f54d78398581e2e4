"""The workflow calls that people already make: names, arguments, answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from milepost import (
    CheckpointExecution,
    CheckpointManager,
    CheckpointState,
    WorkflowExecution,
    errors,
)
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.clock import Clock

STATUS = [
    *("execution_id", "correlation_id", "workflow_name", "state"),
    *("current_checkpoint", "started_at", "completed_at", "total_checkpoints"),
    *("completed_checkpoints", "failed_checkpoints", "pending_approvals"),
]
STEP = [
    *("checkpoint_name", "agent_id", "correlation_id", "state", "started_at"),
    *("completed_at", "input_data", "output_data", "error_details"),
    *("approval_required", "approval_status", "metadata"),
]


def types_of(manager: CheckpointManager) -> list[str]:
    return [event["type"] for event in manager.history(JOB)]


def test_an_execution_runs_through_its_steps(manager: CheckpointManager) -> None:
    run = manager.start_workflow_execution(JOB, "ingest", {"url": "x"})
    assert (run.state, run.correlation_id, run.global_data) == (
        "running",
        JOB,
        {"url": "x"},
    )
    step = manager.create_checkpoint(run.execution_id, "load", "loader", {"n": 1})
    assert (step.state, run.current_checkpoint) == (CheckpointState.ACTIVE, "load")
    assert manager.complete_checkpoint(run.execution_id, "load", {"rows": 5})
    assert (step.state.value, step.output_data) == ("completed", {"rows": 5})
    assert run.current_checkpoint is None
    # The simple calls see the same job.
    (info,) = manager.list(JOB)
    assert (info.step_name, info.workflow_name) == ("load", "ingest")
    assert manager.restore(JOB, info.checkpoint_id) == {"rows": 5}
    assert manager.complete_execution(run.execution_id, {"ok": True})
    assert (run.state, run.completed_at is None) == ("completed", False)


def test_the_objects_are_the_ones_that_callers_import(
    manager: CheckpointManager,
) -> None:
    run = manager.start_workflow_execution(JOB, "ingest")
    step = manager.create_checkpoint(run.execution_id, "load", "a", {"n": 1})
    assert isinstance(run, WorkflowExecution)
    assert isinstance(step, CheckpointExecution)
    for known, kind in ((run, WorkflowExecution), (step, CheckpointExecution)):
        told: Any = json.loads(json.dumps(known.to_dict()))
        assert kind.from_dict(told).to_dict() == told
        assert kind.from_dict(told | {"more": 1}).to_dict() == told
    assert CheckpointState("paused") is CheckpointState.PAUSED
    assert {state.value for state in CheckpointState} == {
        *("pending", "active", "paused", "completed", "failed", "skipped")
    }


def test_every_answer_has_the_keys_that_callers_read(
    manager: CheckpointManager, run: str
) -> None:
    manager.create_checkpoint(run, "load", "a", {"n": 1})
    status = manager.get_execution_status(run)
    assert status is not None
    assert [*status][: len(STATUS)] == STATUS
    (step,) = manager.get_checkpoint_history(run)
    assert [*step][: len(STEP)] == STEP
    assert step["state"] == "active"
    assert step["state"] is CheckpointState.ACTIVE
    json.dumps([status, step])
    assert manager.list_executions() == [status]
    assert manager.get_execution_status("exec_" + "0" * 20) is None
    assert manager.get_checkpoint_history("exec_" + "0" * 20) == []


def test_a_failed_step_fails_its_execution_unless_told_otherwise(
    manager: CheckpointManager, run: str
) -> None:
    manager.create_checkpoint(run, "a", "agent", {})
    keep = {"error": "no disk"}
    assert manager.complete_checkpoint(run, "a", keep, False, on_step_failure="keep")
    manager.create_checkpoint(run, "b", "agent", {})
    assert manager.complete_checkpoint(run, "b", {}, success=False)
    first, second = manager.get_checkpoint_history(run)
    assert (first["state"], first["error_details"]) == ("failed", "no disk")
    assert second["error_details"] == "Unknown error"
    status = manager.get_execution_status(run)
    assert status is not None
    assert (status["state"], status["failed_checkpoints"]) == ("failed", 2)
    assert manager.list(JOB) == []


def test_the_newest_open_step_of_equal_names_is_completed(
    manager: CheckpointManager, run: str
) -> None:
    for number in range(2):
        manager.create_checkpoint(run, "same", "agent", {"n": number})
    assert manager.complete_checkpoint(run, "same", {"done": 1})
    states = [step["status"] for step in manager.get_checkpoint_history(run)]
    assert states == ["open", "completed"]


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.complete_checkpoint(x, "none", {}),
        lambda m, x: m.complete_checkpoint(x, "none", {}, success=False),
        lambda m, x: m.approve_checkpoint(x, "none", True),
        lambda m, _: m.complete_checkpoint("exec_nobody", "load", {}),
        lambda m, _: m.approve_checkpoint("exec_nobody", "load", True),
        lambda m, _: m.pause_execution("exec_nobody"),
        lambda m, x: m.pause_execution(x, "none"),
        lambda m, _: m.resume_execution("exec_nobody"),
        lambda m, x: m.approve_checkpoint(x, "load", True),  # it has no gate
    ],
)
def test_what_is_unknown_answers_false_and_writes_nothing(
    manager: CheckpointManager,
    run: str,
    call: Callable[[CheckpointManager, str], bool],
) -> None:
    manager.create_checkpoint(run, "load", "a", {})
    before = manager.history(JOB)
    assert call(manager, run) is False
    assert manager.history(JOB) == before


def test_the_job_names_its_newest_unfinished_execution(
    manager: CheckpointManager,
) -> None:
    """As callers wrote it who never started one."""
    manager.create_checkpoint(f"exec_{JOB}", "write_file", "agent", {"path": "x"})
    assert manager.complete_checkpoint(f"exec_{JOB}", "write_file", {"ok": True})
    (known,) = manager.list_executions()
    manager.complete_execution(f"exec_{JOB}")
    manager.create_checkpoint(f"exec_{JOB}", "again", "agent", {})
    first, second = manager.list_executions()
    assert (first["execution_id"], first["state"]) == (
        known["execution_id"],
        "completed",
    )
    assert second["state"] == "running"
    with pytest.raises(ValueError, match="does not exist"):
        manager.create_checkpoint("exec_other", "s", "a", {}, auto_start=False)
    assert [job.job_id for job in manager.jobs()] == [JOB]


def test_a_gate_pauses_until_it_is_decided(
    manager: CheckpointManager, run: str
) -> None:
    step = manager.create_checkpoint(run, "publish", "writer", {"rows": 3}, True)
    assert (step.state, step.approval_required, step.approval_status) == (
        "paused",
        True,
        "pending",
    )
    assert manager.get_execution_status(run)["state"] == "paused"  # type: ignore[index] # it exists
    # The gate cannot be passed by completing the step, nor opened by resuming.
    assert not manager.complete_checkpoint(run, "publish", {})
    assert not manager.resume_execution(run)
    assert manager.approve_checkpoint(run, "publish", True)
    assert manager.approve_checkpoint(run, "publish", True)
    assert not manager.approve_checkpoint(run, "publish", False)
    assert (step.state, step.approval_status) == ("active", "approved")
    assert manager.complete_checkpoint(run, "publish", {"ok": 1})
    assert types_of(manager).count("approval.approved") == 1


def test_a_denied_step_is_skipped_and_the_execution_goes_on_when_resumed(
    manager: CheckpointManager, run: str
) -> None:
    step = manager.create_checkpoint(run, "publish", "writer", {}, True)
    assert manager.approve_checkpoint(run, "publish", False)
    assert manager.approve_checkpoint(run, "publish", False)
    assert not manager.approve_checkpoint(run, "publish", True)
    assert (step.state, step.approval_status) == ("skipped", "denied")
    assert manager.list_executions("paused")
    assert manager.resume_execution(run)
    manager.create_checkpoint(run, "report", "writer", {})


def test_a_step_that_ends_while_its_execution_is_paused_is_not_lost(
    manager: CheckpointManager, run: str
) -> None:
    step = manager.create_checkpoint(run, "load", "a", {})
    assert manager.pause_execution(run, "load")
    assert step.state == "paused"
    assert manager.complete_checkpoint(run, "load", {"rows": 5})
    assert manager.load(JOB) == {"rows": 5}
    assert manager.list_executions("paused")


def test_callbacks_run_after_the_event_and_may_decide(
    manager: CheckpointManager, run: str
) -> None:
    seen: list[object] = []

    def decide(execution_id: str, step: CheckpointExecution) -> None:
        seen.append((step.checkpoint_name, step.state))
        assert manager.approve_checkpoint(execution_id, step.checkpoint_name, True)

    def note(step: CheckpointExecution) -> None:
        seen.append((step.checkpoint_name, step.state, types_of(manager)[-1]))

    manager.register_approval_callback(decide)
    manager.register_checkpoint_callback("publish", note)
    manager.create_checkpoint(run, "publish", "w", {}, True)
    assert manager.complete_checkpoint(run, "publish", {})
    assert seen == [
        ("publish", "paused"),
        ("publish", "completed", "checkpoint.saved"),
    ]


def test_a_callback_that_raises_changes_nothing(
    manager: CheckpointManager, run: str
) -> None:
    manager.register_checkpoint_callback("load", lambda _: 1 / 0)
    manager.create_checkpoint(run, "load", "a", {})
    assert manager.complete_checkpoint(run, "load", {"rows": 5})
    assert manager.workflows.callback_failures == 1
    assert manager.load(JOB) == {"rows": 5}


def test_old_executions_are_removed_by_the_age_of_their_end(
    manager: CheckpointManager, run: str, clock: Clock
) -> None:
    for name in ("a", "b"):
        manager.create_checkpoint(run, name, "agent", {})
        manager.complete_checkpoint(run, name, {"step": name})
    clock.turn(days=40)
    manager.complete_execution(run)
    assert manager.cleanup_old_executions(30) == 0
    clock.turn(days=31)
    running = manager.start_workflow_execution(JOB, "ingest").execution_id
    assert manager.cleanup_old_executions(30) == 1
    assert [x["execution_id"] for x in manager.list_executions()] == [running]
    assert manager.get_execution_status(run) is None
    # The job's current and newest checkpoint stays (I6).
    assert [info.step_name for info in manager.list(JOB)] == ["b"]
    assert manager.cleanup_old_executions(30) == 0


def test_the_states_of_a_removed_execution_leave_the_disk(
    tmp_path: Path, clock: Clock
) -> None:
    """I9: after the trash period and one compaction."""
    with CheckpointManager(tmp_path, clock=clock, trash_seconds=60) as manager:
        run = manager.start_workflow_execution(JOB, "w", {"secret": "initial"})
        name = run.execution_id
        manager.create_checkpoint(name, "a", "agent", {"secret": "input"})
        manager.complete_checkpoint(name, "a", {"secret": "output"})
        manager.create_checkpoint(name, "gate", "agent", {"secret": "subject"}, True)
        manager.approve_checkpoint(name, "gate", True)
        manager.signal(name, "go", {"secret": "payload"})
        manager.complete_execution(name, {"secret": "result"})
        manager.save(JOB, "later", {"kept": True})
        clock.turn(days=2)
        manager.cleanup_old_executions(1)
        clock.turn(seconds=61)
        assert b"secret" in (tmp_path / "journals" / "job.jsonl").read_bytes()
        manager.compact(JOB)
        assert b"secret" not in (tmp_path / "journals" / "job.jsonl").read_bytes()
        assert manager.compact(JOB) is None or manager.verify(JOB)[0].ok
        assert manager.verify(JOB, deep=True)[0].ok
        assert manager.load(JOB) == {"kept": True}


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """I1: the original's workflow half never survived one."""
    with CheckpointManager(tmp_path) as first:
        run = first.start_workflow_execution(JOB, "ingest", {"url": "x"}).execution_id
        first.create_checkpoint(run, "load", "a", {"n": 1})
        first.complete_checkpoint(run, "load", {"rows": 5})
        first.create_checkpoint(run, "publish", "a", {"rows": 5}, True)
        known = first.get_execution_status(run), first.get_checkpoint_history(run)
    with CheckpointManager(tmp_path) as second:
        told = second.get_execution_status(run), second.get_checkpoint_history(run)
        assert told == known
        assert second.approve_checkpoint(run, "publish", True)
        assert second.complete_checkpoint(run, "publish", {"ok": 1})


def test_two_starts_in_one_second_are_two_executions(
    manager: CheckpointManager,
) -> None:
    made = {manager.start_workflow_execution(JOB, "w").execution_id for _ in range(20)}
    assert len(made) == 20
    assert {x["execution_id"] for x in manager.list_executions()} == made


def test_input_that_would_not_round_trip_is_refused(
    manager: CheckpointManager, run: str
) -> None:
    for call in (
        lambda: manager.create_checkpoint(run, "s", "a", {"at": object()}),
        lambda: manager.start_workflow_execution("other", "w", {"at": object()}),
        lambda: manager.request_approval(run, {"at": float("nan")}),
    ):
        with pytest.raises(errors.InvalidState, match=r"^\$\.at: "):
            call()


@pytest.mark.parametrize("state", ["running", "paused", "waiting", "failed"])
def test_lists_are_filtered_by_old_and_exact_words(
    manager: CheckpointManager, state: str
) -> None:
    running = manager.start_workflow_execution(JOB, "w").execution_id
    paused = manager.start_workflow_execution(JOB, "w").execution_id
    manager.pause_execution(paused)
    failed = manager.start_workflow_execution(JOB, "w").execution_id
    manager.fail_execution(failed, "why")
    found = [x["execution_id"] for x in manager.list_executions(state)]
    expected = {"running": running, "failed": failed}
    assert found == [expected.get(state, paused)]
    with pytest.raises(errors.InvalidArgument, match="state must be one of"):
        manager.list_executions("sleeping")


def test_the_aliases_of_older_callers_exist(manager: CheckpointManager) -> None:
    for number in range(3):
        manager.save(JOB, "step", {"n": number})
    latest = manager.get_latest_checkpoint(JOB)
    assert latest == manager.latest(JOB)
    assert manager.cleanup_job(JOB, keep_last=1) == 2
