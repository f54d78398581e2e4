"""Triggers: automatic checkpoints after events and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, CheckpointTrigger, TriggerEvent, errors
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.workflow.triggers import NAMES
from tests.support.eventually import DEADLINE_SECONDS
from tests.support.faults import Fault, FaultyDisk
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost import CheckpointInfo
    from tests.support.clock import Clock


def automatic(manager: CheckpointManager, job_id: str = JOB) -> list[CheckpointInfo]:
    return [info for info in manager.list(job_id) if "auto" in info.tags]


def step(manager: CheckpointManager, run: str, name: str, output: Any) -> None:
    manager.create_checkpoint(run, name, "agent", {})
    assert manager.complete_checkpoint(run, name, output)


def ask(manager: CheckpointManager, run: str, **terms: Any) -> str:
    asked = manager.request_approval(run, {"n": 1}, allow_self=True, **terms)
    return asked.approval_id


def decide(manager: CheckpointManager, run: str, decision: str) -> None:
    approval_id = ask(manager, run)
    digest = manager.get_approval(approval_id).subject_digest
    manager.decide(approval_id, decision, subject_digest=digest)


def expire(manager: CheckpointManager, run: str, clock: Clock) -> None:
    approval_id = ask(manager, run, deadline=clock.now + timedelta(hours=1))
    clock.turn(hours=1)
    manager.workflows.expire_approval(approval_id, actor="worker")


def fail_step(manager: CheckpointManager, run: str) -> None:
    manager.create_checkpoint(run, "s", "agent", {})
    manager.complete_checkpoint(run, "s", {"error": "no"}, False)


def interrupt(manager: CheckpointManager, run: str) -> None:
    manager.workflows.expire(run, 1, actor="worker", reason="gone")


def resume(manager: CheckpointManager, run: str) -> None:
    manager.cancel_execution(run)
    manager.resume_execution(run, retry=True)


def unpause(manager: CheckpointManager, run: str) -> None:
    manager.pause_execution(run)
    manager.resume_execution(run)


FIRING: dict[str, Callable[[CheckpointManager, str, Clock], object]] = {
    "step.completed": lambda m, run, _: step(m, run, "s", {"n": 1}),
    "step.failed": lambda m, run, _: fail_step(m, run),
    "approval.requested": lambda m, run, _: ask(m, run),
    "approval.approved": lambda m, run, _: decide(m, run, "approve"),
    "approval.rejected": lambda m, run, _: decide(m, run, "reject"),
    "approval.expired": expire,
    "execution.started": lambda m, *_: m.start_workflow_execution("other", "w"),
    "execution.waiting": lambda m, run, _: m.pause_execution(run),
    "execution.ready": lambda m, run, _: unpause(m, run),
    "execution.interrupted": lambda m, run, _: interrupt(m, run),
    "execution.resumed": lambda m, run, _: resume(m, run),
    "execution.completed": lambda m, run, _: m.complete_execution(run),
    "execution.failed": lambda m, run, _: m.fail_execution(run, "no space"),
    "execution.cancelled": lambda m, run, _: m.cancel_execution(run),
    "signal.received": lambda m, run, _: m.signal(run, "go", {"n": 1}),
}


def test_every_name_has_a_row() -> None:
    assert FIRING.keys() | {"process.sigterm", "process.sigint"} == {*NAMES}


@pytest.mark.parametrize("name", FIRING)
def test_an_event_saves_a_checkpoint_in_the_process_that_wrote_it(
    manager: CheckpointManager, run: str, clock: Clock, tmp_path: Path, name: str
) -> None:
    manager.add_trigger(CheckpointTrigger(on=[name]))
    with CheckpointManager(tmp_path, clock=clock) as deaf:
        for other in NAMES:
            if other != name:
                deaf.add_trigger(CheckpointTrigger(on=[other]))
        FIRING[name](manager, run, clock)
    job_id = "other" if name == "execution.started" else JOB
    [made] = automatic(manager, job_id)
    history = {event["seq"]: event for event in manager.history(job_id)}
    assert (made.step_name, made.tags) == (name, ("auto",))
    assert made.workflow_name == ("w" if job_id == "other" else "ingest")
    fired = history[made.metadata["seq"]]
    assert made.metadata["event"] == name
    assert fired["type"] == name.replace("step.completed", "checkpoint.saved").replace(
        "step.failed", "checkpoint.failed"
    )
    assert made.seq > max(fired.get("span", [0, fired["seq"]])[1], fired["seq"])
    assert manager.workflows.trigger_failures == 0


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("step.complete", "step.completed"),
        ("step.finished", "step.failed"),
        ("approval.voted", "approval.rejected"),
        ("signal.consumed", "signal.received"),
        ("process.sigkill", "process.sigint"),
        ("checkpoint.saved", "step.completed"),
        ("checkpoint.failed", "step.failed"),
    ],
)
def test_an_unknown_event_is_refused_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"did you mean {meant}"):
        CheckpointTrigger(on=["step.completed", name])


@pytest.mark.parametrize(
    "name",
    [
        *("*", "checkpoint.*", "checkpoint.created", "checkpoint.restored"),
        *("checkpoints.cleaned", "lease.acquired", "lease.*", "job.completed"),
        *("job.compacted", "job.erased", "trigger.failed"),
    ],
)
def test_what_a_trigger_could_bring_about_cannot_fire_it(name: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="cannot fire") as caught:
        CheckpointTrigger(on=[name])
    assert "process.sigterm" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"on": []}, "on must name an event"),
        ({"on": "step.completed"}, "on must be a list of strings"),
        ({"keep_last": 0}, "keep_last must be at least 1, got 0"),
        ({"keep_last": True}, "keep_last must be a whole number"),
        ({"state": {"n": 1}}, "state must be a function"),
        ({"name": ""}, "name"),
    ],
)
def test_a_wrong_trigger_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=says):
        CheckpointTrigger(**{"on": ["step.completed"]} | wrong)


def test_only_a_trigger_can_be_added(manager: CheckpointManager) -> None:
    with pytest.raises(errors.InvalidArgument, match="a CheckpointTrigger"):
        manager.add_trigger(["step.completed"])  # type: ignore[arg-type] # on purpose


def test_a_trigger_of_the_same_name_is_replaced(
    manager: CheckpointManager, run: str
) -> None:
    for on in ("step.failed", "step.completed", "step.completed"):
        manager.add_trigger(CheckpointTrigger(on=[on], name="mine"))
    step(manager, run, "s", {})
    assert [info.step_name for info in automatic(manager)] == ["mine"]


# -- what is saved ---------------------------------------------------------------------


def test_a_snapshot_says_what_the_execution_has_done(
    manager: CheckpointManager, run: str
) -> None:
    manager.add_trigger(CheckpointTrigger(on=["step.failed", "signal.received"]))
    step(manager, run, "one", {"n": 1})
    step(manager, run, "two", {"n": 2})
    step(manager, run, "one", {"n": 3})
    fail_step(manager, run)
    [made] = automatic(manager)
    assert manager.get(JOB, made).state == {
        "execution_id": run,
        "workflow_name": "ingest",
        "data": {"url": "x"},
        "outputs": {"one": {"n": 3}, "two": {"n": 2}},
    }


def test_a_purged_output_is_none_in_a_snapshot(
    manager: CheckpointManager, run: str
) -> None:
    step(manager, run, "one", {"n": 1})
    step(manager, run, "two", {"n": 2})
    manager.delete(JOB, manager.list(JOB)[0], purge=True)
    manager.compact(JOB)
    manager.add_trigger(CheckpointTrigger(on=["signal.received"]))
    manager.signal(run, "go")
    state = manager.get(JOB, automatic(manager)[0]).state
    assert state["outputs"] == {"one": None, "two": {"n": 2}}


def test_a_snapshot_hides_no_checkpoint_of_the_job(
    manager: CheckpointManager, run: str
) -> None:
    on = ["execution.started", "step.completed", "execution.completed"]
    manager.add_trigger(CheckpointTrigger(on=on, keep_last=1))
    manager.signal(run, "go")
    manager.start_workflow_execution(JOB, "second")
    assert manager.load(JOB, default=None) is None  # although there is a snapshot
    step(manager, run, "one", {"n": 1})
    assert manager.load(JOB) == {"n": 1}
    own = manager.current(JOB)
    manager.complete(JOB)
    manager.complete_execution(run)
    job = manager.job(JOB)
    assert job is not None
    assert job.completed_at is not None  # a snapshot does not reopen it
    saved = manager.save(JOB, "mine", {"n": 2})
    assert own is not None
    assert manager.find(saved).parent_id == own.checkpoint_id
    manager.delete(JOB, saved)
    manager.delete(JOB, own, force=True)
    assert manager.load(JOB, default=None) is None
    [snapshot] = automatic(manager)
    manager.delete(JOB, snapshot)
    manager.undelete(JOB, snapshot)
    assert "current" not in manager.history(JOB)[-1]["data"]
    assert manager.current(JOB) is None
    manager.restore(JOB, snapshot)
    assert manager.current(JOB) == snapshot


def test_the_fold_on_disk_has_the_same_current_checkpoint(  # I2
    manager: CheckpointManager, run: str, tmp_path: Path
) -> None:
    manager.add_trigger(CheckpointTrigger(on=["step.completed"], keep_last=1))
    for n in range(3):
        step(manager, run, "s", {"n": n})
        with CheckpointManager(tmp_path) as other:
            assert other.current(JOB) == manager.current(JOB)
            assert other.list(JOB) == manager.list(JOB)
            assert other.load(JOB) == {"n": n}


def test_a_state_of_the_process_that_runs_it_becomes_current(
    manager: CheckpointManager, run: str
) -> None:
    given: list[TriggerEvent] = []

    def state(event: TriggerEvent) -> dict[str, Any]:
        given.append(event)
        return {"position": len(given)}

    on = ["approval.requested", "approval.approved", "step.completed"]
    manager.add_trigger(CheckpointTrigger(on=on, state=state, keep_last=1))
    step(manager, run, "one", {"n": 1})
    assert manager.load(JOB) == {"position": 1}
    decide(manager, run, "approve")
    assert [(e.name, e.attempt) for e in given] == [
        ("step.completed", 1),
        ("approval.requested", 1),  # the lease is given back by the same write
        ("approval.approved", None),
    ]
    assert {(e.job_id, e.execution_id) for e in given} == {(JOB, run)}
    assert manager.load(JOB) == {"position": 2}  # the third one is aside
    kept = [manager.get(JOB, info).state for info in automatic(manager)]
    assert kept == [{"position": 2}, {"position": 3}]  # I6


def test_a_state_of_a_stale_attempt_does_not_become_current(  # I8
    manager: CheckpointManager, run: str
) -> None:
    def state(_: TriggerEvent) -> dict[str, Any]:
        manager.pause_execution(run)
        manager.resume_execution(run)
        manager.acquire_lease(run)
        return {"stale": True}

    manager.add_trigger(CheckpointTrigger(on=["step.completed"], state=state))
    step(manager, run, "one", {"n": 1})
    assert manager.load(JOB) == {"n": 1}
    failed = manager.history(JOB)[-1]
    assert failed["type"] == "trigger.failed"
    assert "LeaseLost: attempt 1" in failed["data"]["error"]


def test_a_state_is_aside_in_a_process_that_holds_a_lease_on_behalf_of_another(
    manager: CheckpointManager,
) -> None:
    on = ["step.completed", "process.sigterm"]
    manager.add_trigger(CheckpointTrigger(on=on, state=lambda _: {"server": True}))
    run = manager.start_workflow_execution(JOB, "w", pending=True).execution_id
    lease = manager.acquire_lease(run, auto_renew=False)
    mine = {"attempt": lease.attempt}
    with manager.graceful():
        manager.create_checkpoint(run, "one", "agent", {}, **mine)
        assert manager.complete_checkpoint(run, "one", {"n": 1}, **mine)
        os.kill(os.getpid(), signal.SIGTERM)
    assert [i.metadata["event"] for i in automatic(manager)] == ["step.completed"]
    assert manager.load(JOB) == {"n": 1}


def test_nothing_fires_inside_a_trigger(manager: CheckpointManager, run: str) -> None:
    def state(_: TriggerEvent) -> dict[str, Any]:
        return {"seq": manager.signal(run, "again")}

    manager.add_trigger(CheckpointTrigger(on=["signal.received"], state=state))
    for _ in range(2):
        manager.signal(run, "go")
    assert len(automatic(manager)) == 2
    assert manager.workflows.trigger_failures == 0


# -- keep_last -------------------------------------------------------------------------


def test_the_last_checkpoints_of_a_trigger_stay(
    manager: CheckpointManager, run: str
) -> None:
    manager.save(JOB, "signal.received", {}, tags=["auto"], workflow_name="ingest")
    manager.add_trigger(CheckpointTrigger(on=["signal.received"], keep_last=3))
    manager.add_trigger(CheckpointTrigger(on=["step.completed"], keep_last=1))
    for n in range(6):
        manager.signal(run, "go", {"n": n})
        step(manager, run, "s", {"n": n})
    seqs = [i.seq for i in automatic(manager) if "seq" in i.metadata]
    names = [i.step_name for i in automatic(manager) if "seq" in i.metadata]
    assert names == [*("signal.received",) * 3, "step.completed"]
    assert len(manager.list(JOB)) == 1 + 4 + 6  # the saved one, and the outputs
    cleaned = [e for e in manager.history(JOB) if e["type"] == "checkpoints.cleaned"]
    assert len(cleaned) == 3 + 5
    [reason] = {r for e in cleaned[:1] for r in e["data"]["removed"].values()}
    assert reason == "trigger step.completed keeps its last 1"
    assert cleaned[-1]["data"]["kept"] == 4 + 7
    assert cleaned[-1]["span"][1] == cleaned[-1]["seq"] > max(seqs)  # one write


def test_a_protected_checkpoint_of_a_trigger_stays(
    manager: CheckpointManager, run: str
) -> None:
    state = {"n": 0}
    trigger = CheckpointTrigger(
        on=["signal.received"], state=lambda _: dict(state), keep_last=1
    )
    manager.add_trigger(trigger)
    for n in range(5):
        state["n"] = n
        manager.signal(run, "go")
        made = automatic(manager)[-1]
        if n == 0:
            manager.pin(JOB, made)
        if n == 1:
            manager.hold(JOB, made)
    kept = [manager.get(JOB, info).state["n"] for info in automatic(manager)]
    assert kept == [0, 1, 4]
    assert manager.load(JOB) == {"n": 4}
    removed = [e["data"] for e in manager.history(JOB, types=["checkpoints.cleaned"])]
    assert not any("current" in data for data in removed)


def test_a_restored_checkpoint_of_a_trigger_stays_as_long_as_it_is_current(
    manager: CheckpointManager, run: str
) -> None:
    manager.add_trigger(CheckpointTrigger(on=["signal.received"], keep_last=1))
    manager.signal(run, "go")
    [first] = automatic(manager)
    manager.restore(JOB, first)
    manager.signal(run, "go")
    manager.signal(run, "go")
    assert manager.current(JOB) == first
    assert len(automatic(manager)) == 2
    manager.save(JOB, "own", {})
    manager.signal(run, "go")
    assert len(automatic(manager)) == 1


# -- failures --------------------------------------------------------------------------


class Ill(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raising(exc: Exception) -> Callable[[TriggerEvent], dict[str, Any]]:
    def state(_: TriggerEvent) -> dict[str, Any]:
        raise exc

    return state


STATES: dict[str, tuple[Any, str]] = {
    "an error": (
        raising(ValueError("no memory\udcff")),
        "ValueError: no memory\\udcff",
    ),
    "without a text": (raising(Ill()), "Ill"),
    "a long one": (raising(ValueError("x" * 10_000)), "ValueError: xxx"),
    "not JSON": (lambda _: {"a": {1}}, "InvalidState: $.a"),
    "nothing": (lambda _: None, "InvalidState"),
    "too large": (lambda _: {"a": "x" * 2000}, "StateTooLarge"),
}


@pytest.mark.parametrize("what", STATES)
def test_a_failure_is_an_event_and_fails_no_call(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    state, text = STATES[what]
    with CheckpointManager(tmp_path, max_state_bytes=1000) as manager:
        run = manager.start_workflow_execution(JOB, "ingest").execution_id
        manager.add_trigger(CheckpointTrigger(on=["step.completed"], state=state))
        step(manager, run, "one", {"n": 1})
        assert manager.workflows.trigger_failures == 1
        assert automatic(manager) == []
        saved, failed = manager.history(JOB)[-2:]
        assert failed["type"] == "trigger.failed"
        assert failed["data"] | {"error": ""} == {
            "execution_id": run,
            "trigger": "step.completed",
            "event": "step.completed",
            "cause": saved["seq"],
            "error": "",
        }
        assert text in failed["data"]["error"]
        assert len(failed["data"]["error"]) <= 1000
        assert manager.verify(JOB)[0].ok
    assert "failed after step.completed" in caplog.text


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_full_disk_fails_no_call_that_fired_a_trigger(
    tmp_path: Path, is_recorded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FaultyDisk(tmp_path)
    with CheckpointManager(storage=FileStorage(tmp_path, disk=disk)) as manager:
        run = manager.start_workflow_execution(JOB, "ingest").execution_id
        manager.add_trigger(CheckpointTrigger(on=["signal.received"]))
        disk.fail("append", 2, on="journals")
        if not is_recorded:
            disk.fail("append", 2, on="journals")  # counts only what the first leaves
        assert manager.signal(run, "go") > 0
        assert manager.workflows.trigger_failures == 1
        types = [event["type"] for event in manager.history(JOB)]
        assert ("trigger.failed" in types) == is_recorded
        assert ("could not be recorded" in caplog.text) != is_recorded
        assert manager.signal(run, "go") > 0  # the disk is fine again
        assert len(automatic(manager)) == 1


OPERATIONS = ("", "lock", "append", "sync", "pwrite", "unlock")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interrupt_inside_a_trigger_leaves_no_lock_and_no_half_state(
    tmp_path: Path, operation: str
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    disk = FaultyDisk(tmp_path)
    is_armed = True

    def state(_: TriggerEvent) -> dict[str, Any]:
        if is_armed:
            disk.set(Fault(operation, action=interrupt))
        return {"n": 1}

    with CheckpointManager(storage=FileStorage(tmp_path, disk=disk)) as manager:
        run = manager.start_workflow_execution(JOB, "ingest").execution_id
        manager.create_checkpoint(run, "one", "agent", {})
        manager.add_trigger(CheckpointTrigger(on=["step.completed"], state=state))
        with pytest.raises(KeyboardInterrupt):
            manager.complete_checkpoint(run, "one", {"n": 1})
        is_armed = False
        status = manager.get_execution_status(run)
        assert status is not None
        assert (status["completed_checkpoints"], status["status"]) == (1, "running")
        step(manager, run, "two", {"n": 2})
        assert len(automatic(manager)) in (1, 2)
        assert "trigger.failed" not in {e["type"] for e in manager.history(JOB)}
        assert manager.verify(JOB, deep=True)[0].ok


# -- signals ---------------------------------------------------------------------------

PROGRAM = """
import sys
from milepost import CheckpointManager, CheckpointTrigger

