"""Attempts of callers elsewhere: the server holds the lease, requests renew it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from milepost.worker.config.settings import Settings
from tests.support.client import client_of, events_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.client import TestClient

JOB = "etl"


def post(client: TestClient, execution_id: str, verb: str, **body: Any) -> Any:
    return client.post(f"/api/executions/{execution_id}/{verb}", json=body)


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def begin(client: TestClient, execution_id: str, name: str, **more: Any) -> Any:
    return post(
        client, execution_id, "checkpoints", checkpoint_name=name, agent_id="a", **more
    )


@pytest.fixture
def execution_id(manager: CheckpointManager) -> str:
    return manager.start_workflow_execution(JOB, "ingest", pending=True).execution_id


def test_an_execution_runs_over_http_from_its_start_to_its_end(
    client: TestClient, manager: CheckpointManager, execution_id: str
) -> None:
    begun = begin(client, execution_id, "load", input_data={"n": 1})
    assert begun.status_code == 201
    step = begun.json()
    assert (step["status"], step["attempt"], step["approval_id"]) == (
        "running",
        1,
        None,
    )
    assert begun.headers["etag"] == f'"{manager.seq(JOB)}"'
    ended = post(
        client,
        execution_id,
        "checkpoints/complete",
        checkpoint_name="load",
        output_data={"rows": 5},
    ).json()
    assert ended["checkpoint_status"] == "completed"
    assert manager.get(JOB, step["checkpoint_id"]).state == {"rows": 5}
    assert post(client, execution_id, "complete", result={"ok": 1}).json()[
        "status"
    ] == ("completed")
    assert post(client, execution_id, "complete").json()["status"] == "completed"
    shown = client.get(f"/api/executions/{execution_id}/checkpoints").json()
    (step,) = shown["checkpoints"]
    assert (step["state"], step["input_data"], step["output_data"]) == (
        "completed",
        {"n": 1},
        {"rows": 5},
    )
    assert client.get(f"/api/executions/{execution_id}").json()["lease"] is None


def test_a_failed_step_fails_its_execution_unless_it_is_kept(
    client: TestClient, execution_id: str
) -> None:
    for more, status in (({"on_step_failure": "keep"}, "running"), ({}, "failed")):
        begin(client, execution_id, "load")
        ended = post(
            client,
            execution_id,
            "checkpoints/complete",
            checkpoint_name="load",
            output_data={"error": "no disk"},
            success=False,
            **more,
        ).json()
        assert ended["checkpoint_status"] == "failed"
        shown = client.get(f"/api/executions/{execution_id}").json()
        assert shown["status"] == status


def test_a_step_that_is_not_open_is_404(client: TestClient, execution_id: str) -> None:
    begin(client, execution_id, "load")
    answer = post(client, execution_id, "checkpoints/complete", checkpoint_name="none")
    assert refused(answer) == (404, "unknown_execution")
    assert "open step none" in answer.json()["detail"]


def test_a_lease_is_held_by_the_server_for_the_token_that_took_it(
    client: TestClient, execution_id: str
) -> None:
    lease = post(client, execution_id, "lease", ttl=60).json()
    assert (lease["attempt"], lease["ttl"], lease["status"]) == (1, 60, "running")
    shown = client.get(f"/api/executions/{execution_id}").json()["lease"]
    assert (shown["who"], shown["pid"], shown["is_live"]) == ("api", os.getpid(), True)
    assert refused(post(client, execution_id, "lease")) == (409, "lease_live")
    assert post(client, execution_id, "heartbeat", attempt=1).status_code == 200
    late = post(client, execution_id, "heartbeat", attempt=2)
    assert refused(late) == (409, "lease_lost")


@pytest.fixture
def another_server(root: Path, execution_id: str) -> Iterator[int]:
    """A process that holds the lease of the first attempt, as another server."""
    ready, told = os.pipe()
    if (child := os.fork()) == 0:
        other = CheckpointManager(root)
        other.acquire_lease(execution_id, "api", auto_renew=False)
        other.create_checkpoint(
            execution_id, "first", "a", None, attempt=1, idempotency_key="k1"
        )
        os.write(told, b"!")
        signal.pause()
    assert os.read(ready, 1) == b"!"
    yield child
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


@pytest.mark.usefixtures("another_server")
def test_a_repeat_is_answered_by_a_server_that_does_not_hold_the_lease(
    client: TestClient, manager: CheckpointManager, execution_id: str
) -> None:
    before = events_of(manager)
    body = {"checkpoint_name": "first", "agent_id": "a", "attempt": 1}
    answer = client.post(
        f"/api/executions/{execution_id}/checkpoints",
        json=body,
        headers={"Idempotency-Key": "k1"},
    )
    assert (answer.status_code, answer.json()["attempt"]) == (201, 1)
    assert events_of(manager) == before


def test_an_attempt_belongs_to_the_server_that_holds_its_lease(
    client: TestClient, execution_id: str, another_server: int
) -> None:
    wrong = [
        post(client, execution_id, "heartbeat", attempt=1),
        begin(client, execution_id, "load", attempt=1),
        begin(client, execution_id, "load"),
    ]
    for answer in wrong:
        assert refused(answer) == (409, "lease_live")
        assert f"process {another_server}" in answer.json()["details"]["owner"]
    os.kill(another_server, signal.SIGKILL)
    os.waitpid(another_server, 0)
    for answer in (
        post(client, execution_id, "heartbeat", attempt=1),
        begin(client, execution_id, "load", attempt=1),
    ):
        assert refused(answer) == (409, "lease_lost")
    assert begin(client, execution_id, "load").json()["attempt"] == 2


def test_a_lease_that_no_request_renews_is_over_and_its_attempt_is_refused(
    client: TestClient, manager: CheckpointManager, execution_id: str
) -> None:
    """The kernel's lock of the server says nothing of a caller that went away."""
    manager.acquire_lease(execution_id, "api", ttl=0.001, auto_renew=False)
    begun = begin(client, execution_id, "load", attempt=1)
    assert refused(begun) == (409, "lease_lost")
    answer = begin(client, execution_id, "load")
    assert answer.json()["attempt"] == 2
    late = post(
        client,
        execution_id,
        "checkpoints/complete",
        checkpoint_name="load",
        attempt=1,
    )
    assert refused(late) == (409, "lease_lost")
    assert "lease.expired" in events_of(manager)


