"""One live attempt per execution: leases of real processes, fencing, killing (I8)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from milepost import CheckpointManager, errors
from tests.support.eventually import DEADLINE_SECONDS, eventually
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Starts or continues an execution, then does what it is told, a line at a time.
CODE = """
import sys
from milepost import CheckpointManager, LeaseInfo, errors
manager = CheckpointManager(sys.argv[1], actor="other")
for line in sys.stdin:
    try:
        print("done", eval(line), flush=True)
    except Exception as exc:
        print(type(exc).__name__, exc, flush=True)
"""


class Other(NamedTuple):
    """Another process on the same store."""

    process: subprocess.Popen[str]

    def ask(self, expression: str) -> str:
        """Return its answer to a Python expression about `manager`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def start(self) -> str:
        """Start an execution there; return its id."""
        asked = f"manager.start_workflow_execution({JOB!r}, 'ingest').execution_id"
        return self.ask(asked).removeprefix("done ")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Other(process)
        process.kill()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    with CheckpointManager(tmp_path, actor="me") as opened:
        yield opened


def status(manager: CheckpointManager, run: str) -> dict[str, Any]:
    found = manager.get_execution_status(run)
    assert found is not None
    return found


def test_a_second_process_is_refused_with_owner_and_deadline(
    manager: CheckpointManager, other: Other
) -> None:
    run = other.start()
    calls = (
        lambda: manager.start_workflow_execution(JOB, "ingest"),
        lambda: manager.create_checkpoint(run, "s", "a", {}),
        lambda: manager.complete_execution(run),
        lambda: manager.acquire_lease(run),
        lambda: manager.request_approval(run, {}),
    )
    before = manager.history(JOB)
    for call in calls:
        with pytest.raises(errors.LeaseLive) as caught:
            call()
        assert caught.value.owner == f"other, process {other.process.pid} on " + (
            os.uname().nodename
        )
        assert caught.value.deadline is not None
    assert manager.history(JOB) == before
    lease = status(manager, run)["lease"]
    assert (lease["pid"], lease["is_live"]) == (other.process.pid, True)


def test_a_process_that_takes_leases_all_the_time_renews_the_earlier_ones(
    manager: CheckpointManager,
) -> None:
    def begin() -> str:
        run = manager.start_workflow_execution(JOB, "ingest", pending=True)
        manager.acquire_lease(run.execution_id, ttl=3)
        return run.execution_id

    run = begin()
    first = status(manager, run)["lease"]["deadline"]

    def has_moved_on() -> bool:
        begin()
        return bool(status(manager, run)["lease"]["deadline"] != first)

    eventually(has_moved_on)
    assert status(manager, run)["lease"]["is_live"]


def test_what_needs_no_lease_works_from_another_process(
    manager: CheckpointManager, other: Other
) -> None:
    run = other.start()
    assert manager.signal(run, "go", {"n": 1}) > 0
    assert manager.pause_execution(run)
    assert other.ask(f"manager.create_checkpoint({run!r}, 's', 'a', {{}})").startswith(
        "ExecutionPaused"
    )
    assert manager.resume_execution(run)
    # The process still has its lease, and goes on as the next attempt.
    assert other.ask(f"manager.create_checkpoint({run!r}, 's', 'a', {{}}).state.value")
    assert status(manager, run)["attempt"] == 2
    assert manager.cancel_execution(run)
    # Its step was abandoned, and there is no next one.
    assert other.ask(f"manager.complete_checkpoint({run!r}, 's', {{}})") == "done False"
    assert other.ask(f"manager.create_checkpoint({run!r}, 's', 'a', {{}})").startswith(
        "ExecutionFinal"
    )


def test_the_death_of_a_process_is_known_at_once(
    manager: CheckpointManager, other: Other
) -> None:
    run = other.start()
    other.ask(f"manager.create_checkpoint({run!r}, 'load', 'a', {{}})")
    other.kill()
    found = status(manager, run)
    assert (found["state"], found["status"]) == ("paused", "interrupted")
    assert found["lease"]["is_live"] is False
    assert manager.list_executions("paused") == [found]
    assert manager.list_executions("running") == []
    # The next process goes on: the open step may have run, so it is abandoned.
    manager.create_checkpoint(run, "load", "a", {})
    found = status(manager, run)
    assert (found["status"], found["attempt"]) == ("running", 2)
    states = [step["status"] for step in manager.get_checkpoint_history(run)]
    assert states == ["abandoned", "open"]


