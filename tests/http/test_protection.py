"""Pinning, holding, releasing and undeleting over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.client import AT, events_of, saved

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from tests.support.client import TestClient


def test_pinning_answers_exactly_these_fields_and_is_journaled_once(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    target = f"/api/checkpoints/{checkpoint_id}/pin"
    answer = client.post(target, json={"reason": "release 1.4"})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"3"')
    expected = {
        "checkpoint_id": checkpoint_id,
        "job_id": "etl",
        "changed": True,
        "pinned": True,
        "held": None,
        "timestamp": AT,
    }
    assert answer.json() == expected
    assert client.post(target).json() == expected | {"changed": False}
    (event,) = manager.history("etl", types={"checkpoint.pinned"})
    assert event["data"]["reason"] == "release 1.4"
    assert event["actor"] == "api"


def test_what_is_pinned_is_protected_until_it_is_unpinned(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    target = f"/api/checkpoints/{checkpoint_id}"
    client.post(f"{target}/pin")
    assert client.delete(target).json()["code"] == "protected"
    assert client.post(f"{target}/unpin").json()["pinned"] is False
    assert client.delete(target).status_code == 204


def test_what_is_held_is_409_with_who_and_since_when_until_it_is_released(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    target = f"/api/checkpoints/{checkpoint_id}"
    held = client.post(f"{target}/hold", json={"reason": "case 4711"}).json()["held"]
    assert held == {"actor": "api", "since": AT, "reason": "case 4711"}
    refused = client.delete(target)
    assert (refused.status_code, refused.json()["code"]) == (409, "held")
    assert refused.json()["details"]["held_by"] == "api"
    assert refused.json()["details"]["held_since"] == AT
    again = client.post(f"{target}/hold", json={"reason": "another"}).json()
    assert (again["changed"], again["held"]) == (False, held)
    assert client.post(f"{target}/release").json()["held"] is None
    assert client.delete(target).status_code == 204


def test_what_was_deleted_comes_back_once(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    target = f"/api/checkpoints/{checkpoint_id}"
    client.delete(target)
    answer = client.post(f"{target}/undelete")
    assert (answer.status_code, answer.json()["changed"]) == (200, True)
    assert client.get(target).status_code == 200
    assert client.post(f"{target}/undelete").json()["changed"] is False
    assert events_of(manager).count("checkpoint.undeleted") == 1


def test_what_was_purged_or_never_was_does_not_come_back(
    client: TestClient, manager: CheckpointManager
) -> None:
    first, second = saved(manager, 2)
    manager.trash_seconds = 0
    manager.delete("etl", first, purge=True)
    manager.delete("etl", second)
    targets = [f"/api/checkpoints/{c}/undelete" for c in (first, second, "never")]
    statuses = [client.post(target).status_code for target in targets]
    assert statuses == [404, 409, 404]


def test_a_repeat_with_the_same_key_gets_the_first_answer(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    target, key = f"/api/checkpoints/{checkpoint_id}/hold", {"Idempotency-Key": "k"}
    first = client.post(target, headers=key)
    manager.release("etl", checkpoint_id)
    assert client.post(target, headers=key).json() == first.json()
    assert manager.list("etl")[0].held is None


@pytest.mark.parametrize("verb", ["pin", "unpin", "hold", "release", "undelete"])
def test_only_what_is_known_can_be_said_about_what_is_there(
    verb: str, client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    unknown = client.post(f"/api/checkpoints/never/{verb}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    target = f"/api/checkpoints/{checkpoint_id}/{verb}"
    assert client.post(target, json={"resaon": "typo"}).status_code == 422
    assert events_of(manager) == ["job.opened", "checkpoint.saved"]


def test_a_pinned_checkpoint_is_deleted_with_force_and_a_held_one_is_not(
    client: TestClient, manager: CheckpointManager
) -> None:
    pinned, held, free = saved(manager, 3)
    manager.pin("etl", pinned)
    manager.hold("etl", held)

    answer = client.delete(f"/api/checkpoints/{pinned}")
    assert (answer.status_code, answer.json()["code"]) == (409, "protected")
    assert "?force=true" in answer.json()["detail"]
    forced = {"force": "true"}
    assert client.delete(f"/api/checkpoints/{pinned}", params=forced).status_code == 204
    assert client.delete(f"/api/checkpoints/{free}", params=forced).status_code == 204
    answer = client.delete(f"/api/checkpoints/{held}", params=forced)
    assert (answer.status_code, answer.json()["code"]) == (409, "held")
    assert [info.checkpoint_id for info in manager.list("etl")] == [held]
