"""Writing exactly once: entity tags against stale writers, keys against repeats."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from milepost.api import create_app
from tests.support.client import Executor, Slow, client_of, events_of, saved

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from tests.support.client import TestClient

MARKS = ("pin", "unpin", "hold", "release")

# ETag and If-Match


def test_an_etag_is_the_seq_and_lets_exactly_the_next_write_through(
    client: TestClient, manager: CheckpointManager
) -> None:
    (first,) = saved(manager)
    for path in (
        "checkpoints?job_id=etl",
        f"checkpoints/{first}",
        "events?job_id=etl",
        "jobs?job_id=etl",
    ):
        assert client.get(f"/api/{path}").headers["etag"] == '"2"'
    body = {"job_id": "etl", "step_name": "s", "state": {}}
    match = {"If-Match": '"2"'}
    answer = client.post("/api/checkpoints", json=body, headers=match)
    assert (answer.status_code, answer.headers["etag"]) == (201, '"3"')
    stale = client.post("/api/checkpoints", json=body, headers=match)
    assert (stale.status_code, stale.json()["code"]) == (412, "conflict")
    assert manager.seq("etl") == 3


def test_a_stale_if_match_stops_every_write(
    client: TestClient, manager: CheckpointManager, executor: Executor
) -> None:
    first, _ = saved(manager, 2)
    before, match = events_of(manager), {"If-Match": '"2"'}
    target = f"/api/checkpoints/{first}"
    resume, cleanup = {"resume": True}, {"job_id": "etl", "keep_last": 1}
    answers = [
        client.delete(target, headers=match),
        client.post(f"{target}/restore", json=resume, headers=match),
        client.post("/api/checkpoints/cleanup", json=cleanup, headers=match),
        *(client.post(f"{target}/{verb}", headers=match) for verb in MARKS),
    ]
    assert {answer.status_code for answer in answers} == {412}
    assert events_of(manager) == before
    assert executor.resumed == []


def test_a_fresh_if_match_stops_none(
    client: TestClient, manager: CheckpointManager
) -> None:
    first, *_ = saved(manager, 3)
    target = f"/api/checkpoints/{first}"

    def match() -> dict[str, str]:
        return {"If-Match": f'"{manager.seq("etl")}"'}

    assert client.post(f"{target}/restore", headers=match()).status_code == 200
    assert client.delete(target, headers=match()).status_code == 204
    cleanup = {"job_id": "etl", "keep_last": 1}
    answer = client.post("/api/checkpoints/cleanup", json=cleanup, headers=match())
    assert answer.status_code == 200


@pytest.mark.parametrize("value", ["2", "*", 'W/"2"', '"x"', '"1", "2"', ""])
def test_an_if_match_that_is_no_etag_of_ours_is_422(
    value: str, client: TestClient, manager: CheckpointManager
) -> None:
    (first,) = saved(manager)
    headers = {"If-Match": value}
    answer = client.delete(f"/api/checkpoints/{first}", headers=headers)
    assert answer.status_code == 422
    assert len(manager.list("etl")) == 1


def test_a_stale_expected_seq_in_the_body_is_409(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager)
    body = {"job_id": "etl", "step_name": "s", "state": {}, "expected_seq": 0}
    answer = client.post("/api/checkpoints", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    headers = {"If-Match": '"2"'}
    both = client.post("/api/checkpoints", json=body, headers=headers)
    assert both.status_code == 422
    assert len(manager.list("etl")) == 1


# Idempotency-Key


def test_a_repeated_save_answers_the_first_checkpoint(
    client: TestClient, manager: CheckpointManager
) -> None:
    body = {"job_id": "etl", "step_name": "s", "state": {"n": 1}}
    key = {"Idempotency-Key": "k1"}
    first = client.post("/api/checkpoints", json=body, headers=key)
    saved(manager, 3)
    again = client.post("/api/checkpoints", json=body, headers=key)
    assert again.status_code == 201
    assert again.json() == first.json()
    assert len(manager.list("etl")) == 4


def test_the_key_of_another_save_is_409(client: TestClient) -> None:
    body = {"job_id": "etl", "step_name": "s", "state": {"n": 1}}
    key = {"Idempotency-Key": "k1"}
    client.post("/api/checkpoints", json=body, headers=key)
    body["state"] = {"n": 2}
    answer = client.post("/api/checkpoints", json=body, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_conflict_that_if_match_did_not_cause_is_no_412(
    client: TestClient, manager: CheckpointManager
) -> None:
    body = {"job_id": "etl", "step_name": "s", "state": {"n": 1}}
    key = {"Idempotency-Key": "k1"}
    client.post("/api/checkpoints", json=body, headers=key)
    body["state"] = {"n": 2}
    headers = key | {"If-Match": f'"{manager.seq("etl")}"'}
    answer = client.post("/api/checkpoints", json=body, headers=headers)
    assert answer.status_code == 409


def test_a_repeated_restore_resumes_once(
    client: TestClient, manager: CheckpointManager, executor: Executor
) -> None:
    first, _ = saved(manager, 2)
    target, key = f"/api/checkpoints/{first}/restore", {"Idempotency-Key": "k1"}
    answers = [
        client.post(target, json={"resume": True}, headers=key) for _ in range(3)
    ]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert {answer.headers["etag"] for answer in answers} == {'"4"'}
    assert executor.resumed == [("etl", first)]
    assert events_of(manager).count("checkpoint.restored") == 1
    other = client.post(target, json={"resume": False}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize("purge", [False, True])
def test_a_repeated_restore_of_what_is_gone_is_404(
    purge: bool, client: TestClient, manager: CheckpointManager
) -> None:
    first, _ = saved(manager, 2)
    target, key = f"/api/checkpoints/{first}/restore", {"Idempotency-Key": "k1"}
    assert client.post(target, headers=key).status_code == 200
    manager.delete("etl", first, purge=purge)
    answer = client.post(target, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_key_with_another_precondition_is_another_request(
    client: TestClient, manager: CheckpointManager
) -> None:
    (first,) = saved(manager)
    target, key = f"/api/checkpoints/{first}/restore", {"Idempotency-Key": "k1"}
    assert client.post(target, headers=key | {"If-Match": '"2"'}).status_code == 200
    assert client.post(target, headers=key | {"If-Match": '"2"'}).status_code == 200
    assert client.post(target, headers=key | {"If-Match": '"3"'}).status_code == 409


def test_repeats_of_a_restore_that_come_at_once_wait_for_the_first(
    manager: CheckpointManager,
) -> None:
    (first,) = saved(manager)
    executor = Slow(manager)
    client = client_of(create_app(manager, executor))
    target, key = f"/api/checkpoints/{first}/restore", {"Idempotency-Key": "k1"}

    def post() -> bytes:
        return client.post(target, json={"resume": True}, headers=key).content

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post) for _ in range(4)]
        assert executor.has_begun.wait(30)
        executor.may_end.set()
        assert len({answer.result(30) for answer in answers}) == 1
    assert executor.resumed == [("etl", first)]


def test_a_repeated_cleanup_deletes_once(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 5)
    body, key = {"job_id": "etl", "keep_last": 3}, {"Idempotency-Key": "k1"}
    first = client.post("/api/checkpoints/cleanup", json=body, headers=key)
    saved(manager, 5)
    again = client.post("/api/checkpoints/cleanup", json=body, headers=key)
    assert again.content == first.content
    assert len(manager.list("etl")) == 8


def test_a_repeat_of_a_save_finds_the_first_whichever_server_answers(
    manager: CheckpointManager,
) -> None:
    body = {"job_id": "etl", "step_name": "s", "state": {"n": 1}}
    clients = [client_of(create_app(manager)) for _ in range(2)]
    headers = {"Idempotency-Key": "k1"}
    answers = [c.post("/api/checkpoints", json=body, headers=headers) for c in clients]
    assert len({answer.json()["checkpoint_id"] for answer in answers}) == 1
    assert events_of(manager).count("checkpoint.saved") == 1


def test_a_refused_restore_can_be_repeated_once_it_is_possible(
    manager: CheckpointManager,
) -> None:
    class Busy(Executor):
        is_busy = True

        def is_running(self, _job_id: str) -> bool:
            return self.is_busy

    (first,) = saved(manager)
    executor = Busy(manager)
    client = client_of(create_app(manager, executor))
    target, key = f"/api/checkpoints/{first}/restore", {"Idempotency-Key": "k1"}
    body = {"resume": True}
    assert client.post(target, json=body, headers=key).status_code == 409
    executor.is_busy = False
    assert client.post(target, json=body, headers=key).status_code == 200


@pytest.mark.parametrize("path", ["", "/cleanup", "/x/restore", "/x/hold"])
def test_a_key_that_is_too_long_is_refused_on_every_post(
    path: str, client: TestClient
) -> None:
    bodies = {
        "": {"job_id": "etl", "step_name": "s", "state": {}},
        "/cleanup": {"job_id": "etl"},
        "/x/restore": {},
        "/x/hold": {},
    }
    headers = {"Idempotency-Key": "k" * 256}
    target = f"/api/checkpoints{path}"
    answer = client.post(target, json=bodies[path], headers=headers)
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["detail"]
