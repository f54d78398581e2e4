"""Is it alive, and can it be relied on?"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, MemoryStorage
from milepost.api import create_app
from milepost.api.http.security.tokens import hash_token
from milepost.journal.errors import StorageFailed
from milepost.journal.storage.contract import PAGE_JOBS
from milepost.worker.config.settings import ApiSettings, Settings, TokenSettings
from milepost.worker.service import Worker, WorkerStatus
from tests.support.client import AT, client_of, saved
from tests.support.clock import NOW

if TYPE_CHECKING:
    from tests.support.client import TestClient

WELL = WorkerStatus(
    leader=True,
    leader_pid=1,
    scheduler_alive=True,
    tasks=(),
    watcher="off",
    config_problem=None,
    restart_needed=(),
    problem=None,
    clock_jump=None,
)


class StatusOnly:
    """Stands where a worker would, since a scheduler does not die on request."""

    def __init__(self, status: WorkerStatus) -> None:
        self.status = status


def readiness(manager: CheckpointManager, status: WorkerStatus) -> Any:
    worker: Any = StatusOnly(status)
    return client_of(create_app(manager, worker=worker)).get("/readyz")


def test_alive_is_alive(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_ready_without_a_worker(client: TestClient, manager: CheckpointManager) -> None:
    saved(manager)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "reasons": [],
        "jobs": 1,
        "damaged_jobs": 0,
        "config_problem": None,
        "worker": None,
        "timestamp": AT,
    }


def test_ready_means_caught_up_with_what_others_wrote(
    client: TestClient, manager: CheckpointManager
) -> None:
    assert manager.root is not None
    with CheckpointManager(manager.root) as other:
        saved(other, 3)
    assert client.get("/readyz").json()["jobs"] == 1
    assert manager.refresh() == set()


class Held(MemoryStorage):
    """A storage whose first listing takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def jobs(self, after: str = "", limit: int = PAGE_JOBS) -> list[str]:
        if not self.has_begun.is_set():
            self.has_begun.set()
            assert self.may_end.wait(30)
        return super().jobs(after, limit)


def test_catching_up_is_not_ready_and_makes_nobody_wait() -> None:
    storage = Held()
    client = client_of(create_app(CheckpointManager(storage=storage)))
    first = threading.Thread(target=client.get, args=("/readyz",))
    first.start()
    assert storage.has_begun.wait(30)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "catching up" in answer.json()["reasons"][0]
    storage.may_end.set()
    first.join(30)
    assert client.get("/readyz").status_code == 200


class Unlisted(MemoryStorage):
    """A storage that cannot say what it holds."""

    def jobs(self, after: str = "", limit: int = PAGE_JOBS) -> list[str]:
        raise StorageFailed(f"the folder is gone: {after!r}, {limit}")


def test_journals_that_cannot_be_read_are_a_reason() -> None:
    client = client_of(create_app(CheckpointManager(storage=Unlisted())))
    for _ in range(2):
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == [
            "the journals cannot be read: storage_failed"
        ]


def test_a_real_worker_makes_it_ready_as_soon_as_it_leads(
    manager: CheckpointManager,
) -> None:
    worker = Worker(manager, Settings())
    client = client_of(create_app(manager, worker=worker, clock=lambda: NOW))
    assert client.get("/readyz").json()["worker"]["leader"] is False


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (WELL, 200),
        (WELL._replace(scheduler_alive=False), 503),
        (WELL._replace(leader=False, scheduler_alive=False), 200),
        (WELL._replace(leader=False, scheduler_alive=False, problem="no lock"), 503),
        (WELL._replace(problem="last run"), 200),
        (WELL._replace(config_problem="config.toml: api.prt"), 200),
    ],
    ids=["well", "dead", "standing by", "unable", "complains", "misconfigured"],
)
def test_a_worker_that_ought_to_lead_and_does_not_is_a_reason(
    status: WorkerStatus, code: int, manager: CheckpointManager
) -> None:
    answer = readiness(manager, status)
    assert answer.status_code == code
    assert answer.json()["ready"] is (code == 200)
    assert bool(answer.json()["reasons"]) is (code == 503)
    assert answer.json()["config_problem"] == status.config_problem
    assert answer.json()["worker"]["problem"] == status.problem


def test_strangers_are_told_that_something_is_wrong_but_not_what(
    manager: CheckpointManager,
) -> None:
    token = TokenSettings(name="ops", sha256=hash_token("t"), scopes=["read"])
    settings = Settings(api=ApiSettings(tokens=[token]))
    worker: Any = StatusOnly(WELL._replace(config_problem="secret", problem="secret"))
    app = create_app(manager, settings=settings, worker=worker)
    assert "secret" not in client_of(app).get("/readyz").text
    assert client_of(app).get("/readyz").json()["config_problem"] is not None
    known = client_of(app, Authorization="Bearer t").get("/readyz").json()
    assert known["config_problem"] == known["worker"]["problem"] == "secret"
