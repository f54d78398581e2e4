"""Restoring over HTTP, and starting jobs again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from milepost.api import create_app
from milepost.worker.executors import JobStillRunning
from tests.support.client import AT, Executor, Slow, client_of, events_of, saved

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from tests.support.client import TestClient


def test_restoring_answers_exactly_these_fields_and_moves_current(
    client: TestClient, manager: CheckpointManager, executor: Executor
) -> None:
    first, _ = saved(manager, 2)
    answer = client.post(f"/api/checkpoints/{first}/restore", json={"resume": False})
    assert answer.status_code == 200
    assert answer.json() == {
        "checkpoint_id": first,
        "job_id": "etl",
        "state": {"i": 0},
        "job_status": "restored",
        "message": f"checkpoint {first} is now current in job 'etl'",
        "timestamp": AT,
    }
    current = manager.current("etl")
    assert current is not None
    assert current.checkpoint_id == first
    assert events_of(manager)[-1] == "checkpoint.restored"
    assert executor.resumed == []


@pytest.mark.parametrize("content", [b"", b"null", b"{}"])
def test_a_restore_needs_no_body(
    content: bytes, client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    kind = {"Content-Type": "application/json"} if content else {}
    answer = client.post(
        f"/api/checkpoints/{checkpoint_id}/restore", content=content, headers=kind
    )
    assert answer.status_code == 200
    assert answer.json()["job_status"] == "restored"


def test_resuming_calls_the_executor_once_and_after_current_has_moved(
    client: TestClient,
    manager: CheckpointManager,
    executor: Executor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, _ = saved(manager, 2)
    answer = client.post(f"/api/checkpoints/{first}/restore", json={"resume": True})
    assert answer.json()["job_status"] == "resumed"
    assert executor.resumed == [("etl", first)]
    assert not caplog.records  # it has no `is_running`, and need not have one


def test_without_an_executor_the_job_is_restored_and_the_message_says_so(
    manager: CheckpointManager,
) -> None:
    (checkpoint_id,) = saved(manager)
    answer = client_of(create_app(manager)).post(
        f"/api/checkpoints/{checkpoint_id}/restore", json={"resume": True}
    )
    assert answer.status_code == 200
    assert answer.json()["job_status"] == "restored"
    assert "no executor is configured" in answer.json()["message"]
    assert events_of(manager)[-1] == "checkpoint.restored"


class Failing:
    """An executor that cannot start anything."""

    def resume_job(self, job_id: str) -> None:
        raise ConnectionError(f"queue is down\n for {job_id}")


def test_an_executor_that_fails_leaves_the_job_restored(
    manager: CheckpointManager, caplog: pytest.LogCaptureFixture
) -> None:
    (checkpoint_id,) = saved(manager)
    answer = client_of(create_app(manager, Failing())).post(
        f"/api/checkpoints/{checkpoint_id}/restore", json={"resume": True}
    )
    assert answer.status_code == 200
    assert answer.json()["job_status"] == "restored"
    assert r"queue is down\n for etl" in answer.json()["message"]
    assert events_of(manager)[-1] == "checkpoint.restored"
    assert "queue is down" in caplog.text


class Asynchronous(Executor):
    """An executor whose method is a coroutine."""

    async def resume_job(self, job_id: str) -> None:  # type: ignore[override]
        super().resume_job(job_id)


def test_an_executor_may_be_asynchronous(manager: CheckpointManager) -> None:
    (checkpoint_id,) = saved(manager)
    executor = Asynchronous(manager)
    answer = client_of(create_app(manager, executor)).post(
        f"/api/checkpoints/{checkpoint_id}/restore", json={"resume": True}
    )
    assert answer.json()["job_status"] == "resumed"
    assert executor.resumed == [("etl", checkpoint_id)]


class Running(Executor):
    """An executor whose job runs."""

    def is_running(self, job_id: str) -> bool:
        return job_id == "etl"


def test_a_job_that_runs_is_refused_before_anything_is_journaled(
    manager: CheckpointManager,
) -> None:
    first, _ = saved(manager, 2)
    before, executor = events_of(manager), Running(manager)
    client = client_of(create_app(manager, executor))
    answer = client.post(f"/api/checkpoints/{first}/restore", json={"resume": True})
    assert (answer.status_code, answer.json()["code"]) == (409, "job_running")
    assert events_of(manager) == before
    assert executor.resumed == []
    # Without `resume` nobody asks.
    assert client.post(f"/api/checkpoints/{first}/restore").status_code == 200


class Unsure(Executor):
    """An executor that cannot tell whether a job runs before it tries."""

    def is_running(self, job_id: str) -> bool:
        raise TimeoutError(job_id)

    def resume_job(self, job_id: str) -> None:
        raise JobStillRunning(job_id)


def test_an_executor_that_cannot_tell_decides_when_it_starts(
    manager: CheckpointManager,
) -> None:
    (checkpoint_id,) = saved(manager)
    answer = client_of(create_app(manager, Unsure(manager))).post(
        f"/api/checkpoints/{checkpoint_id}/restore", json={"resume": True}
    )
    assert answer.json()["job_status"] == "restored"
    assert "still running" in answer.json()["message"]


def test_two_requests_at_once_never_resume_one_job_twice(
    manager: CheckpointManager,
) -> None:
    first, second = saved(manager, 2)
    executor = Slow(manager)
    client = client_of(create_app(manager, executor))
    body = {"resume": True}
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(client.post, f"/api/checkpoints/{first}/restore", json=body)
        assert executor.has_begun.wait(30)
        late = client.post(f"/api/checkpoints/{second}/restore", json=body)
        assert (late.status_code, late.json()["code"]) == (409, "job_running")
        executor.may_end.set()
        assert begun.result(30).json()["job_status"] == "resumed"
    assert executor.resumed == [("etl", first)]


@pytest.mark.parametrize(
    "body",
    [{"resume": "maybe"}, {"resume": 2}, {"resume": []}, [], "x", 1],
)
def test_a_restore_that_is_not_understood_restores_nothing(
    body: object, client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    before = events_of(manager)
    answer = client.post(f"/api/checkpoints/{checkpoint_id}/restore", json=body)
    assert answer.status_code == 422
    assert events_of(manager) == before