manager = CheckpointManager(sys.argv[1], actor="job", durability="never")
manager.add_trigger(CheckpointTrigger(on=["process.sigterm", "process.sigint"]))
manager.add_trigger(
    CheckpointTrigger(on=["process.sigterm"], state=lambda _: {"step": 7}, name="own")
)
run = manager.start_workflow_execution("job", "ingest", {"url": "x"}).execution_id
done = manager.start_workflow_execution("done", "ingest").execution_id
manager.complete_execution(done)
gated = manager.start_workflow_execution("gated", "ingest").execution_id
manager.create_checkpoint(gated, "gate", "a", {}, True)
paused = manager.start_workflow_execution("paused", "ingest").execution_id
with manager.graceful() as stop:
    manager.create_checkpoint(run, "one", "a", {})
    print("ready", flush=True)
    sys.stdin.readline()  # until the other executions are changed
    while not stop.wait(0.01):
        pass
    manager.complete_checkpoint(run, "one", {"n": 1})
raise SystemExit(stop.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_process_saves_the_executions_that_it_runs(
    manager: CheckpointManager, tmp_path: Path, number: signal.Signals
) -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with job:
        assert job.stdin is not None
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        assert manager.pause_execution("exec_paused")  # the process does not know it
        job.stdin.write("\n")
        job.stdin.flush()
        job.send_signal(number)
        assert job.wait(DEADLINE_SECONDS) == 128 + number
    made = automatic(manager)
    name = f"process.{number.name.lower()}"
    assert {info.metadata["event"] for info in made} == {name}
    assert {info.metadata["seq"] for info in made} == {None}
    snapshot = manager.get(JOB, made[0]).state
    assert snapshot["outputs"] == {"one": {"n": 1}}
    is_term = number == signal.SIGTERM
    assert [info.step_name for info in made[1:]] == ["own"] * is_term
    assert manager.load(JOB) == ({"step": 7} if is_term else {"n": 1})
    assert not any(automatic(manager, job) for job in ("done", "gated", "paused"))


def test_a_block_without_a_signal_saves_nothing(
    manager: CheckpointManager, run: str
) -> None:
    manager.add_trigger(CheckpointTrigger(on=["process.sigterm", "process.sigint"]))
    with manager.graceful():
        manager.signal(run, "go")
    assert automatic(manager) == []


def test_what_a_signal_saves_is_durable_when_the_block_ends(  # I1
    tmp_path: Path,
) -> None:
    disk = FaultyDisk(tmp_path)
    storage = FileStorage(tmp_path, disk=disk, durability="never")
    with CheckpointManager(storage=storage) as manager:
        manager.start_workflow_execution(JOB, "ingest")
        manager.add_trigger(CheckpointTrigger(on=["process.sigterm"]))
        with manager.graceful():
            os.kill(os.getpid(), signal.SIGTERM)
            disk.calls.clear()
        steps = [call.operation for call in disk.calls if "journals" in call.path]
        assert "sync" in steps[steps.index("append") :]
        assert len(automatic(manager)) == 1


def test_an_interrupt_at_the_end_of_a_block_still_syncs(tmp_path: Path) -> None:
    def interrupt(_: TriggerEvent) -> dict[str, Any]:
        raise KeyboardInterrupt

    disk = FaultyDisk(tmp_path)
    storage = FileStorage(tmp_path, disk=disk, durability="never")
    with CheckpointManager(storage=storage) as manager:
        manager.start_workflow_execution(JOB, "ingest")
        manager.add_trigger(CheckpointTrigger(on=["process.sigterm"], state=interrupt))
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), manager.graceful():  # noqa: PT012
            for n in range(2):  # the file of a new job is synced in any mode
                manager.save("etl", "last", {"n": n})
            disk.calls.clear()
            os.kill(os.getpid(), signal.SIGTERM)
        assert "sync" in {call.operation for call in disk.calls}
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_damaged_job_does_not_hinder_the_others_at_the_end(  # I10
    manager: CheckpointManager, run: str, tmp_path: Path
) -> None:
    manager.start_workflow_execution("damaged", "ingest")
    manager.add_trigger(CheckpointTrigger(on=["process.sigterm"]))
    with manager.graceful():
        journal = tmp_path / "journals" / "damaged.jsonl"
        other = tmp_path / "other"
        other.write_bytes(journal.read_bytes().replace(b"ingest", b"INGEST"))
        other.replace(journal)
        os.kill(os.getpid(), signal.SIGTERM)
    assert [info.metadata["execution_id"] for info in automatic(manager)] == [run]
    assert manager.workflows.trigger_failures == 1