def test_an_attempt_ends_with_its_gate_and_the_next_one_continues(
    client: TestClient, manager: CheckpointManager, execution_id: str
) -> None:
    step = begin(client, execution_id, "publish", approval_required=True).json()
    assert step["status"] == "waiting"
    (approval,) = manager.approvals()
    assert step["approval_id"] == approval.approval_id
    assert client.get(f"/api/executions/{execution_id}").json()["lease"] is None
    manager.approve_checkpoint(execution_id, "publish", True)
    lease = post(client, execution_id, "lease").json()
    assert lease["attempt"] == 2
    ended = post(
        client,
        execution_id,
        "checkpoints/complete",
        checkpoint_name="publish",
        attempt=2,
    )
    assert ended.json()["checkpoint_status"] == "completed"


def test_finished_work_of_a_paused_execution_is_not_lost(
    client: TestClient, execution_id: str
) -> None:
    begin(client, execution_id, "load")
    post(client, execution_id, "pause")
    ended = post(
        client, execution_id, "checkpoints/complete", checkpoint_name="load", attempt=1
    )
    assert ended.status_code == 200
    assert refused(begin(client, execution_id, "next", attempt=1)) == (
        409,
        "execution_paused",
    )


def test_another_token_is_not_the_attempt_that_a_token_has_begun(
    manager: CheckpointManager, execution_id: str
) -> None:
    from milepost.api.http.security.tokens import hash_token

    tokens = [
        {"name": name, "sha256": hash_token(name * 20), "scopes": ["write"]}
        for name in ("ann", "bob")
    ]
    app = create_app(
        manager, settings=Settings.model_validate({"api": {"tokens": tokens}})
    )
    ann, bob = (
        client_of(app, Authorization=f"Bearer {name * 20}") for name in ("ann", "bob")
    )
    assert begin(ann, execution_id, "load").json()["attempt"] == 1
    answer = begin(bob, execution_id, "other")
    assert refused(answer) == (409, "lease_live")
    assert answer.json()["details"]["owner"].startswith("token:ann, process ")
    assert begin(ann, execution_id, "other").json()["attempt"] == 1
