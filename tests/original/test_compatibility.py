"""What docs/compatibility.md says beyond the tests of the original system."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from milepost import CheckpointManager, Key, KeyRing
from milepost.api import create_app
from tests.support.client import client_of, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.client import TestClient


@pytest.fixture
def client(manager: CheckpointManager) -> TestClient:
    return client_of(create_app(manager, Mock()))


# -- executors -------------------------------------------------------------------------


class Bare:
    """An executor with nothing but the one method."""

    def __init__(self) -> None:
        self.resumed: list[str] = []

    def resume_job(self, job_id: str, **_options: object) -> None:
        self.resumed.append(job_id)


class Empty(Bare):
    """An executor that is false as a condition."""

    def __len__(self) -> int:
        return 0


class Says(Bare):
    """An executor that answers something else than True or False."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self._answer = answer

    def is_running(self, _job_id: str, **_options: object) -> object:
        return self._answer


class NoMethod(Bare):
    """An executor whose `is_running` is a value."""

    is_running = True


class Broken(Bare):
    """An executor that cannot tell."""

    def is_running(self) -> bool:  # it takes no job
        return True


EXECUTORS: dict[str, Callable[[], Any]] = {
    "Mock": Mock,
    "MagicMock": MagicMock,
    "AsyncMock resume_job": lambda: Mock(resume_job=AsyncMock()),
    "bare": Bare,
    "falsy": Empty,
    "is_running is a value": NoMethod,
    "is_running takes no job": Broken,
    "a number": lambda: Says(1),
    "a text": lambda: Says("idle"),
    "None": lambda: Says(None),
    "False": lambda: Says(False),
}


@pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)
def test_any_object_with_resume_job_is_an_executor(
    make: Callable[[], Any], manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    executor = make()
    answer = client_of(create_app(manager, executor)).post(
        f"/api/checkpoints/{checkpoint_id}/restore", json={"resume": True}
    )
    assert answer.status_code == 200
    assert answer.json()["job_status"] == "resumed"
    if isinstance(executor, Bare):
        assert executor.resumed == ["etl"]
    else:
        executor.resume_job.assert_called_once_with("etl")


def test_a_job_is_running_if_the_executor_answers_true_itself(
    manager: CheckpointManager,
) -> None:
    (checkpoint_id,) = saved(manager)
    executor = Says(True)
    answer = client_of(create_app(manager, executor)).post(
        f"/api/checkpoints/{checkpoint_id}/restore", json={"resume": True}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "job_running")
    assert executor.resumed == []


# -- bodies ----------------------------------------------------------------------------

RESUMES: list[tuple[object, bool]] = [
    ({"resume": "true"}, True),
    ({"resume": "yes"}, True),
    ({"resume": 1}, True),
    ({"resume": True, "actor": "me", "force": 1}, True),
    ({"resume": None}, False),
    ({"resume": "false"}, False),
    ({"resume": 0}, False),
    ({"resum": True}, False),
    ({}, False),
    (None, False),
]


@pytest.mark.parametrize(("body", "is_resumed"), RESUMES, ids=repr)
def test_the_body_of_a_restore_is_read_as_leniently_as_before(
    body: object, is_resumed: bool, client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    answer = client.post(f"/api/checkpoints/{checkpoint_id}/restore", json=body)
    assert answer.status_code == 200
    expected = "resumed" if is_resumed else "restored"
    assert answer.json()["job_status"] == expected


@pytest.mark.parametrize("keep_last", [3, "3", 3.0, "3.0"], ids=repr)
def test_the_body_of_a_cleanup_is_read_as_leniently_as_before(
    keep_last: object, client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 5)
    body = {"job_id": "etl", "keep_last": keep_last, "dry_run": False, "x": [{}]}
    answer = client.post("/api/checkpoints/cleanup", json=body)
    assert answer.status_code == 200
    assert answer.json()["deleted_count"] == 2
    assert answer.json()["kept_count"] == 3


def test_bodies_need_no_content_type(
    client: TestClient, manager: CheckpointManager
) -> None:
    first, _ = saved(manager, 2)
    restored = client.post(
        f"/api/checkpoints/{first}/restore", content=b'{"resume": true}'
    )
    assert restored.json()["job_status"] == "resumed"
    cleaned = client.post(
        "/api/checkpoints/cleanup", content=b'{"job_id": "etl", "keep_last": 1}'
    )
    assert cleaned.json()["deleted_count"] == 1


def test_the_endpoints_that_are_new_refuse_unknown_fields(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    new = {"job_id": "etl", "step_name": "s", "state": {}, "tag": ["x"]}
    assert client.post("/api/checkpoints", json=new).status_code == 422
    pin = client.post(f"/api/checkpoints/{checkpoint_id}/pin", json={"reasn": "x"})
    assert pin.status_code == 422


# -- times and JSON --------------------------------------------------------------------


def every_time(value: Any) -> list[str]:
    """Return every text in `value` that looks like a time."""
    if isinstance(value, dict):
        return [t for each in value.values() for t in every_time(each)]
    if isinstance(value, (list, tuple)):
        return [t for each in value for t in every_time(each)]
    is_time = isinstance(value, str) and value[4:5] == "-" and value[10:11] == "T"
    return [value] if is_time else []


def test_every_time_over_http_ends_in_utc_offset(
    client: TestClient, manager: CheckpointManager
) -> None:
    a, b, _ = saved(manager, 3)
    manager.hold("etl", b)
    asked = [
        client.get("/api/checkpoints", params={"job_id": "etl"}),
        client.get(f"/api/checkpoints/{a}"),
        client.post(f"/api/checkpoints/{a}/restore"),
        client.delete(f"/api/checkpoints/{b}"),
        client.post("/api/checkpoints/cleanup", json={"job_id": "etl", "keep_last": 1}),
        client.post(f"/api/checkpoints/{b}/pin"),
        client.get("/api/jobs"),
        client.get("/api/events", params={"job_id": "etl"}),
        client.get("/api/retention/preview", params={"job_id": "etl"}),
        client.get("/readyz"),
    ]
    for answer in asked:
        times = every_time(answer.json())
        assert times
        assert all(time.endswith("+00:00") for time in times), answer.url


def test_every_answer_of_the_manager_is_plain_json(root: Path) -> None:
    key = KeyRing([Key("k", b"k" * 32)])
    with CheckpointManager(root, keys=key) as manager:
        ids = saved(manager, 3)
        manager.save("etl", "m", {}, metadata={"n": 1})
        manager.save("bad", "s", {})
        manager.hold("etl", ids[0], reason="x")
        manager.delete("etl", ids[1])
        manager.complete("etl")
    (root / "journals" / "bad.jsonl").write_bytes(b"rot\n")
    with CheckpointManager(root) as manager:
        answers: list[Any] = [
            [info._asdict() for info in manager.list("etl")],
            [job._asdict() for job in manager.jobs()],
            [report._asdict() for report in manager.verify(deep=True)],
            manager.history("etl"),
            manager.latest("etl"),
            manager.current("etl"),
            manager.page("etl", limit=2),
        ]
        assert manager.list("etl")[-1].metadata_problem is not None
        assert manager.jobs()[0].damage is not None
        for answer in answers:
            found = every_time(json.loads(json.dumps(answer)))
            assert all(time.endswith("+00:00") for time in found)
