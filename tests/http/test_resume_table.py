"""Restoring a checkpoint of an execution: each situation, with and without resume."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from milepost.journal.execution_models import LeaseInfo
from tests.support.client import Executor, client_of, events_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.client import TestClient
    from tests.support.clock import Clock

JOB = "etl"
RESTORED = "checkpoint.restored"


class Made(NamedTuple):
    """An execution with two completed steps, and their checkpoints."""

    execution_id: str
    first: str
    last: str


def stepped(manager: CheckpointManager) -> Made:
    """Start an execution that this process runs, and complete two steps."""
    run = manager.start_workflow_execution(JOB, "ingest", {"url": "x"})
    for name in ("load", "clean"):
        manager.create_checkpoint(run.execution_id, name, "a", {})
        assert manager.complete_checkpoint(run.execution_id, name, {"step": name})
    first, last = (info.checkpoint_id for info in manager.list(JOB)[-2:])
    return Made(run.execution_id, first, last)


def running(manager: CheckpointManager) -> Made:
    return stepped(manager)


def interrupted(manager: CheckpointManager) -> Made:
    made = stepped(manager)
    manager.release_lease(LeaseInfo(made.execution_id, 1, 30))
    return made


def pending(manager: CheckpointManager) -> Made:
    made = interrupted(manager)
    assert manager.resume_execution(made.execution_id)
    return made


def paused(manager: CheckpointManager) -> Made:
    made = stepped(manager)
    assert manager.pause_execution(made.execution_id)
    return made


def gated(manager: CheckpointManager) -> Made:
    made = stepped(manager)
    manager.create_checkpoint(made.execution_id, "publish", "a", {}, True)
    return made


def denied(manager: CheckpointManager) -> Made:
    made = gated(manager)
    assert manager.approve_checkpoint(made.execution_id, "publish", False)
    return made


def failed(manager: CheckpointManager) -> Made:
    made = stepped(manager)
    manager.fail_execution(made.execution_id, "no disk")
    return made


def cancelled(manager: CheckpointManager) -> Made:
    made = stepped(manager)
    manager.cancel_execution(made.execution_id)
    return made


def completed(manager: CheckpointManager) -> Made:
    made = stepped(manager)
    manager.complete_execution(made.execution_id)
    return made


def restore(client: TestClient, checkpoint_id: str, **body: Any) -> Any:
    return client.post(f"/api/checkpoints/{checkpoint_id}/restore", json=body)


SITUATIONS: list[Callable[[CheckpointManager], Made]] = [
    running,
    interrupted,
    pending,
    paused,
    gated,
    denied,
    failed,
    cancelled,
    completed,
]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_without_resume_a_checkpoint_becomes_current_and_nothing_runs(
    client: TestClient, manager: CheckpointManager, executor: Executor, situation: Any
) -> None:
    made = situation(manager)
    before = events_of(manager)
    answer = restore(client, made.first).json()
    assert (answer["job_status"], answer["mode"]) == ("restored", "restored")
    assert (answer["execution_id"], answer["state"]) == (
        made.execution_id,
        {"step": "load"},
    )
    assert answer["message"] == f"checkpoint {made.first} is now current in job 'etl'"
    assert events_of(manager) == [*before, RESTORED]
    assert executor.resumed == []


def test_without_an_executor_a_checkpoint_is_restored_and_the_message_says_so(
    manager: CheckpointManager,
) -> None:
    made = interrupted(manager)
    before = events_of(manager)
    answer = restore(client_of(create_app(manager)), made.last, resume=True).json()
    assert (answer["job_status"], answer["mode"]) == ("restored", "restored")
    assert "no executor is configured" in answer["message"]
    assert events_of(manager) == [*before, RESTORED]


def test_a_checkpoint_of_no_execution_resumes_its_job(
    client: TestClient, manager: CheckpointManager, executor: Executor
) -> None:
    interrupted(manager)
    plain = manager.save(JOB, "more", {"n": 1})
    before = events_of(manager)
    answer = restore(client, plain, resume=True).json()
    assert answer["job_status"] == "resumed"
    assert {"mode", "execution_id"} & {*answer} == set()  # as it always was
    assert events_of(manager) == [*before, RESTORED]
    assert executor.resumed == [(JOB, plain)]


@pytest.mark.parametrize("situation", [interrupted, failed, cancelled])
def test_from_its_latest_checkpoint_the_same_execution_goes_on(
    client: TestClient, manager: CheckpointManager, executor: Executor, situation: Any
) -> None:
    made = situation(manager)
    before = events_of(manager)
    answer = restore(client, made.last, resume=True).json()
    assert (answer["job_status"], answer["mode"]) == ("resumed", "resumed")
    assert answer["execution_id"] == made.execution_id
    assert events_of(manager) == [*before, RESTORED, "execution.resumed"]
    resumed = manager.history(JOB)[-1]
    assert resumed["span"] == [resumed["seq"] - 1, resumed["seq"]]
    assert executor.resumed == [(JOB, made.last)]
    assert manager.acquire_lease(made.execution_id).attempt == 2


def test_the_job_that_is_started_finds_the_execution_that_goes_on(
    client: TestClient, manager: CheckpointManager
) -> None:
    made = interrupted(manager)
    paused(manager)  # a later one of the same job
    answer = restore(client, made.last, resume=True).json()
    assert answer["mode"] == "branched"
    alias = manager.get_execution_status(f"exec_{JOB}")
    assert alias is not None
    assert alias["execution_id"] == answer["execution_id"]


def test_a_pending_execution_only_gets_its_executor(
    client: TestClient, manager: CheckpointManager, executor: Executor
) -> None:
    made = pending(manager)
    before = events_of(manager)
    answer = restore(client, made.last, resume=True).json()
    assert (answer["job_status"], answer["mode"]) == ("resumed", "resumed")
    assert answer["execution_id"] == made.execution_id
    assert events_of(manager) == [*before, RESTORED]
    assert executor.resumed == [(JOB, made.last)]


@pytest.mark.parametrize(
    ("situation", "why"),
    [
        (gated, "waits for approval appr_"),
        (paused, "is paused"),
        (denied, "is paused"),
        (running, "runs in this process"),
    ],
)
@pytest.mark.parametrize("which", ["first", "last"])
def test_what_waits_or_runs_here_is_restored_and_not_started_again(
    client: TestClient,
    manager: CheckpointManager,
    executor: Executor,
    situation: Any,
    why: str,
    which: str,
) -> None:
    made = situation(manager)
    before = events_of(manager)
    answer = restore(client, getattr(made, which), resume=True).json()
    assert (answer["job_status"], answer["mode"]) == ("restored", "restored")
    assert f"not resumed: execution {made.execution_id} {why}" in answer["message"]
    assert events_of(manager) == [*before, RESTORED]
    assert executor.resumed == []


@pytest.mark.parametrize(
    ("situation", "which"),
    [
        (completed, "last"),
        (completed, "first"),
        (interrupted, "first"),
        (pending, "first"),
        (failed, "first"),
        (cancelled, "first"),
    ],
)
def test_from_an_older_checkpoint_or_a_completed_one_a_new_execution_branches(
    client: TestClient,
    manager: CheckpointManager,
    executor: Executor,
    situation: Any,
    which: str,
) -> None:
    made = situation(manager)
    before, checkpoint_id = events_of(manager), getattr(made, which)
    status = manager.get_execution_status(made.execution_id)
    answer = restore(client, checkpoint_id, resume=True).json()
    assert (answer["job_status"], answer["mode"]) == ("resumed", "branched")
    assert events_of(manager) == [*before, RESTORED, "execution.started"]
    branch = manager.get_execution_status(answer["execution_id"])
    assert branch is not None
    assert (branch["status"], branch["workflow_name"]) == ("pending", "ingest")
    assert branch["branched_from"] == {
        "checkpoint_id": checkpoint_id,
        "execution_id": made.execution_id,
    }
    assert manager.get_execution_status(made.execution_id) == status
    assert executor.resumed == [(JOB, checkpoint_id)]
    # The executor's job finds the branch, with the data of the first execution.
    alias = manager.get_execution_status(f"exec_{JOB}")
    assert alias == branch


def test_after_an_executor_that_fails_the_execution_waits_for_the_next_worker(
    manager: CheckpointManager,
) -> None:
    class Failing:
        def resume_job(self, _job_id: str) -> None:
            raise ConnectionError("queue is down")

    made = interrupted(manager)
    answer = restore(
        client_of(create_app(manager, Failing())), made.last, resume=True
    ).json()
    assert (answer["job_status"], answer["mode"]) == ("restored", "resumed")
    assert "queue is down" in answer["message"]
    status = manager.get_execution_status(made.execution_id)
    assert status is not None
    assert status["status"] == "pending"


# -- other processes -------------------------------------------------------------------


@pytest.fixture
def elsewhere(root: Path) -> Iterator[tuple[int, Made]]:
    """An execution that another process runs."""
    ready, told = os.pipe()
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            other = CheckpointManager(root)
            made = stepped(other)
            other.create_checkpoint(made.execution_id, "open", "a", {})
            os.write(told, "\n".join(made).encode())
            signal.pause()
        os._exit(1)
    os.close(told)
    yield child, Made(*os.read(ready, 4096).decode().split("\n"))
    os.close(ready)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("resume", [False, True])
def test_while_another_process_runs_the_job_nothing_is_restored(
    client: TestClient,
    manager: CheckpointManager,
    executor: Executor,
    elsewhere: tuple[int, Made],
    resume: bool,
) -> None:
    child, made = elsewhere
    before = events_of(manager)
    for checkpoint_id in (made.first, made.last):
        answer = restore(client, checkpoint_id, resume=resume)
        assert (answer.status_code, answer.json()["code"]) == (409, "lease_live")
        details = answer.json()["details"]
        assert f"process {child} on " in details["owner"]
        assert details["deadline"].startswith("20")
    assert (events_of(manager), executor.resumed) == (before, [])
    shown = client.get(f"/api/checkpoints/{made.first}").json()
    assert shown["state_snapshot"] == {"step": "load"}


@pytest.mark.parametrize("resume", [False, True])
def test_an_attempt_whose_process_died_is_recorded_as_over_first(
    client: TestClient,
    manager: CheckpointManager,
    executor: Executor,
    elsewhere: tuple[int, Made],
    resume: bool,
) -> None:
    child, made = elsewhere
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = events_of(manager)
    answer = restore(client, made.last, resume=resume).json()
    assert answer["mode"] == ("resumed" if resume else "restored")
    assert events_of(manager) == [
        *before,
        "lease.expired",
        "checkpoint.abandoned",
        "execution.interrupted",
        RESTORED,
        *(["execution.resumed"] if resume else []),
    ]
    status = manager.get_execution_status(made.execution_id)
    assert status is not None
    assert status["status"] == ("pending" if resume else "interrupted")
    assert len(executor.resumed) == resume


def test_an_execution_whose_process_died_is_resumed_if_its_etag_is_the_one_shown(
    client: TestClient, manager: CheckpointManager, elsewhere: tuple[int, Made]
) -> None:
    child, made = elsewhere
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    target, before = f"/api/executions/{made.execution_id}", events_of(manager)
    shown = client.get(target)
    assert shown.json()["status"] == "interrupted"
    tag = {"If-Match": shown.headers["etag"]}
    resumed = client.post(f"{target}/resume", headers=tag)
    assert (resumed.status_code, resumed.json()["status"]) == (200, "pending")
    assert events_of(manager)[len(before) :] == [
        "lease.expired",
        "checkpoint.abandoned",
        "execution.interrupted",
        "execution.resumed",
    ]


def test_an_attempt_of_a_caller_over_http_is_another_process(
    client: TestClient, manager: CheckpointManager, executor: Executor
) -> None:
    made = interrupted(manager)
    lease = client.post(f"/api/executions/{made.execution_id}/lease")
    assert lease.status_code == 200
    answer = restore(client, made.last, resume=True)
    assert (answer.status_code, answer.json()["code"]) == (409, "lease_live")
    body = {"correlation_id": JOB, "workflow_name": "again"}
    second = client.post("/api/executions", json=body)
    assert (second.status_code, second.json()["code"]) == (409, "lease_live")
    with pytest.raises(ValueError, match="is run by api, process"):
        manager.create_checkpoint(made.execution_id, "more", "a", {})
    assert executor.resumed == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_state_that_cannot_be_read_is_400_and_nothing_is_restored(
    root: Path, clock: Clock, resume: bool
) -> None:
    with CheckpointManager(root, clock=clock, codec="json") as manager:
        made = interrupted(manager)
    journal = root / "journals" / f"{JOB}.jsonl"
    text = journal.read_bytes()
    journal.write_bytes(text.replace(b'{"step":"clean"}', b'{"step":"cleaN"}'))
    with CheckpointManager(root, clock=clock) as manager:
        executor, before = Executor(manager), events_of(manager)
        client = client_of(create_app(manager, executor))
        answer = restore(client, made.last, resume=resume)
        assert (answer.status_code, answer.json()["code"]) == (400, "unreadable")
        assert (events_of(manager), executor.resumed) == (before, [])


@pytest.mark.parametrize("resume", [False, True])
def test_a_deleted_checkpoint_is_404_and_nothing_is_restored(
    client: TestClient, manager: CheckpointManager, executor: Executor, resume: bool
) -> None:
    made = interrupted(manager)
    manager.delete(JOB, made.first)
    before = events_of(manager)
    for checkpoint_id in (made.first, "load_1_00000000"):
        answer = restore(client, checkpoint_id, resume=resume)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (events_of(manager), executor.resumed) == (before, [])


# -- repeats ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "which"),
    [
        (interrupted, "last"),
        (interrupted, "first"),
        (pending, "last"),
        (gated, "last"),
        (running, "last"),
        (completed, "first"),
    ],
)
def test_a_repeat_is_answered_from_its_events_and_starts_nothing(
    client: TestClient,
    manager: CheckpointManager,
    executor: Executor,
    situation: Any,
    which: str,
) -> None:
    made = situation(manager)
    target = f"/api/checkpoints/{getattr(made, which)}/restore"
    key, body = {"Idempotency-Key": "k1"}, {"resume": True}
    first = client.post(target, json=body, headers=key)
    assert first.status_code == 200
    manager.save(JOB, "later", {})
    before, started = events_of(manager), [*executor.resumed]
    again = client.post(target, json=body, headers=key)
    assert (again.content, again.headers["etag"]) == (
        first.content,
        first.headers["etag"],
    )
    assert (events_of(manager), executor.resumed) == (before, started)