def test_a_dead_execution_is_resumed_before_anybody_recorded_its_death(
    manager: CheckpointManager, other: Other
) -> None:
    run = other.start()
    assert not manager.resume_execution(run)
    other.kill()
    assert manager.resume_execution(run)
    assert not manager.resume_execution(run)
    types = [event["type"] for event in manager.history(JOB)][-3:]
    assert types == ["lease.expired", "execution.interrupted", "execution.resumed"]
    assert manager.acquire_lease(run).attempt == 2


def test_a_stopped_process_loses_its_lease_and_cannot_write(
    manager: CheckpointManager, other: Other
) -> None:
    """It can compute when it goes on, but not write (I3, I8)."""
    manager.start_workflow_execution(JOB, "ingest", pending=True)
    run = manager.list_executions()[0]["execution_id"]
    assert other.ask(f"manager.acquire_lease({run!r}, ttl=1).attempt") == "done 1"
    other.ask(f"manager.create_checkpoint({run!r}, 'load', 'a', {{}})")
    other.process.send_signal(signal.SIGSTOP)
    eventually(lambda: not status(manager, run)["lease"]["is_live"])
    assert manager.acquire_lease(run).attempt == 2
    other.process.send_signal(signal.SIGCONT)
    before = manager.history(JOB)
    for call in (
        f"manager.complete_checkpoint({run!r}, 'load', {{}})",
        f"manager.create_checkpoint({run!r}, 'next', 'a', {{}})",
        f"manager.complete_execution({run!r})",
        f"manager.request_approval({run!r}, {{}})",
        f"manager.heartbeat(LeaseInfo({run!r}, 1, 1))",
        f"manager.release_lease(LeaseInfo({run!r}, 1, 1))",
    ):
        for _ in range(2):  # a lost attempt stays lost
            assert other.ask(call).startswith("LeaseLost attempt 1 of execution"), call
    assert manager.history(JOB) == before
    # It may begin again, if it says so and the lease is free.
    assert other.ask(f"manager.acquire_lease({run!r})").startswith("LeaseLive")
    manager.pause_execution(run)
    manager.resume_execution(run)
    assert other.ask(f"manager.acquire_lease({run!r}).attempt") == "done 3"


def test_a_lease_that_is_given_back_leaves_an_interrupted_execution(
    manager: CheckpointManager, other: Other
) -> None:
    manager.start_workflow_execution(JOB, "ingest", pending=True)
    (found,) = manager.list_executions()
    run = found["execution_id"]
    lease = manager.acquire_lease(run)
    manager.heartbeat(lease)
    manager.release_lease(lease)
    assert status(manager, run)["status"] == "interrupted"
    assert other.ask(f"manager.acquire_lease({run!r}).attempt") == "done 2"


def test_two_managers_of_a_process_share_its_attempt(
    manager: CheckpointManager, tmp_path: Path
) -> None:
    run = manager.start_workflow_execution(JOB, "ingest").execution_id
    with CheckpointManager(tmp_path) as second:
        second.create_checkpoint(run, "load", "a", {})
        assert status(second, run)["attempt"] == 1
    assert manager.complete_checkpoint(run, "load", {"rows": 1})


def test_closing_a_manager_gives_its_leases_up(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as first:
        run = first.start_workflow_execution(JOB, "ingest").execution_id
    assert not [*(tmp_path / "records").glob("exec_*")]
    with CheckpointManager(tmp_path) as second:
        assert status(second, run)["lease"]["is_live"] is False
        assert second.acquire_lease(run).attempt == 2


def test_a_forked_child_does_not_run_what_its_parent_runs(
    manager: CheckpointManager,
) -> None:
    run = manager.start_workflow_execution(JOB, "ingest").execution_id
    child = os.fork()
    if child == 0:
        try:
            manager.create_checkpoint(run, "s", "a", {})
        except errors.LeaseLive:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    manager.create_checkpoint(run, "s", "a", {})
    assert status(manager, run)["attempt"] == 1


def test_a_repeated_call_begins_no_attempt(
    manager: CheckpointManager, run: str
) -> None:
    manager.create_checkpoint(run, "load", "a", {}, idempotency_key="k1")
    manager.pause_execution(run)
    manager.resume_execution(run)
    before = manager.history(JOB)
    manager.create_checkpoint(run, "load", "a", {}, idempotency_key="k1")
    assert manager.history(JOB) == before
