"""A POST about an execution with a key acts once, as every other POST."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from milepost.journal.errors import ExecutionFinal
from tests.support.client import client_of, events_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.client import TestClient
    from tests.support.clock import Clock

JOB = "etl"
KEY = {"Idempotency-Key": "k1"}
STEP = {"checkpoint_name": "load", "agent_id": "a", "input_data": {"n": 1}}
ENDED = {"checkpoint_name": "load", "output_data": {"rows": 1}}
START = {"correlation_id": JOB, "workflow_name": "ingest"}


class Post(NamedTuple):
    """A request about an execution, and another one; what it finds, what it records."""

    path: str
    body: dict[str, Any]
    other: dict[str, Any]
    event: str
    prepare: Callable[[CheckpointManager, str], object] = lambda *_: None

    def send(self, client: TestClient, ids: dict[str, str], body: Any = None) -> Any:
        body = dict(self.body if body is None else body)
        if "subject_digest" in body:
            body["subject_digest"] = ids["digest"]
        return client.post(self.path.format(**ids), json=body, headers=KEY)


def of(verb: str, event: str, body: Any, other: Any, prepare: Any = None) -> Post:
    path = f"/api/executions/{{execution}}/{verb}"
    return Post(path, body, other, event, prepare or (lambda *_: None))


def stepping(manager: CheckpointManager, execution_id: str) -> None:
    """Begin a step, in a lease that requests renew."""
    lease = manager.acquire_lease(execution_id, "api", auto_renew=False)
    manager.create_checkpoint(
        execution_id, "load", "a", {}, attempt=lease.attempt, actor="api"
    )


def paused(manager: CheckpointManager, execution_id: str) -> None:
    manager.pause_execution(execution_id)


def asking(manager: CheckpointManager, execution_id: str) -> None:
    manager.request_approval(execution_id, {"n": 1}, required=2)


WHY, OTHER = {"reason": "why"}, {"reason": "other"}
YES = {"decision": "approve", "subject_digest": ""}
POSTS = {
    "start": Post(
        "/api/executions",
        START,
        START | {"workflow_name": "other"},
        "execution.started",
    ),
    "pause": of("pause", "execution.waiting", WHY, OTHER),
    "resume": of("resume", "execution.ready", WHY, OTHER, paused),
    "cancel": of("cancel", "execution.cancelled", WHY, OTHER),
    "fail": of("fail", "execution.failed", {"error": "x"}, {"error": "y"}),
    "signal": of("signals", "signal.received", {"name": "a"}, {"name": "b"}),
    "lease": of("lease", "lease.acquired", {"ttl": 60}, {"ttl": 61}),
    "step": of("checkpoints", "checkpoint.created", STEP, STEP | {"agent_id": "b"}),
    "gate": of(
        "checkpoints",
        "checkpoint.created",
        STEP | {"approval_required": True},
        STEP,
    ),
    "step end": of(
        "checkpoints/complete",
        "checkpoint.saved",
        ENDED,
        ENDED | {"output_data": {}},
        stepping,
    ),
    "step failure": of(
        "checkpoints/complete",
        "checkpoint.failed",
        ENDED | {"success": False},
        ENDED,
        stepping,
    ),
    "complete": of(
        "complete", "execution.completed", {"result": {"n": 1}}, {"result": {}}
    ),
    "approval": of(
        "approvals",
        "approval.requested",
        {"subject": {"n": 1}},
        {"subject": {"n": 1}, "required": 2},
    ),
    "decision": Post(
        "/api/approvals/{approval}/decide",
        YES,
        YES | {"comment": "x"},
        "approval.voted",
        asking,
    ),
}
every_post = pytest.mark.parametrize("post", POSTS.values(), ids=POSTS)


class Servers:
    """Servers on one folder; each has a manager of its own, as processes have."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self.managers: list[CheckpointManager] = []

    def start(self) -> TestClient:
        """Start another server."""
        manager = CheckpointManager(self._root, clock=self._clock)
        self.managers.append(manager)
        return client_of(create_app(manager, clock=self._clock))


@pytest.fixture
def servers(root: Path, clock: Clock) -> Iterator[Servers]:
    found = Servers(root, clock)
    yield found
    for manager in found.managers:
        manager.close()


def prepared(manager: CheckpointManager, post: Post) -> dict[str, str]:
    """Start an execution on which the request has an effect; return the ids."""
    run = manager.start_workflow_execution(JOB, "ingest", pending=True)
    post.prepare(manager, run.execution_id)
    ids = {"execution": run.execution_id}
    for approval in manager.approvals():
        ids |= {"approval": approval.approval_id, "digest": approval.subject_digest}
    return ids


@pytest.mark.sampled(every=4)
@every_post
def test_a_repeat_is_answered_from_its_event_by_every_server_and_adds_none(
    servers: Servers, clock: Clock, post: Post
) -> None:
    one, two = servers.start(), servers.start()
    manager = servers.managers[0]
    ids = prepared(manager, post)
    before = events_of(manager).count(post.event)
    answer = post.send(one, ids)
    assert answer.status_code in (200, 201), answer.text
    clock.turn(hours=23, minutes=59)
    # Whatever becomes of the execution meanwhile.
    manager.complete(JOB)
    if "approval" in ids:
        digest = ids["digest"]
        manager.decide(ids["approval"], "approve", subject_digest=digest, actor="bob")
    with suppress(ExecutionFinal):
        manager.cancel_execution(ids["execution"])
    after = events_of(manager)
    for client in (one, two, servers.start()):
        again = post.send(client, ids)
        assert (again.status_code, again.content) == (
            answer.status_code,
            answer.content,
        )
        assert again.headers["etag"] == answer.headers["etag"]
    assert events_of(manager) == after
    assert after.count(post.event) == before + 1


@pytest.mark.sampled(every=4)
@every_post
def test_another_request_under_the_same_key_is_409(
    servers: Servers, post: Post
) -> None:
    one, two = servers.start(), servers.start()
    ids = prepared(servers.managers[0], post)
    assert post.send(one, ids).status_code in (200, 201)
    before = events_of(servers.managers[0])
    for client in (one, two):
        answer = post.send(client, ids, post.other)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "'k1' was used for another request" in answer.json()["detail"]
    assert events_of(servers.managers[0]) == before


def test_a_key_stands_for_a_request_about_one_execution(servers: Servers) -> None:
    client = servers.start()
    manager = servers.managers[0]
    first, second = (
        manager.start_workflow_execution(JOB, "ingest", pending=True).execution_id
        for _ in range(2)
    )
    assert (
        client.post(f"/api/executions/{first}/cancel", headers=KEY).status_code == 200
    )
    answer = client.post(f"/api/executions/{second}/cancel", headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert [e["status"] for e in manager.list_executions()] == ["cancelled", "pending"]
