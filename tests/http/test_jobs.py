"""Jobs and their histories over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost.journal.events.vocabulary import EVENT_TYPES
from tests.support.client import AT, saved

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from tests.support.client import TestClient


def job_ids(client: TestClient, **params: Any) -> list[str]:
    jobs = client.get("/api/jobs", params=params).json()["jobs"]
    return [job["job_id"] for job in jobs]


def test_a_job_answers_exactly_these_fields(
    client: TestClient, manager: CheckpointManager
) -> None:
    first, second, third = saved(manager, 3)
    manager.restore("etl", second)
    manager.delete("etl", first)
    answer = client.get("/api/jobs")
    (job,) = answer.json()["jobs"]
    assert job.pop("size_bytes") > 0
    assert job == {
        "job_id": "etl",
        "seq": 6,
        "checkpoints": 2,
        "saved": 3,
        "deleted": 1,
        "restored": 1,
        "created_at": AT,
        "last_activity": AT,
        "completed_at": None,
        "current_checkpoint_id": second,
        "latest_checkpoint_id": third,
        "damage": None,
        "failed": False,
        "reason": None,
    }
    assert list(answer.json()) == ["jobs", "next_cursor", "timestamp"]


def test_a_job_tells_how_it_was_completed_until_it_goes_on(
    client: TestClient, manager: CheckpointManager
) -> None:
    def told() -> tuple[bool, str | None]:
        (job,) = client.get("/api/jobs").json()["jobs"]
        (info,) = manager.jobs()
        assert (job["failed"], job["reason"]) == (info.failed, info.reason)
        return info.failed, info.reason

    body = {"job_id": "etl", "failed": True, "reason": "out of memory"}
    saved(manager)
    assert told() == (False, None)
    client.post("/api/jobs/complete", json=body)
    assert told() == (True, "out of memory")
    client.post("/api/jobs/complete", json={"job_id": "etl"})
    assert told() == (False, None)
    client.post("/api/jobs/complete", json=body)
    saved(manager)
    assert told() == (False, None)


def test_an_empty_store_has_no_jobs(client: TestClient) -> None:
    answer = client.get("/api/jobs")
    assert answer.json() == {"jobs": [], "next_cursor": None, "timestamp": AT}


def test_jobs_are_filtered_by_glob_or_by_exact_id(
    client: TestClient, manager: CheckpointManager
) -> None:
    for job_id in ("etl-1", "etl-2", "ETL-3", "a*b", "axb"):
        saved(manager, job_id=job_id)
    assert job_ids(client, match="etl-*") == ["etl-1", "etl-2"]
    assert job_ids(client, match="[ae]*") == ["a*b", "axb", "etl-1", "etl-2"]
    assert job_ids(client, job_id="a*b") == ["a*b"]
    assert job_ids(client, job_id="a*") == []
    assert job_ids(client, match="etl-*", job_id="axb") == ["axb"]


def test_pages_of_jobs_join_up(client: TestClient, manager: CheckpointManager) -> None:
    names = [f"job {i}" for i in range(7)]
    for name in names:
        saved(manager, job_id=name)
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 3}
    sizes = []
    for _ in range(7):
        body = client.get("/api/jobs", params=params).json()
        seen += [job["job_id"] for job in body["jobs"]]
        sizes.append(len(body["jobs"]))
        if body["next_cursor"] is None:
            break
        params["cursor"] = body["next_cursor"]
    assert (seen, sizes) == (names, [3, 3, 1])


def test_without_a_limit_a_page_of_jobs_is_bounded(
    client: TestClient, manager: CheckpointManager
) -> None:
    for i in range(101):
        manager.save(f"job {i:03}", "s", {})
    body = client.get("/api/jobs").json()
    assert len(body["jobs"]) == 100
    assert body["next_cursor"] == "job 099"
    assert client.get("/api/jobs", params={"limit": 501}).status_code == 422


# Events


def test_events_come_as_they_stand_in_the_journal(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 2)
    answer = client.get("/api/events", params={"job_id": "etl"})
    assert answer.status_code == 200
    assert answer.json() == {
        "job_id": "etl",
        "events": manager.history("etl"),
        "next_after_seq": 3,
    }


def test_an_unknown_job_has_no_events(client: TestClient) -> None:
    answer = client.get("/api/events", params={"job_id": "nobody"})
    assert answer.json() == {"job_id": "nobody", "events": [], "next_after_seq": 0}


def test_following_a_job_shows_each_event_once(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 5)
    params: dict[str, Any] = {"job_id": "etl", "limit": 2}
    seen: list[int] = []
    for _ in range(5):
        body = client.get("/api/events", params=params).json()
        seen += [event["seq"] for event in body["events"]]
        params["after_seq"] = body["next_after_seq"]
    assert seen == [1, 2, 3, 4, 5, 6]
    assert params["after_seq"] == 6
    saved(manager)
    body = client.get("/api/events", params=params).json()
    assert [event["seq"] for event in body["events"]] == [7]


def test_a_filter_skips_what_it_has_seen(
    client: TestClient, manager: CheckpointManager
) -> None:
    first, *_ = saved(manager, 3)
    manager.restore("etl", first)
    saved(manager, 3)
    params: dict[str, Any] = {"job_id": "etl", "type": "checkpoint.restored"}
    body = client.get("/api/events", params=params).json()
    assert [event["seq"] for event in body["events"]] == [5]
    assert body["next_after_seq"] == 8
    params |= {"type": ["checkpoint.saved", "job.opened"], "limit": 2}
    body = client.get("/api/events", params=params).json()
    assert [event["seq"] for event in body["events"]] == [1, 2]
    assert body["next_after_seq"] == 2


def test_a_reader_that_is_ahead_stays_where_it_is(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager)
    params = {"job_id": "etl", "after_seq": 99}
    body = client.get("/api/events", params=params).json()
    assert (body["events"], body["next_after_seq"]) == ([], 99)


@pytest.mark.parametrize(
    "params",
    [
        {"after_seq": -1},
        {"after_seq": "x"},
        {"after_seq": 2**63},
        {"after_seq": "9" * 5000},
        {"limit": 0},
        {"limit": 501},
        {"type": "checkpoint.safed"},
        {"type": ["checkpoint.saved"] * 51},
        {},
    ],
    ids=str,
)
def test_a_question_about_events_that_makes_no_sense_is_422(
    params: dict[str, Any], client: TestClient
) -> None:
    job = {"job_id": "etl"} if params else {}
    answer = client.get("/api/events", params={**params, **job})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_argument")


def test_an_unknown_type_is_answered_with_the_known_ones(client: TestClient) -> None:
    params = {"job_id": "etl", "type": "saved"}
    detail = client.get("/api/events", params=params).json()["detail"]
    assert "'saved'" in detail
    assert all(name in detail for name in EVENT_TYPES)
