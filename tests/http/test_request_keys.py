"""A POST with a key acts once: its event answers every repeat, at any server."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Match, Policies, Policy
from milepost.api import create_app
from milepost.journal.storage.files.storage import FileStorage
from tests.support.client import Executor, client_of, events_of, saved
from tests.support.faults import Fault, FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.client import TestClient
    from tests.support.clock import Clock

KEY = {"Idempotency-Key": "k1"}
KEEP_8 = Policies(Match("*", Policy(name="default", keep_last=8)))


class Servers:
    """Servers on one folder; each has a manager of its own, as processes have."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self.managers: list[CheckpointManager] = []

    def start(self) -> TestClient:
        """Start another server."""
        manager = CheckpointManager(self._root, clock=self._clock)
        manager.policies = KEEP_8
        self.managers.append(manager)
        return warmed(create_app(manager, Executor(manager), clock=self._clock))


def warmed(app: Any) -> TestClient:
    """Return a client of `app`, whose routes the first request builds."""
    client = client_of(app)
    assert client.get("/api/jobs").status_code == 200
    return client


@pytest.fixture
def servers(root: Path, clock: Clock) -> Iterator[Servers]:
    found = Servers(root, clock)
    yield found
    for manager in found.managers:
        manager.close()


class Post:
    """A request about the first checkpoint of a job with twelve, and another one."""

    def __init__(self, path: str, body: Any, other: Any, event: str) -> None:
        self.path, self.body, self.other, self.event = path, body, other, event

    def send(self, client: TestClient, first: str, body: Any = None) -> Any:
        path, body = self.path.format(first), self.body if body is None else body
        if path.endswith("apply"):
            asked = {"job_id": "etl"}
            shown = client.post("/api/retention/preview", json=asked).json()
            body = asked | {"plan_id": shown["plan_id"], "as_of": shown["as_of"]} | body
        return client.post(path, json=body, headers=KEY)


def about(verb: str, event: str, body: Any, other: Any) -> Post:
    return Post(f"/api/checkpoints/{{}}/{verb}", body, other, event)


WHY, OTHER = {"reason": "why"}, {"reason": "other"}
POSTS = {
    "pin": about("pin", "checkpoint.pinned", WHY, OTHER),
    "unpin": about("unpin", "checkpoint.unpinned", WHY, OTHER),
    "hold": about("hold", "checkpoint.held", WHY, OTHER),
    "release": about("release", "checkpoint.released", WHY, OTHER),
    "restore": about("restore", "checkpoint.restored", {}, {"resume": True}),
    "resume": about("restore", "checkpoint.restored", {"resume": True}, {}),
    "cleanup": Post(
        "/api/checkpoints/cleanup",
        {"job_id": "etl", "keep_last": 9},
        {"job_id": "etl", "keep_last": 8},
        "checkpoints.cleaned",
    ),
    "complete": Post(
        "/api/jobs/complete",
        {"job_id": "etl", **WHY},
        {"job_id": "etl", "failed": True},
        "job.completed",
    ),
}
every_post = pytest.mark.parametrize("post", POSTS.values(), ids=POSTS)


def prepared(manager: CheckpointManager, post: Post) -> str:
    """Save twelve checkpoints; return the first, on which the request has an effect."""
    first, *_ = saved(manager, 12)
    if post.event == "checkpoint.unpinned":
        manager.pin("etl", first)
    if post.event == "checkpoint.released":
        manager.hold("etl", first)
    return first


@pytest.mark.sampled(every=3)
@every_post
def test_a_repeat_is_answered_from_its_event_by_every_server_and_adds_none(
    servers: Servers, clock: Clock, post: Post
) -> None:
    one, two = servers.start(), servers.start()
    manager = servers.managers[0]
    first = prepared(manager, post)
    answer = post.send(one, first)
    assert answer.status_code == 200
    clock.turn(hours=23, minutes=59)
    saved(manager)
    before = events_of(manager)
    for client in (one, two, servers.start()):
        again = post.send(client, first)
        assert (again.status_code, again.content) == (200, answer.content)
        assert again.headers["etag"] == answer.headers["etag"]
    assert events_of(manager) == before
    assert before.count(post.event) == 1


