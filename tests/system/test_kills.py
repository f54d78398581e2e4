"""The server and the worker under load, killed again and again."""

from __future__ import annotations

import http.client
import json
import queue
import random
import signal
import threading
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import pytest

from milepost import CheckpointManager
from tests.support.cli import run
from tests.support.eventually import DEADLINE_SECONDS
from tests.support.servers import SERVING, staying

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tally import Tally

JOB = "etl"
SLOW = pytest.mark.slow


# -- the server ------------------------------------------------------------------------


class Client:
    """Saves through HTTP, one after the other; repeats what was not answered."""

    def __init__(self, name: str, told: queue.Queue[str]) -> None:
        self.saved: dict[str, str] = {}  # by step
        self.problem: BaseException | None = None
        self._name = name
        self._told = told

    def work(self, port: int, *, until: int | None = None) -> None:
        """Save until the server is gone, or until so many saves are answered."""
        while until is None or len(self.saved) < until:
            step = f"{self._name}-{len(self.saved)}"
            try:
                answer = self._post(port, step)
            except (OSError, http.client.HTTPException):
                return  # no answer: the save may be there or not
            except BaseException as exc:
                self.problem = exc
                raise
            self.saved[step] = answer["checkpoint_id"]
            self._told.put(step)

    @staticmethod
    def _post(port: int, step: str) -> dict[str, str]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=DEADLINE_SECONDS
        )
        try:
            connection.request(
                "POST",
                "/api/checkpoints",
                json.dumps({"job_id": JOB, "step_name": step, "state": {"by": step}}),
                {"Content-Type": "application/json", "Idempotency-Key": step},
            )
            answer = connection.getresponse()
            body: dict[str, str] = json.loads(answer.read())
            assert answer.status == 201, body
            return body
        finally:
            connection.close()


def serve_until(root: Path, clients: list[Client], until: int | None) -> None:
    """Let the clients save; with no end in sight, kill the server in the middle."""
    told = clients[0]._told
    with staying("serve", "--port", "0", MILEPOST_STORE_ROOT=str(root)) as server:
        port = int(server.wait_for(SERVING)[2])
        threads = [
            threading.Thread(target=client.work, args=[port], kwargs={"until": until})
            for client in clients
        ]
        for thread in threads:
            thread.start()
        if until is None:
            for _ in range(random.Random(len(clients[0].saved)).randint(1, 60)):
                told.get(timeout=DEADLINE_SECONDS)
            server.child.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=SLOW)])
def test_a_killed_server_has_what_it_answered_and_a_repeat_saves_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, tally: Tally
) -> None:
    monkeypatch.chdir(tmp_path)
    root, told = tmp_path / "store", queue.Queue[str]()
    clients = [Client(f"client{number}", told) for number in range(4)]
    for _ in range(kills):
        serve_until(root, clients, None)
        with CheckpointManager(root) as manager:
            there = {i.step_name: i.checkpoint_id for i in manager.list(JOB)}
            for client in clients:
                assert client.saved.items() <= there.items()  # I1
    goal = max(len(client.saved) for client in clients) + 3
    serve_until(root, clients, goal)  # what had no answer is repeated
    assert [client.problem for client in clients] == [None] * 4
    with CheckpointManager(root) as manager:
        steps = Counter(info.step_name for info in manager.list(JOB))
        assert steps == Counter(step for client in clients for step in client.saved)
        assert manager.verify(JOB, deep=True)[0].ok
    tally("servers killed under load", kills)


# -- the worker ------------------------------------------------------------------------

JOBS = [f"job-{number:02}" for number in range(25)]
KEEP = 2
CONFIG = f"""
[store]
root = "store"
[worker]
cleanup = "every 1s"
sweep = "50ms"
debounce = "10ms"
[retention]
min_keep = 1
min_age = "0s"
max_remove_fraction = 1.0
default.keep_last = {KEEP}
"""


class Load:
    """A thread that saves to all jobs in turn until it is told to end."""

    def __init__(self, root: Path) -> None:
        self.saved: dict[str, list[str]] = {job: [] for job in JOBS}
        self._root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        with CheckpointManager(self._root) as manager:
            for number in count():
                if self._over.is_set():
                    return
                job = JOBS[number % len(JOBS)]
                self.saved[job].append(manager.save(job, "step", {"n": number}))
                self._over.wait(0.001)  # leave the machine to the worker as well


def cleanups(manager: CheckpointManager, job: str) -> int:
    return len(manager.history(job, types={"checkpoints.cleaned"}))


def kill_a_worker_in_a_pass(manager: CheckpointManager, job: str) -> None:
    """Kill a worker right when it has cleaned `job` up: others are still to come."""
    before = cleanups(manager, job)
    with staying("worker") as worker:
        worker.wait_for("leading")
        while cleanups(manager, job) == before:
            assert worker.child.poll() is None
        worker.child.send_signal(signal.SIGKILL)
        worker.child.wait()


def assert_every_removal_was_allowed(manager: CheckpointManager, job: str) -> None:
    """Nothing left that was among the newest, and nothing left twice."""
    live: list[str] = []
    for event in manager.history(job):
        data: Any = event["data"]
        if event["type"] == "checkpoint.saved":
            live.append(data["checkpoint_id"])
        if event["type"] == "checkpoints.cleaned":
            assert {*data["removed"]} <= {*live[:-KEEP]}  # I6
            live = [id_ for id_ in live if id_ not in data["removed"]]
    assert [info.checkpoint_id for info in manager.list(job)] == live  # I2


@pytest.mark.parametrize("kills", [pytest.param(20, marks=SLOW)])
def test_a_worker_that_is_killed_while_it_applies_retention_leaves_every_job_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, tally: Tally
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(CONFIG)
    root, dice = tmp_path / "store", random.Random(kills)
    with CheckpointManager(root) as manager:
        with Load(root) as load:
            for _ in range(kills):
                kill_a_worker_in_a_pass(manager, dice.choice(JOBS))
        done = run("worker", "--once")
        assert done.code == 0, done.err
        for job in JOBS:
            events = manager.history(job)
            assert [event["seq"] for event in events] == [*range(1, len(events) + 1)]
            saved: list[Any] = [
                event["data"]["checkpoint_id"]
                for event in events
                if event["type"] == "checkpoint.saved"
            ]
            assert saved == load.saved[job]  # I1
            assert_every_removal_was_allowed(manager, job)
            assert len(manager.list(job)) == min(KEEP, len(saved))
            assert manager.verify(job, deep=True)[0].ok
    tally("workers killed under load", kills)
