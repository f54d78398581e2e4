"""Saving over HTTP: what is taken comes back, what would not is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from tests.support.client import AT, client_of, saved

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.client import TestClient


def test_saving_answers_201_with_where_it_stands(
    client: TestClient, manager: CheckpointManager
) -> None:
    body = {
        "job_id": "etl",
        "step_name": "load",
        "state": {"n": [1, {"x": None}]},
        "metadata": {"rows": 7},
        "tags": ["prod"],
        "pinned": True,
        "workflow_name": "nightly",
        "workflow_version": "1.4",
        "expected_seq": 0,
    }
    answer = client.post("/api/checkpoints", json=body)
    assert answer.status_code == 201
    (info,) = manager.list("etl")
    assert answer.json() == {
        "checkpoint_id": info.checkpoint_id,
        "job_id": "etl",
        "step_name": "load",
        "timestamp": AT,
        "seq": info.seq,
    }
    assert manager.get("etl", info.checkpoint_id).state == body["state"]
    assert (info.metadata, info.tags, info.pinned) == ({"rows": 7}, ("prod",), True)
    assert (info.workflow_name, info.workflow_version) == ("nightly", "1.4")
    assert [event["actor"] for event in manager.history("etl")][-1] == "api"


def test_a_log_is_shown_as_other_jobs_and_takes_no_states(
    client: TestClient, manager: CheckpointManager
) -> None:
    made = manager.append("chat", [{"text": "hello"}])
    shown = client.get(f"/api/checkpoints/{made.checkpoint_id}").json()
    assert shown["state_snapshot"] == {"entries": [{"text": "hello"}]}
    body = {"job_id": "chat", "step_name": "s", "state": {}}
    answer = client.post("/api/checkpoints", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_kind")
    assert answer.json()["detail"].startswith("job 'chat' holds the entries of a log")
    assert client.delete(f"/api/checkpoints/{made.checkpoint_id}").status_code == 204
    assert manager.entries("chat") == []


@pytest.mark.parametrize("missing", ["job_id", "step_name", "state"])
def test_a_save_without_a_required_field_names_it(
    missing: str, client: TestClient
) -> None:
    body: dict[str, Any] = {"job_id": "etl", "step_name": "s", "state": {}}
    del body[missing]
    answer = client.post("/api/checkpoints", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"] == f"{missing} (in the body) is missing"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", [1]),
        ("state", "x"),
        ("state", None),
        ("job_id", 3),
        ("step_name", ""),
        ("tags", "prod"),
        ("tags", [1]),
        ("pinned", "no"),
        ("metadata", [1]),
        ("expected_seq", -1),
        ("expected_seq", "1"),
        ("workflow_name", ""),
        ("actor", "somebody else"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(
    field: str, value: object, client: TestClient, manager: CheckpointManager
) -> None:
    body = {"job_id": "etl", "step_name": "s", "state": {}, field: value}
    answer = client.post("/api/checkpoints", json=body)
    assert answer.status_code == 422
    assert field in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert manager.list("etl") == []


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ('{"a": [1, NaN]}', "$.a[1]"),
        ('{"a": {"b": Infinity}}', "$.a.b"),
        ('{"a": 1e400}', "$.a"),
        ('{"a": 18446744073709551616}', "$.a"),
        (r'{"a": "\ud800"}', "$.a"),
    ],
)
def test_a_state_that_would_not_come_back_is_refused_with_its_path(
    state: str, path: str, client: TestClient, manager: CheckpointManager
) -> None:
    answer = client.post(
        "/api/checkpoints",
        content=f'{{"job_id": "etl", "step_name": "s", "state": {state}}}',
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_state")
    assert answer.json()["detail"].startswith(f"{path}: ")
    assert manager.list("etl") == []


def test_any_state_that_json_can_hold_comes_back_as_it_went_in(
    client: TestClient,
) -> None:
    state = {"": -0.0, "é": [2**63, -(2**63), 1e-320, True, None, "\u2028\0"]}
    body = {"job_id": "etl", "step_name": "s", "state": state}
    checkpoint_id = client.post("/api/checkpoints", json=body).json()["checkpoint_id"]
    shown = client.get(f"/api/checkpoints/{checkpoint_id}").json()["state_snapshot"]
    assert json.dumps(shown) == json.dumps(state)


@pytest.mark.parametrize(
    "job_id",
    [
        "a/b",
        "..",
        "../../x",
        "%00",
        "%2e%2e",
        "😀",
        "Etl",
        "a@b",
        "-rf",
        "x" * 512,
        " x",
    ],
)
def test_a_printable_job_id_works_everywhere(
    job_id: str, client: TestClient, tmp_path: Path
) -> None:
    outside = set(tmp_path.iterdir()) | {tmp_path / "store"}
    body = {"job_id": job_id, "step_name": "s", "state": {}}
    assert client.post("/api/checkpoints", json=body).status_code == 201
    for path in ("/api/checkpoints", "/api/events", "/api/jobs"):
        answer = client.get(path, params={"job_id": job_id})
        assert answer.status_code == 200
    listed = client.get("/api/checkpoints", params={"job_id": job_id}).json()
    assert listed["job_id"] == job_id
    assert listed["total"] == 1
    assert set(tmp_path.iterdir()) == outside


def test_ids_that_differ_in_case_or_composition_are_two_jobs(
    client: TestClient,
) -> None:
    for job_id in ("etl", "ETL", "\u00e9", "e\u0301"):
        body = {"job_id": job_id, "step_name": "s", "state": {}}
        client.post("/api/checkpoints", json=body)
    jobs = [job["job_id"] for job in client.get("/api/jobs").json()["jobs"]]
    assert sorted(jobs) == sorted(["etl", "ETL", "\u00e9", "e\u0301"])


@pytest.mark.parametrize(
    "job_id", ["", "a\0b", "a\nb", "x" * 513, "é" * 257, "x" * 600, "a\u202eb"]
)
def test_an_id_that_no_job_can_have_is_422(
    job_id: str, client: TestClient, tmp_path: Path
) -> None:
    body = {"job_id": job_id, "step_name": "s", "state": {}}
    answer = client.post("/api/checkpoints", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_argument")
    if "\u202e" not in job_id:  # to ask about it does no harm
        for path in ("/api/checkpoints", "/api/events", "/api/jobs"):
            assert client.get(path, params={"job_id": job_id}).status_code == 422
        cleanup = client.post("/api/checkpoints/cleanup", json={"job_id": job_id})
        assert cleanup.status_code == 422
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_lone_surrogate_in_any_field_is_422(client: TestClient) -> None:
    for field in ("job_id", "step_name", "tags", "nonsense"):
        body: dict[str, Any] = {"job_id": "etl", "step_name": "s", "state": {}}
        body[field] = ["\ud800"] if field == "tags" else "\ud800"
        answer = client.post(
            "/api/checkpoints",
            content=json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422
        assert field.rstrip("s") in answer.json()["detail"]


@pytest.mark.parametrize("content", [b"{", b"{'a': 1}", b'{"a": 1,}', b"\xff", b"x"])
def test_malformed_json_is_422_on_every_post(
    content: bytes, client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    for path in ("", "/cleanup", f"/{checkpoint_id}/restore"):
        answer = client.post(
            f"/api/checkpoints{path}",
            content=content,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422
        assert "body" in answer.json()["detail"]


def test_a_large_state_is_413(manager: CheckpointManager, tmp_path: Path) -> None:
    small = CheckpointManager(tmp_path / "small", max_state_bytes=1000)
    body = {"job_id": "etl", "step_name": "s", "state": {"a": "x" * 1000}}
    answer = client_of(create_app(small)).post("/api/checkpoints", json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "state_too_large")
    body["state"] = {"a": "x" * 1024 * 1024}
    answer = client_of(create_app(manager)).post("/api/checkpoints", json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def nested(levels: int) -> bytes:
    return (
        b'{"job_id":"e","step_name":"s","state":'
        + b'{"a":' * levels
        + b"1"
        + (b"}" * levels + b"}")
    )


@pytest.mark.parametrize(
    ("levels", "status", "code"),
    [
        (200, 201, None),
        (201, 413, "state_too_large"),
        (300, 422, "too_deep"),
        (10_000, 422, "too_deep"),
    ],
)
def test_depth_is_bounded_by_the_state_then_by_the_body(
    levels: int, status: int, code: str | None, client: TestClient
) -> None:
    answer = client.post(
        "/api/checkpoints",
        content=nested(levels),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == status
    assert answer.json().get("code") == code


def test_a_body_without_a_content_type_is_read_as_json(client: TestClient) -> None:
    content = b'{"job_id": "etl", "step_name": "s", "state": {}}'
    assert client.post("/api/checkpoints", content=content).status_code == 201


def test_what_is_quoted_back_is_cut_short(client: TestClient) -> None:
    body = {"job_id": "etl", "step_name": "s", "state": "x" * 100_000}
    detail = client.post("/api/checkpoints", json=body).json()["detail"]
    assert detail.endswith("x…")
    assert len(detail) < 200