@every_post
def test_another_request_under_the_same_key_is_409(
    servers: Servers, post: Post
) -> None:
    one, two = servers.start(), servers.start()
    first = prepared(servers.managers[0], post)
    assert post.send(one, first).status_code == 200
    before = events_of(servers.managers[0])
    stale = {"If-Match": '"1"'}
    for client in (one, two):
        other = post.send(client, first, post.other)
        with_match = client.post(
            post.path.format(first), json=post.body, headers=KEY | stale
        )
        for answer in (other, with_match):
            assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
            assert "'k1' was used for another request" in answer.json()["detail"]
    assert events_of(servers.managers[0]) == before


@every_post
def test_after_24_hours_a_key_stands_for_nothing(
    servers: Servers, clock: Clock, post: Post
) -> None:
    client = servers.start()
    manager = servers.managers[0]
    first = prepared(manager, post)
    post.send(client, first)
    clock.turn(hours=24)
    saved(manager)
    later = post.send(client, first)
    assert later.status_code == 200
    acts_again = {"checkpoint.restored", "checkpoints.cleaned", "job.completed"}
    count = 2 if post.event in acts_again else 1  # the others find it done
    assert events_of(manager).count(post.event) == count


@every_post
def test_of_equal_requests_at_two_servers_at_once_exactly_one_acts(
    servers: Servers, post: Post
) -> None:
    clients = [servers.start() for _ in range(4)]
    first = prepared(servers.managers[0], post)
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda client: post.send(client, first), clients)]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert events_of(servers.managers[0]).count(post.event) == 1


def test_a_repeated_undelete_is_answered_from_its_event(servers: Servers) -> None:
    one, two = servers.start(), servers.start()
    manager = servers.managers[0]
    first, *_ = saved(manager, 2)
    manager.delete("etl", first)
    target = f"/api/checkpoints/{first}/undelete"
    answer = one.post(target, headers=KEY)
    assert answer.json()["changed"] is True
    assert two.post(target, headers=KEY).content == answer.content
    manager.delete("etl", first)
    assert two.post(target, headers=KEY).status_code == 200
    assert events_of(manager).count("checkpoint.undeleted") == 1


@pytest.mark.parametrize("verb", ["pin", "hold"])
def test_a_repeat_tells_what_its_event_did_though_it_was_undone_since(
    servers: Servers, verb: str
) -> None:
    client = servers.start()
    manager = servers.managers[0]
    first, *_ = saved(manager, 2)
    answer = client.post(f"/api/checkpoints/{first}/{verb}", headers=KEY)
    manager.unpin("etl", first)
    manager.release("etl", first)
    manager.delete("etl", first)
    again = client.post(f"/api/checkpoints/{first}/{verb}", headers=KEY)
    assert (again.status_code, again.content) == (200, answer.content)


def test_a_request_that_changed_nothing_recorded_no_key(servers: Servers) -> None:
    client = servers.start()
    manager = servers.managers[0]
    first, *_ = saved(manager, 2)
    manager.pin("etl", first)
    target = f"/api/checkpoints/{first}/pin"
    assert client.post(target, headers=KEY).json()["changed"] is False
    manager.unpin("etl", first)
    assert client.post(target, headers=KEY).json()["changed"] is True


def test_a_key_belongs_to_a_job_and_not_to_the_keys_of_saves(servers: Servers) -> None:
    client = servers.start()
    manager = servers.managers[0]
    ids = [saved(manager, 2, job_id)[0] for job_id in ("a", "b")]
    manager.save("a", "s", {}, idempotency_key="k1")
    for checkpoint_id in ids:
        target = f"/api/checkpoints/{checkpoint_id}/restore"
        answer = client.post(target, headers=KEY)
        assert answer.json()["checkpoint_id"] == checkpoint_id


def test_a_resumed_job_is_started_once_by_all_servers(servers: Servers) -> None:
    executors, clients = [], []
    for _ in range(3):
        servers.start()
        manager = servers.managers[-1]
        executors.append(Executor(manager))
        clients.append(warmed(create_app(manager, executors[-1])))
    (first,) = saved(servers.managers[0])
    target, body = f"/api/checkpoints/{first}/restore", {"resume": True}

    def post(client: TestClient) -> Any:
        return client.post(target, json=body, headers=KEY)

    with ThreadPoolExecutor(6) as pool:
        answers = [*pool.map(post, clients * 2)]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert answers[0].json()["job_status"] == "resumed"
    assert [*chain(*(each.resumed for each in executors))] == [("etl", first)]


