"""Executions over HTTP: start, list, pause, resume, end, signal, and their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from tests.support.client import client_of, events_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.client import TestClient
    from tests.support.clock import Clock

JOB = "etl"
UNKNOWN = "exec_" + "0" * 20


def start(client: TestClient, job_id: str = JOB, **more: Any) -> str:
    """Start an execution and return its id."""
    body = {"correlation_id": job_id, "workflow_name": "ingest", **more}
    answer = client.post("/api/executions", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["execution_id"])


def post(client: TestClient, execution_id: str, verb: str, **body: Any) -> Any:
    return client.post(f"/api/executions/{execution_id}/{verb}", json=body)


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_an_execution_starts_as_pending_and_takes_no_lease(
    client: TestClient, manager: CheckpointManager
) -> None:
    execution_id = start(client, initial_data={"url": "x"}, workflow_version="3")
    assert events_of(manager)[1:] == ["execution.started"]
    answer = client.get(f"/api/executions/{execution_id}")
    assert answer.headers["etag"] == '"2"'
    found = answer.json()
    assert (found["status"], found["state"]) == ("pending", "running")
    assert (found["attempt"], found["lease"]) == (0, None)
    assert (found["started_by"], found["workflow_version"]) == ("api", "3")
    assert found == manager.get_execution_status(execution_id)
    (event,) = manager.history(JOB, types={"execution.started"})
    assert event["actor"] == "api"


def test_executions_are_listed_by_state_and_job_and_in_pages(
    client: TestClient, manager: CheckpointManager, clock: Clock
) -> None:
    ids = []
    for job_id in ("a/b", "c", "a/b"):
        ids.append(start(client, job_id))
        clock.turn(seconds=1)
    manager.pause_execution(ids[1])

    def listed(**query: Any) -> list[str]:
        found = client.get("/api/executions", params=query).json()["executions"]
        return [execution["execution_id"] for execution in found]

    assert listed() == ids
    assert listed(job_id="a/b") == [ids[0], ids[2]]
    assert listed(state="paused") == listed(state="waiting") == [ids[1]]
    assert listed(state="running", job_id="c") == []
    first = client.get("/api/executions", params={"limit": 2}).json()
    assert first["next_cursor"] == ids[1]
    rest = {"limit": 2, "cursor": first["next_cursor"]}
    assert listed(**rest) == [ids[2]]
    assert client.get("/api/executions", params=rest).json()["next_cursor"] is None


@pytest.mark.parametrize(
    "query",
    [
        {"state": "runing"},
        {"limit": 0},
        {"limit": 10**6},
        {"cursor": "x"},
        {"cursor": UNKNOWN},
        {"status": "running"},
    ],
)
def test_a_filter_that_is_not_understood_is_422(
    client: TestClient, query: dict[str, Any]
) -> None:
    assert client.get("/api/executions", params=query).status_code == 422


VERBS: dict[str, dict[str, Any]] = {
    "pause": {},
    "resume": {},
    "cancel": {},
    "fail": {"error": "no disk"},
    "complete": {},
    "lease": {},
    "heartbeat": {"attempt": 1},
    "signals": {"name": "go"},
    "checkpoints": {"checkpoint_name": "load", "agent_id": "a"},
    "checkpoints/complete": {"checkpoint_name": "load"},
    "approvals": {"subject": {}},
}


@pytest.mark.parametrize("execution_id", [UNKNOWN, "exec_nobody", "nonsense"])
def test_an_unknown_execution_is_404(client: TestClient, execution_id: str) -> None:
    target = f"/api/executions/{execution_id}"
    answers = [client.get(target), client.get(f"{target}/checkpoints")]
    answers += [post(client, execution_id, v, **body) for v, body in VERBS.items()]
    assert {refused(answer) for answer in answers} == {(404, "unknown_execution")}


def test_the_job_names_its_newest_unfinished_execution_in_a_path(
    client: TestClient,
) -> None:
    execution_id = start(client)
    answer = post(client, f"exec_{JOB}", "cancel")
    assert answer.json()["execution_id"] == execution_id
    assert client.get(f"/api/executions/exec_{JOB}").status_code == 404


def test_pause_resume_and_cancel_say_what_became_of_it(
    client: TestClient, manager: CheckpointManager
) -> None:
    execution_id = start(client)
    for verb, status in (
        ("pause", "waiting"),
        ("pause", "waiting"),
        ("resume", "pending"),
        ("cancel", "cancelled"),
        ("cancel", "cancelled"),
    ):
        answer = post(client, execution_id, verb)
        assert answer.status_code == 200
        assert answer.json() == {
            "execution_id": execution_id,
            "correlation_id": JOB,
            "status": status,
            "timestamp": answer.json()["timestamp"],
        }
        assert answer.headers["etag"] == f'"{manager.seq(JOB)}"'
    changes = events_of(manager)[2:]
    assert changes == ["execution.waiting", "execution.ready", "execution.cancelled"]
    assert post(client, execution_id, "resume", retry=True).json()["status"] == (
        "pending"
    )


def test_an_interrupted_execution_that_is_paused_is_not_resumed_by_a_policy(
    client: TestClient, manager: CheckpointManager
) -> None:
    execution_id = start(client)
    manager.release_lease(manager.acquire_lease(execution_id))
    assert post(client, execution_id, "pause").json()["status"] == "waiting"
    status = manager.get_execution_status(execution_id)
    assert status is not None
    assert (status["status"], status["waiting_on"]) == ("waiting", "paused")
    assert manager.resume_execution(execution_id)


def paused(manager: CheckpointManager, execution_id: str) -> None:
    manager.pause_execution(execution_id)


def gated(manager: CheckpointManager, execution_id: str) -> None:
    manager.create_checkpoint(execution_id, "publish", "a", {}, True)


def cancelled(manager: CheckpointManager, execution_id: str) -> None:
    manager.cancel_execution(execution_id)


def pending(_manager: CheckpointManager, _execution_id: str) -> None:
    pass


def running(manager: CheckpointManager, execution_id: str) -> None:
    manager.acquire_lease(execution_id, "lib:job")


STEP = {"checkpoint_name": "load", "agent_id": "a"}
REFUSALS: list[tuple[Any, str, dict[str, Any], str]] = [
    (pending, "resume", {}, "illegal_transition"),
    (pending, "heartbeat", {"attempt": 1}, "lease_lost"),
    (pending, "checkpoints", STEP | {"attempt": 1}, "lease_lost"),
    (running, "resume", {}, "illegal_transition"),
    (running, "lease", {}, "lease_live"),
    (running, "checkpoints", STEP, "lease_live"),
    (running, "complete", {}, "lease_live"),
    (running, "approvals", {"subject": {}}, "lease_live"),
    (running, "checkpoints", STEP | {"attempt": 7}, "lease_lost"),
    (paused, "lease", {}, "execution_paused"),
    (paused, "checkpoints", STEP, "execution_paused"),
    (paused, "complete", {}, "execution_paused"),
    (gated, "pause", {}, "approval_pending"),
    (gated, "resume", {}, "approval_pending"),
    (gated, "resume", {"retry": True}, "approval_pending"),
    (gated, "lease", {}, "approval_pending"),
    (gated, "checkpoints", STEP, "approval_pending"),
    (gated, "checkpoints", STEP | {"attempt": 1}, "approval_pending"),
    (gated, "checkpoints/complete", {"checkpoint_name": "publish"}, "approval_pending"),
    (gated, "complete", {}, "approval_pending"),
    (gated, "approvals", {"subject": {}}, "approval_pending"),
    (cancelled, "pause", {}, "execution_final"),
    (cancelled, "resume", {}, "execution_final"),
    (cancelled, "fail", {"error": "x"}, "execution_final"),
    (cancelled, "complete", {}, "execution_final"),
    (cancelled, "lease", {}, "execution_final"),
    (cancelled, "checkpoints", STEP, "execution_final"),
    (cancelled, "signals", {"name": "go"}, "execution_final"),
]


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize(("state", "verb", "body", "code"), REFUSALS)
def test_what_does_not_fit_the_state_is_409_and_writes_nothing(
    client: TestClient,
    manager: CheckpointManager,
    state: Any,
    verb: str,
    body: dict[str, Any],
    code: str,
) -> None:
    execution_id = start(client)
    state(manager, execution_id)
    before = events_of(manager)
    answer = post(client, execution_id, verb, **body)
    assert refused(answer) == (409, code)
    assert execution_id in answer.json()["detail"]
    assert events_of(manager) == before


def test_a_live_lease_is_shown_with_its_owner_and_deadline(
    client: TestClient, manager: CheckpointManager
) -> None:
    execution_id = start(client)
    running(manager, execution_id)
    for target, body in (
        (f"/api/executions/{execution_id}/lease", {}),
        (f"/api/executions/{execution_id}/checkpoints", STEP),
    ):
        details = client.post(target, json=body).json()["details"]
        assert details["execution_id"] == execution_id
        assert details["owner"].startswith("lib:job, process ")
        assert details["deadline"].startswith("20")


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("start", {"correlation_id": JOB, "workflow_name": "ingest"}),
        ("pause", {"reason": "lunch"}),
        ("cancel", {}),
        ("fail", {"error": "no disk"}),
        ("signals", {"name": "go"}),
    ],
)
def test_a_request_with_a_stale_etag_is_412_and_writes_nothing(
    client: TestClient, manager: CheckpointManager, verb: str, body: dict[str, Any]
) -> None:
    execution_id = start(client)
    tag = client.get(f"/api/executions/{execution_id}").headers["etag"]
    manager.signal(execution_id, "another")
    before = events_of(manager)
    target = f"/api/executions/{execution_id}/{verb}"
    if verb == "start":
        target = "/api/executions"
    answer = client.post(target, json=body, headers={"If-Match": tag})
    assert refused(answer) == (412, "conflict")
    assert events_of(manager) == before
    fresh = {"If-Match": f'"{manager.seq(JOB)}"'}
    assert client.post(target, json=body, headers=fresh).status_code in (200, 201)


def test_a_signal_is_kept_for_the_attempt_that_consumes_it(
    client: TestClient, manager: CheckpointManager
) -> None:
    execution_id = start(client)
    answer = post(client, execution_id, "signals", name="go", payload={"n": 1})
    assert answer.json()["seq"] == manager.seq(JOB)
    assert manager.consume_signal(execution_id, "go") == {"n": 1}


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/executions", {"workflow_name": "x"}),
        ("/api/executions", {"correlation_id": "a", "workflow_name": ""}),
        ("/api/executions", {"correlation_id": "a\n", "workflow_name": "x"}),
        (
            "/api/executions",
            {"correlation_id": "a", "workflow_name": "x", "actor": "me"},
        ),
        ("/api/executions/{}/fail", {}),
        ("/api/executions/{}/resume", {"retry": "yes"}),
        ("/api/executions/{}/lease", {"ttl": 0}),
        ("/api/executions/{}/lease", {"ttl": 10**9}),
        ("/api/executions/{}/heartbeat", {}),
        ("/api/executions/{}/checkpoints", {"checkpoint_name": "x"}),
        ("/api/executions/{}/checkpoints", STEP | {"attempt": 0}),
        ("/api/executions/{}/checkpoints", STEP | {"approval": {"required": 0}}),
        (
            "/api/executions/{}/approvals",
            {"subject": {}, "approvers": ["a"], "required": 2},
        ),
        ("/api/executions/{}/approvals", {"subject": {}, "deadline": "2020-01-01"}),
        (
            "/api/executions/{}/approvals",
            {"subject": {}, "deadline": "2001-01-01T00:00:00Z"},
        ),
    ],
)
def test_a_body_that_is_not_understood_is_422(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    target = path.format(start(client))
    assert client.post(target, json=body).status_code == 422


def test_damage_of_a_job_is_not_called_an_unknown_execution(
    client: TestClient, root: Path
) -> None:
    execution_id = start(client)
    journal = root / "journals" / f"{JOB}.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"ingest", b"inGest"))
    with CheckpointManager(root) as reopened:
        answer = client_of(create_app(reopened)).get(f"/api/executions/{execution_id}")
    assert refused(answer) == (500, "damaged")
