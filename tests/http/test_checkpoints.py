"""Listing, reading, deleting and cleaning up, field for field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.client import AT, events_of, saved

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from tests.support.client import TestClient

LISTED = [
    "checkpoint_id",
    "job_id",
    "step_name",
    "timestamp",
    "workflow_version",
    "workflow_name",
    "metadata",
]


# Listing


def test_listing_answers_what_it_always_has_and_then_the_rest(
    client: TestClient, manager: CheckpointManager
) -> None:
    first = manager.save("etl", "load", {"n": 1}, metadata={"rows": 7})
    second = manager.save(
        "etl", "clean", {"n": 2}, workflow_name="nightly", workflow_version="1.4"
    )
    answer = client.get("/api/checkpoints", params={"job_id": "etl"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    listed = body.pop("checkpoints")
    assert body == {"job_id": "etl", "total": 2, "timestamp": AT}
    assert [list(each.items())[: len(LISTED)] for each in listed] == [
        [*zip(LISTED, row, strict=True)]
        for row in (
            (first, "etl", "load", AT, "1.0", None, {"rows": 7}),
            (second, "etl", "clean", AT, "1.4", "nightly", {}),
        )
    ]


def test_lists_and_reads_are_the_same_bytes_as_ever(
    client: TestClient, manager: CheckpointManager
) -> None:
    first = manager.save("etl", "load", {"n": 1}, metadata={"b": 2, "a": 1})
    second = manager.save("etl", "é", {}, tags=["x", "y"], pinned=True, failed=True)
    manager.hold("etl", second, actor="me", reason="audit")
    sizes = [info.stored_bytes for info in manager.list("etl")]
    rows = [
        (
            f'{{"checkpoint_id":"{first}","job_id":"etl","step_name":"load",'
            f'"timestamp":"{AT}","workflow_version":"1.0","workflow_name":null,'
            f'"metadata":{{"b":2,"a":1}},"seq":2,"parent_id":null,"tags":[],'
            f'"pinned":false,"held":null,"failed":false,"stored_bytes":{sizes[0]}}}'
        ),
        (
            f'{{"checkpoint_id":"{second}","job_id":"etl","step_name":"é",'
            f'"timestamp":"{AT}","workflow_version":"1.0","workflow_name":null,'
            f'"metadata":{{}},"seq":3,"parent_id":"{first}","tags":["x","y"],'
            f'"pinned":true,"held":{{"actor":"me","since":"{AT}","reason":"audit"}},'
            f'"failed":true,"stored_bytes":{sizes[1]}}}'
        ),
    ]
    whole = f'{{"job_id":"etl","checkpoints":[{rows[0]},{rows[1]}],"total":2,'
    whole += f'"timestamp":"{AT}"}}'
    answer = client.get("/api/checkpoints", params={"job_id": "etl"})
    assert answer.content.decode() == whole
    one = rows[0].replace(',"seq"', ',"state_snapshot":{"n":1},"seq"')
    assert client.get(f"/api/checkpoints/{first}").content.decode() == one


def test_no_field_of_a_checkpoint_is_hidden(
    client: TestClient, manager: CheckpointManager
) -> None:
    body = {
        "job_id": "etl",
        "step_name": "s",
        "state": {},
        "tags": ["prod"],
        "pinned": True,
        "failed": True,
    }
    first = client.post("/api/checkpoints", json=body).json()["checkpoint_id"]
    second = client.post("/api/checkpoints", json=body).json()["checkpoint_id"]
    client.post(f"/api/checkpoints/{second}/hold", json={"reason": "case 1"})

    (_, listed) = client.get("/api/checkpoints?job_id=etl").json()["checkpoints"]
    got = client.get(f"/api/checkpoints/{second}").json()

    info = manager.find(second)
    assert set(listed) == set(info._fields) - {"metadata_problem"}
    assert listed["stored_bytes"] == info.stored_bytes
    assert {name: listed[name] for name in ("seq", "parent_id", "tags", "pinned")} == {
        "seq": 3,
        "parent_id": first,
        "tags": ["prod"],
        "pinned": True,
    }
    assert listed["failed"] is True
    assert listed["held"] == {"actor": "api", "since": AT, "reason": "case 1"}
    assert got == {**listed, "state_snapshot": {}}
    assert list(got)[: len(LISTED) + 1] == [*LISTED, "state_snapshot"]


def test_an_unknown_job_has_an_empty_list(client: TestClient) -> None:
    answer = client.get("/api/checkpoints", params={"job_id": "nobody"})
    assert answer.status_code == 200
    assert answer.json() == {
        "job_id": "nobody",
        "checkpoints": [],
        "total": 0,
        "timestamp": AT,
    }
    assert answer.headers["etag"] == '"0"'


def test_listing_needs_a_job_id(client: TestClient) -> None:
    answer = client.get("/api/checkpoints")
    assert answer.status_code == 422
    assert answer.json() == {
        "detail": "job_id (in the query) is missing",
        "code": "invalid_argument",
        "errors": [
            {"loc": ["query", "job_id"], "msg": "Field required", "type": "missing"}
        ],
    }


def test_without_a_limit_the_list_is_whole(
    client: TestClient, manager: CheckpointManager
) -> None:
    ids = saved(manager, 510)  # more than the largest page
    body = client.get("/api/checkpoints", params={"job_id": "etl"}).json()
    assert [item["checkpoint_id"] for item in body["checkpoints"]] == ids
    assert body["total"] == 510


def test_pages_join_up_to_the_whole_list(
    client: TestClient, manager: CheckpointManager
) -> None:
    ids, seen = saved(manager, 7), []
    params: dict[str, Any] = {"job_id": "etl", "limit": 3}
    for _ in range(7):
        body = client.get("/api/checkpoints", params=params).json()
        seen += [item["checkpoint_id"] for item in body["checkpoints"]]
        assert list(body) == [
            "job_id",
            "checkpoints",
            "total",
            "timestamp",
            "next_cursor",
        ]
        assert body["total"] == 7
        if body["next_cursor"] is None:
            break
        params["cursor"] = body["next_cursor"]
    assert seen == ids


@pytest.mark.parametrize("limit", ["0", "-1", "501", "x", "1.5", "1e3"])
def test_a_page_has_bounds(limit: str, client: TestClient) -> None:
    answer = client.get("/api/checkpoints", params={"job_id": "etl", "limit": limit})
    assert answer.status_code == 422
    assert "limit" in answer.json()["detail"]


@pytest.mark.parametrize("cursor", ["x", "-1", "", "9" * 30, "1 "])
def test_a_cursor_that_is_none_of_ours_is_refused(
    cursor: str, client: TestClient
) -> None:
    answer = client.get("/api/checkpoints", params={"job_id": "etl", "cursor": cursor})
    assert answer.status_code == 422


# Reading


def test_reading_adds_the_state_and_journals_nothing(
    client: TestClient, manager: CheckpointManager
) -> None:
    checkpoint_id = manager.save("etl", "load", {"n": [1, 2.5, None, "é"]})
    before = events_of(manager)
    answer = client.get(f"/api/checkpoints/{checkpoint_id}")
    assert answer.status_code == 200
    assert list(answer.json())[: len(LISTED) + 1] == [*LISTED, "state_snapshot"]
    assert answer.json()["state_snapshot"] == {"n": [1, 2.5, None, "é"]}
    assert events_of(manager) == before


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize(
    "checkpoint_id", ["nothing", "%2e%2e", "..%2f..%2fx", "%00", "cleanup", "a" * 600]
)
def test_an_unknown_checkpoint_is_not_found(
    method: str, checkpoint_id: str, client: TestClient
) -> None:
    target = f"/api/checkpoints/{checkpoint_id}"
    answer = client.request(method, target + ("/restore" if method == "POST" else ""))
    is_long = len(checkpoint_id) > 512
    assert answer.status_code == (422 if is_long else 404)
    if not is_long:
        assert answer.json()["code"] == "not_found"
        assert "not found" in answer.json()["detail"]


def test_a_deleted_checkpoint_says_when_and_by_whom(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    manager.delete("etl", checkpoint_id, actor="token:boss")
    answer = client.get(f"/api/checkpoints/{checkpoint_id}")
    assert answer.status_code == 404
    assert f"not found in job 'etl': deleted at {AT}" in answer.json()["detail"]
    assert "token:boss" in answer.json()["detail"]


# Deleting


def test_deleting_answers_nothing_and_then_not_found(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    answer = client.delete(f"/api/checkpoints/{checkpoint_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert manager.list("etl") == []
    assert client.delete(f"/api/checkpoints/{checkpoint_id}").status_code == 404
    assert events_of(manager).count("checkpoint.deleted") == 1


def test_a_pinned_checkpoint_is_protected(
    client: TestClient, manager: CheckpointManager
) -> None:
    checkpoint_id = manager.save("etl", "s", {}, pinned=True)
    answer = client.delete(f"/api/checkpoints/{checkpoint_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "protected")
    assert len(manager.list("etl")) == 1


# Cleaning up


def test_cleaning_up_answers_exactly_these_fields(
    client: TestClient, manager: CheckpointManager
) -> None:
    ids = saved(manager, 15)
    answer = client.post("/api/checkpoints/cleanup", json={"job_id": "etl"})
    assert answer.status_code == 200
    assert answer.json() == {
        "job_id": "etl",
        "deleted_count": 5,
        "kept_count": 10,
        "timestamp": AT,
    }
    assert [info.checkpoint_id for info in manager.list("etl")] == ids[5:]


def test_keep_last_says_how_many_stay(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 5)
    body = {"job_id": "etl", "keep_last": 2}
    answer = client.post("/api/checkpoints/cleanup", json=body)
    assert (answer.json()["deleted_count"], answer.json()["kept_count"]) == (3, 2)


def test_an_unknown_job_has_nothing_to_clean_up(client: TestClient) -> None:
    answer = client.post("/api/checkpoints/cleanup", json={"job_id": "nobody"})
    assert answer.status_code == 200
    assert (answer.json()["deleted_count"], answer.json()["kept_count"]) == (0, 0)


@pytest.mark.parametrize("keep_last", [0, -1, 101, "x", 2.5, True, None, [3]])
def test_keep_last_is_a_whole_number_from_1_to_100(
    keep_last: object, client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 3)
    body = {"job_id": "etl", "keep_last": keep_last}
    answer = client.post("/api/checkpoints/cleanup", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_argument")
    assert "keep_last" in answer.json()["detail"]
    assert repr(keep_last) in answer.json()["detail"]
    assert answer.json()["errors"][0]["loc"] == ["body", "keep_last"]
    assert len(manager.list("etl")) == 3


@pytest.mark.parametrize("keep_last", [1, 100])
def test_the_bounds_of_keep_last_are_allowed(
    keep_last: int, client: TestClient
) -> None:
    body = {"job_id": "etl", "keep_last": keep_last}
    assert client.post("/api/checkpoints/cleanup", json=body).status_code == 200


@pytest.mark.parametrize("keep_last", ["3", 3.0])
def test_keep_last_is_coerced_as_the_original_did(
    keep_last: object, client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 5)
    body = {"job_id": "etl", "keep_last": keep_last, "unknown": "ignored"}
    answer = client.post("/api/checkpoints/cleanup", json=body)
    assert (answer.status_code, answer.json()["kept_count"]) == (200, 3)


def test_cleaning_up_needs_a_job_id(client: TestClient) -> None:
    answer = client.post("/api/checkpoints/cleanup", json={})
    assert answer.status_code == 422
    assert "job_id (in the body) is missing" in answer.json()["detail"]


def test_the_etag_after_a_cleanup_is_that_of_the_job_as_it_is_then(
    client: TestClient, manager: CheckpointManager
) -> None:
    for number in range(5):
        manager.save("etl", "s", {"n": number})
    before = client.get("/api/checkpoints?job_id=etl").headers["etag"]
    body = {"job_id": "etl", "keep_last": 2}
    url = "/api/checkpoints/cleanup"
    answer = client.post(url, json=body, headers={"If-Match": before})
    assert answer.headers["etag"] == f'"{manager.seq("etl")}"' == '"7"'
    stale = client.post(url, json=body, headers={"If-Match": before})
    assert stale.status_code == 412
    fresh = {"If-Match": answer.headers["etag"]}
    assert client.post(url, json=body, headers=fresh).status_code == 200
    unknown = client.post(url, json={"job_id": "nobody"})
    assert unknown.headers["etag"] == '"0"'
