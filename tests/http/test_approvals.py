"""Approvals over HTTP: the inbox, the subject, the decision."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost.api import create_app
from milepost.api.http.security.tokens import hash_token
from milepost.worker.config.settings import Settings
from tests.support.client import client_of, events_of
from tests.support.clock import NOW

if TYPE_CHECKING:
    from fastapi import FastAPI

    from milepost import CheckpointManager
    from tests.support.client import TestClient
    from tests.support.clock import Clock

JOB = "etl"
UNKNOWN = "appr_" + "0" * 20
SCOPES = {"ann": ["write"], "bob": ["write"], "eve": ["read"]}


@pytest.fixture
def app(manager: CheckpointManager, clock: Clock) -> FastAPI:
    tokens = [
        {"name": name, "sha256": hash_token(name * 20), "scopes": scopes}
        for name, scopes in SCOPES.items()
    ]
    settings = Settings.model_validate({"api": {"tokens": tokens}})
    return create_app(manager, settings=settings, clock=clock)


def of(app: FastAPI, name: str) -> TestClient:
    return client_of(app, Authorization=f"Bearer {name * 20}")


@pytest.fixture
def ann(app: FastAPI) -> TestClient:
    return of(app, "ann")


@pytest.fixture
def bob(app: FastAPI) -> TestClient:
    return of(app, "bob")


def asked(manager: CheckpointManager, job_id: str = JOB, **terms: Any) -> str:
    """Ask for an approval of `{"rows": 3}` and return its id."""
    run = manager.start_workflow_execution(job_id, "ingest")
    subject = {"rows": 3}
    return manager.request_approval(run.execution_id, subject, **terms).approval_id


def decide(client: TestClient, approval_id: str, decision: str, **more: Any) -> Any:
    target = f"/api/approvals/{approval_id}"
    digest = client.get(target).json()["subject_digest"]
    body = {"decision": decision, "subject_digest": digest} | more
    return client.post(f"{target}/decide", json=body)


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_an_approval_shows_what_is_decided_and_its_digest(
    ann: TestClient, manager: CheckpointManager
) -> None:
    approval_id = asked(manager, approvers=["token:ann"], allow_self=True)
    answer = ann.get(f"/api/approvals/{approval_id}")
    assert answer.headers["etag"] == f'"{manager.seq(JOB)}"'
    found = answer.json()
    (event,) = manager.history(JOB, types={"approval.requested"})
    assert event["type"] == "approval.requested"
    assert found["subject"] == {"rows": 3}
    assert found["subject_digest"] == event["data"]["subject_digest"]
    assert (found["status"], found["approvers"]) == ("pending", ["token:ann"])


def test_the_inbox_lists_what_waits_for_whom_in_pages(
    ann: TestClient, manager: CheckpointManager, clock: Clock
) -> None:
    ids = []
    for job_id, approvers in (
        ("a/b", ()),
        ("c", ("token:bob",)),
        ("d", ("token:ann",)),
    ):
        ids.append(asked(manager, job_id, approvers=approvers))
        clock.turn(seconds=1)
    assert decide(of_all(ann), ids[0], "approve").status_code == 200

    def listed(**query: Any) -> list[str]:
        found = ann.get("/api/approvals", params=query).json()["approvals"]
        assert all("subject" not in approval for approval in found)
        return [approval["approval_id"] for approval in found]

    assert listed() == listed(status="pending") == ids[1:]
    assert listed(status="approved") == listed(job_id="a/b", status="all") == ids[:1]
    assert listed(approver="token:ann") == ids[2:]
    first = ann.get("/api/approvals", params={"status": "all", "limit": 2}).json()
    assert first["next_cursor"] == ids[1]
    assert listed(status="all", limit=2, cursor=ids[1]) == ids[2:]


def of_all(client: TestClient) -> TestClient:
    return client


@pytest.mark.parametrize(
    "query", [{"status": "open"}, {"cursor": "x"}, {"cursor": UNKNOWN}, {"state": "x"}]
)
def test_a_filter_that_is_not_understood_is_422(
    ann: TestClient, query: dict[str, str]
) -> None:
    assert ann.get("/api/approvals", params=query).status_code == 422


def test_a_decision_is_recorded_with_the_name_of_the_token(
    ann: TestClient, manager: CheckpointManager
) -> None:
    approval_id = asked(manager)
    answer = decide(ann, approval_id, "approve", comment="looks good")
    assert answer.status_code == 200
    (execution,) = manager.list_executions()
    assert answer.json() == {
        "approval_id": approval_id,
        "execution_id": execution["execution_id"],
        "job_id": JOB,
        "decision": "approve",
        "status": "approved",
        "timestamp": NOW.isoformat(),
    }
    assert execution["status"] == "pending"
    (event,) = manager.history(JOB, types={"approval.approved"})
    assert event["actor"] == "token:ann"
    shown = ann.get(f"/api/approvals/{approval_id}").json()
    assert (shown["decided_by"], shown["comment"]) == ("token:ann", "looks good")
    assert "actor" not in answer.request.content.decode()
    forged = decide(ann, asked(manager, "other"), "approve", actor="token:bob")
    assert forged.status_code == 422


def test_a_decision_on_another_subject_is_409(
    ann: TestClient, manager: CheckpointManager
) -> None:
    approval_id, before = asked(manager), events_of(manager)
    answer = decide(ann, approval_id, "approve", subject_digest="0" * 64)
    assert refused(answer) == (409, "stale_subject")
    assert events_of(manager) == before


def test_a_decision_stands_and_its_repeat_is_200(
    ann: TestClient, bob: TestClient, manager: CheckpointManager
) -> None:
    approval_id = asked(manager)
    first = decide(ann, approval_id, "reject")
    assert first.json()["status"] == "rejected"
    before = events_of(manager)
    assert decide(ann, approval_id, "reject").status_code == 200
    for client, decision in ((ann, "approve"), (bob, "approve"), (bob, "reject")):
        answer = decide(client, approval_id, decision)
        assert refused(answer) == (409, "approval_decided")
        assert "was rejected by token:ann" in answer.json()["detail"]
    assert events_of(manager) == before


def test_a_quorum_counts_distinct_tokens(
    ann: TestClient, bob: TestClient, manager: CheckpointManager
) -> None:
    approval_id = asked(manager, required=2)
    for client, status in ((ann, "pending"), (ann, "pending"), (bob, "approved")):
        assert decide(client, approval_id, "approve").json()["status"] == status


def test_who_is_not_an_approver_or_asked_is_403(
    ann: TestClient, bob: TestClient, manager: CheckpointManager
) -> None:
    for_bob, before = asked(manager, approvers=["token:bob"]), events_of(manager)
    assert refused(decide(ann, for_bob, "approve")) == (403, "not_allowed")
    assert events_of(manager) == before
    body = {"correlation_id": "own", "workflow_name": "ingest"}
    own = ann.post("/api/executions", json=body).json()["execution_id"]
    made = ann.post(f"/api/executions/{own}/approvals", json={"subject": {"n": 1}})
    assert (made.status_code, made.json()["status"]) == (201, "waiting")
    approval_id = made.json()["approval_id"]
    assert refused(decide(ann, approval_id, "approve")) == (403, "not_allowed")
    assert decide(bob, approval_id, "approve").status_code == 200


def test_after_its_deadline_an_approval_is_not_given(
    ann: TestClient, manager: CheckpointManager, clock: Clock
) -> None:
    deadline = NOW + timedelta(hours=1)
    approval_id = asked(manager, deadline=deadline)
    clock.turn(hours=2)
    assert refused(decide(ann, approval_id, "approve")) == (409, "approval_decided")
    shown = ann.get(f"/api/approvals/{approval_id}").json()
    assert shown["status"] == "expired"


def test_an_unknown_approval_is_404(ann: TestClient) -> None:
    body = {"decision": "approve", "subject_digest": "x"}
    for id_ in (UNKNOWN, "nonsense"):
        target = f"/api/approvals/{id_}"
        assert refused(ann.get(target)) == (404, "unknown_approval")
        answer = ann.post(f"{target}/decide", json=body)
        assert refused(answer) == (404, "unknown_approval")


def test_reading_approvals_needs_the_scope_read_and_deciding_write(
    app: FastAPI, manager: CheckpointManager
) -> None:
    approval_id, eve = asked(manager), of(app, "eve")
    assert eve.get("/api/approvals").status_code == 200
    assert eve.get(f"/api/approvals/{approval_id}").status_code == 200
    before = events_of(manager)
    assert refused(decide(eve, approval_id, "approve")) == (403, "forbidden")
    (execution,) = manager.list_executions()
    target = f"/api/executions/{execution['execution_id']}"
    assert eve.get(target).status_code == 200
    for verb in ("pause", "resume", "cancel", "lease", "signals", "complete"):
        assert refused(eve.post(f"{target}/{verb}")) == (403, "forbidden")
    nobody = client_of(app)
    for path in ("/api/approvals", "/api/executions", target):
        assert refused(nobody.get(path)) == (401, "unauthorized")
    assert events_of(manager) == before


def test_a_stale_etag_is_412(ann: TestClient, manager: CheckpointManager) -> None:
    approval_id = asked(manager, required=2)
    shown = ann.get(f"/api/approvals/{approval_id}")
    digest = shown.json()["subject_digest"]
    manager.decide(approval_id, "approve", subject_digest=digest, actor="bob")
    answer = ann.post(
        f"/api/approvals/{approval_id}/decide",
        json={"decision": "approve", "subject_digest": digest},
        headers={"If-Match": shown.headers["etag"]},
    )
    assert refused(answer) == (412, "conflict")
