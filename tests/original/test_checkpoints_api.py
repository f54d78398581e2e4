"""The 21 tests of the original system, by their names: what its callers rely on.

They are written as its callers wrote them: FastAPI's test client, a mock as executor,
the manager by its old parameter.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from milepost import CheckpointManager
from milepost.api import create_app

with warnings.catch_warnings():
    # Starlette prefers a successor of httpx that is not among our dependencies.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", UserWarning)
    from fastapi.testclient import TestClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = "test_job_123"
METADATA = {"checkpoint_id", "job_id", "step_name", "timestamp", "workflow_version"}


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(storage_path=tmp_path)


@pytest.fixture
def executor() -> Mock:
    return Mock()


@pytest.fixture
def client(manager: CheckpointManager, executor: Mock) -> Iterator[TestClient]:
    with TestClient(create_app(manager, executor)) as client:
        yield client


@pytest.fixture
def ids(manager: CheckpointManager) -> list[str]:
    """Five checkpoints of one job, oldest first."""
    return [
        manager.save(JOB, f"step_{n}", {"iteration": n, "data": f"value_{n}"})
        for n in range(5)
    ]


def assert_is_time(text: str) -> None:
    assert text.endswith("+00:00")
    assert datetime.fromisoformat(text).utcoffset() == timedelta(0)


class TestListCheckpoints:
    def test_list_checkpoints_success(self, client: TestClient, ids: list[str]) -> None:
        answer = client.get("/api/checkpoints", params={"job_id": JOB})
        assert answer.status_code == 200
        data = answer.json()
        assert {"checkpoints", "total", "job_id", "timestamp"} <= data.keys()
        assert (data["job_id"], data["total"]) == (JOB, 5)
        assert_is_time(data["timestamp"])
        assert [item["checkpoint_id"] for item in data["checkpoints"]] == ids
        for item in data["checkpoints"]:
            assert item.keys() >= METADATA
            assert item["workflow_version"] == "1.0"
            assert_is_time(item["timestamp"])

    def test_list_checkpoints_empty_job(self, client: TestClient) -> None:
        answer = client.get("/api/checkpoints", params={"job_id": "nonexistent"})
        assert answer.status_code == 200
        assert (answer.json()["checkpoints"], answer.json()["total"]) == ([], 0)

    def test_list_checkpoints_missing_job_id(self, client: TestClient) -> None:
        assert client.get("/api/checkpoints").status_code == 422


class TestGetCheckpoint:
    def test_get_checkpoint_success(self, client: TestClient, ids: list[str]) -> None:
        answer = client.get(f"/api/checkpoints/{ids[2]}")
        assert answer.status_code == 200
        data = answer.json()
        assert data.keys() >= METADATA
        assert (data["checkpoint_id"], data["job_id"]) == (ids[2], JOB)
        assert (data["step_name"], data["workflow_version"]) == ("step_2", "1.0")
        assert data["state_snapshot"] == {"iteration": 2, "data": "value_2"}

    def test_get_checkpoint_not_found(self, client: TestClient) -> None:
        answer = client.get("/api/checkpoints/nonexistent_checkpoint")
        assert answer.status_code == 404
        assert "not found" in answer.json()["detail"].lower()


class TestRestoreCheckpoint:
    def test_restore_checkpoint_without_resume(
        self, client: TestClient, executor: Mock, ids: list[str]
    ) -> None:
        answer = client.post(
            f"/api/checkpoints/{ids[1]}/restore", json={"resume": False}
        )
        assert answer.status_code == 200
        data = answer.json()
        assert (data["checkpoint_id"], data["job_id"]) == (ids[1], JOB)
        assert data["state"] == {"iteration": 1, "data": "value_1"}
        assert data["job_status"] == "restored"
        executor.resume_job.assert_not_called()

    def test_restore_checkpoint_with_resume(
        self, client: TestClient, executor: Mock, ids: list[str]
    ) -> None:
        answer = client.post(
            f"/api/checkpoints/{ids[1]}/restore", json={"resume": True}
        )
        assert answer.status_code == 200
        assert answer.json()["job_status"] == "resumed"
        executor.resume_job.assert_called_once_with(JOB)

    def test_restore_checkpoint_default_resume_false(
        self, client: TestClient, executor: Mock, ids: list[str]
    ) -> None:
        answer = client.post(f"/api/checkpoints/{ids[0]}/restore", json={})
        assert answer.status_code == 200
        assert answer.json()["job_status"] == "restored"
        executor.resume_job.assert_not_called()

    def test_restore_checkpoint_not_found(self, client: TestClient) -> None:
        answer = client.post(
            "/api/checkpoints/nonexistent_checkpoint/restore", json={"resume": False}
        )
        assert answer.status_code == 404


class TestDeleteCheckpoint:
    def test_delete_checkpoint_success(
        self, client: TestClient, manager: CheckpointManager, ids: list[str]
    ) -> None:
        answer = client.delete(f"/api/checkpoints/{ids[0]}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert [item.checkpoint_id for item in manager.list(JOB)] == ids[1:]

    def test_delete_checkpoint_not_found(self, client: TestClient) -> None:
        answer = client.delete("/api/checkpoints/nonexistent_checkpoint")
        assert answer.status_code == 404


class TestCleanupCheckpoints:
    def test_cleanup_keeps_last_n(
        self, client: TestClient, manager: CheckpointManager, ids: list[str]
    ) -> None:
        answer = client.post(
            "/api/checkpoints/cleanup", json={"job_id": JOB, "keep_last": 3}
        )
        assert answer.status_code == 200
        data = answer.json()
        assert (data["deleted_count"], data["kept_count"]) == (2, 3)
        assert data["job_id"] == JOB
        assert_is_time(data["timestamp"])
        assert [item.checkpoint_id for item in manager.list(JOB)] == ids[2:]

    @pytest.mark.usefixtures("ids")
    def test_cleanup_no_deletion_when_under_limit(self, client: TestClient) -> None:
        answer = client.post(
            "/api/checkpoints/cleanup", json={"job_id": JOB, "keep_last": 10}
        )
        assert answer.status_code == 200
        assert answer.json()["deleted_count"] == 0
        assert answer.json()["kept_count"] == 5

    def test_cleanup_keep_last_minimum_1(self, client: TestClient) -> None:
        answer = client.post(
            "/api/checkpoints/cleanup", json={"job_id": JOB, "keep_last": 0}
        )
        assert answer.status_code == 422

    def test_cleanup_keep_last_maximum_100(self, client: TestClient) -> None:
        answer = client.post(
            "/api/checkpoints/cleanup", json={"job_id": JOB, "keep_last": 101}
        )
        assert answer.status_code == 422

    def test_cleanup_missing_job_id(self, client: TestClient) -> None:
        answer = client.post("/api/checkpoints/cleanup", json={"keep_last": 5})
        assert answer.status_code == 422

    def test_cleanup_default_keep_last_10(
        self, client: TestClient, manager: CheckpointManager
    ) -> None:
        for n in range(15):
            manager.save(JOB, f"step_{n}", {"iteration": n})
        answer = client.post("/api/checkpoints/cleanup", json={"job_id": JOB})
        assert answer.status_code == 200
        assert answer.json()["deleted_count"] == 5
        assert answer.json()["kept_count"] == 10


class TestErrorHandling:
    def test_checkpoint_manager_not_initialized(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with TestClient(create_app()) as client:
            answer = client.get("/api/checkpoints", params={"job_id": JOB})
        assert answer.status_code == 200
        assert answer.json()["checkpoints"] == []
        assert (tmp_path / "checkpoints").is_dir()

    @pytest.mark.usefixtures("ids")
    def test_concurrent_checkpoint_operations(self, client: TestClient) -> None:
        def read(_: int) -> int:
            answer = client.get("/api/checkpoints", params={"job_id": JOB})
            assert answer.json()["total"] == 5
            return answer.status_code

        with ThreadPoolExecutor(10) as pool:
            assert [*pool.map(read, range(10))] == [200] * 10


class TestIntegrationScenarios:
    def test_full_checkpoint_lifecycle(
        self, client: TestClient, manager: CheckpointManager
    ) -> None:
        ids = [manager.save(JOB, f"step_{n}", {"iteration": n}) for n in range(7)]
        listed = client.get("/api/checkpoints", params={"job_id": JOB})
        assert listed.json()["total"] == 7
        got = client.get(f"/api/checkpoints/{ids[3]}")
        assert got.json()["state_snapshot"] == {"iteration": 3}
        restored = client.post(f"/api/checkpoints/{ids[3]}/restore", json={})
        assert restored.json()["state"] == {"iteration": 3}
        cleaned = client.post(
            "/api/checkpoints/cleanup", json={"job_id": JOB, "keep_last": 3}
        )
        assert cleaned.json()["deleted_count"] == 4
        assert cleaned.json()["kept_count"] == 3
        assert client.delete(f"/api/checkpoints/{ids[6]}").status_code == 204
        left = client.get("/api/checkpoints", params={"job_id": JOB}).json()
        assert [item["checkpoint_id"] for item in left["checkpoints"]] == ids[4:6]

    def test_restore_and_resume_workflow(
        self, client: TestClient, executor: Mock, ids: list[str]
    ) -> None:
        answer = client.post(
            f"/api/checkpoints/{ids[2]}/restore", json={"resume": True}
        )
        data = answer.json()
        assert data["job_status"] == "resumed"
        assert data["state"]["iteration"] == 2
        executor.resume_job.assert_called_once_with(JOB)