def test_a_repeat_is_answered_while_the_job_that_it_started_runs(
    servers: Servers,
) -> None:
    class Running(Executor):
        def is_running(self, _job_id: str) -> bool:
            return bool(self.resumed)

    servers.start()
    manager = servers.managers[0]
    executor = Running(manager)
    client = client_of(create_app(manager, executor))
    (first,) = saved(manager)
    target, body = f"/api/checkpoints/{first}/restore", {"resume": True}
    answers = [client.post(target, json=body, headers=KEY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    other = client.post(target, json=body, headers={"Idempotency-Key": "k2"})
    assert (other.status_code, other.json()["code"]) == (409, "job_running")
    assert len(executor.resumed) == 1


# -- a plan for several jobs -----------------------------------------------------------


def apply(client: TestClient, shown: dict[str, Any], **more: Any) -> Any:
    body = {"match": "*", "plan_id": shown["plan_id"], "as_of": shown["as_of"], **more}
    return client.post("/api/retention/apply", json=body, headers=KEY)


def preview(client: TestClient) -> dict[str, Any]:
    shown = client.post("/api/retention/preview", json={"match": "*"}).json()
    assert shown["remove_count"] == 12
    return dict(shown)


def jobs_to_clean(manager: CheckpointManager) -> None:
    for job_id in ("a", "b", "c"):
        saved(manager, 12, job_id)


def test_a_repeated_apply_answers_from_the_events_of_all_jobs(
    servers: Servers, clock: Clock
) -> None:
    one, two = servers.start(), servers.start()
    manager = servers.managers[0]
    jobs_to_clean(manager)
    shown = preview(one)
    answer = apply(one, shown)
    assert (answer.status_code, answer.json()["deleted_count"]) == (200, 12)
    clock.turn(hours=22)  # too late for the plan, not for the key
    saved(manager, 12, "new")
    assert apply(one, shown).content == answer.content
    clock.turn(hours=1)
    for job_id in ("a", "b", "c"):
        saved(manager, 12, job_id)
    for client in (one, two, servers.start()):
        assert apply(client, shown).content == answer.content
    assert len(manager.list("a")) == 20
    other = apply(two, preview_now(two))
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


def preview_now(client: TestClient) -> dict[str, Any]:
    return dict(client.post("/api/retention/preview", json={"match": "*"}).json())


def kill_at(root: Path, clock: Clock, shown: dict[str, Any], nth: int) -> None:
    """Apply a plan in a process that is killed before its `nth` write of a journal."""
    if (child := os.fork()) == 0:
        disk = FaultyDisk(root)
        killed = Fault(
            "append",
            nth,
            on="journals",
            taken=0,
            action=lambda: os.kill(os.getpid(), signal.SIGKILL),
        )
        with CheckpointManager(storage=FileStorage(root, disk=disk), clock=clock) as m:
            m.policies = KEEP_8
            client = client_of(create_app(m, clock=clock))
            disk.set(killed)
            apply(client, shown)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_repeat_finishes_the_jobs_that_a_killed_server_did_not_reach(
    servers: Servers, root: Path, clock: Clock, nth: int
) -> None:
    one = servers.start()
    manager = servers.managers[0]
    jobs_to_clean(manager)
    shown = preview(one)
    kill_at(root, clock, shown, nth)
    cleaned = [job for job in "abc" if len(manager.list(job)) == 8]
    assert cleaned == [*"abc"[: nth - 1]]
    answer = apply(one, shown)
    assert answer.status_code == 200
    assert answer.json()["jobs"] == [
        {"job_id": job, "deleted_count": 4, "kept_count": 8} for job in "abc"
    ]
    for job in "abc":
        assert events_of(manager, job).count("checkpoints.cleaned") == 1
    assert apply(servers.start(), shown).content == answer.content


def test_jobs_that_were_not_reached_are_skipped_once_the_plan_is_too_old(
    servers: Servers, root: Path, clock: Clock
) -> None:
    one = servers.start()
    manager = servers.managers[0]
    jobs_to_clean(manager)
    shown = preview(one)
    kill_at(root, clock, shown, 2)
    clock.turn(hours=2)
    answer = apply(one, shown).json()
    assert [job["job_id"] for job in answer["jobs"]] == ["a"]
    assert [job["job_id"] for job in answer["skipped"]] == ["b", "c"]
    assert {job["code"] for job in answer["skipped"]} == {"stale_plan"}
    assert len(manager.list("b")) == 12
