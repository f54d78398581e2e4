"""What clients are told when the disk, the journal or another process says no."""

from __future__ import annotations

import ast
import fcntl
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager, MemoryStorage
from milepost.api import create_app
from milepost.api.http.failures import ADVICE, STATUS_OF
from milepost.journal import errors
from milepost.journal.storage.memory import MemoryJob
from tests.support.client import client_of, saved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.storage.contract import LockScope
    from milepost.journal.storage.memory import HeldMemoryJob
    from tests.support.client import TestClient

SAVE = {"job_id": "etl", "step_name": "s", "state": {"n": 1}}


class Storage(MemoryStorage):
    """A storage that calls `before`, once, before the next write."""

    before: Callable[[], object] | None = None

    def job(self, job_id: str) -> MemoryJob:
        return self._jobs.setdefault(job_id, Job(job_id, self))

    def fail(self, error: Exception) -> None:
        def failing() -> None:
            raise error

        self.before = failing


class Job(MemoryJob):
    """A job of such a storage."""

    def __init__(self, job_id: str, storage: Storage) -> None:
        super().__init__(job_id, storage)
        self._storage = storage

    def hold(self, *, wait: bool = True) -> LockScope[HeldMemoryJob]:
        self._lock_now()
        return super().hold(wait=wait)

    def take(self) -> HeldMemoryJob | None:
        self._lock_now()
        return super().take()

    def _lock_now(self) -> None:
        before, self._storage.before = self._storage.before, None
        if before is not None:
            before()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.NoSpace("disk full"), 507, "no_space"),
        (errors.ReadOnlyStore("folder not writable"), 503, "read_only"),
        (errors.LockTimeout("locked for 30 s"), 503, "locked"),
        (errors.StorageFailed("sync failed"), 503, "storage_failed"),
        (errors.UnsupportedFolder("network folder"), 503, "unsupported_folder"),
        (errors.NewerFormat("event of v9", hint="upgrade"), 500, "newer_format"),
        (ZeroDivisionError("a bug of ours"), 500, "internal"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_failure_of_a_write_has_its_status_and_the_next_write_its_chance(
    error: Exception, status: int, code: str
) -> None:
    storage = Storage()
    client = client_of(create_app(CheckpointManager(storage=storage)))
    checkpoint_id, *_ = saved(CheckpointManager(storage=storage), 3)
    calls = [
        ("POST", "", SAVE, 201),
        ("POST", f"/{checkpoint_id}/restore", {}, 200),
        ("DELETE", f"/{checkpoint_id}", None, 204),
        ("POST", "/cleanup", {"job_id": "etl", "keep_last": 1}, 200),
    ]
    for method, path, body, good in calls:
        storage.fail(error)
        key = {"Idempotency-Key": f"k{path}"} if method == "POST" else {}
        failed = client.request(
            method, f"/api/checkpoints{path}", json=body, headers=key
        )
        assert (failed.status_code, failed.json()["code"]) == (status, code)
        again = client.request(
            method, f"/api/checkpoints{path}", json=body, headers=key
        )
        assert again.status_code == good


def test_only_what_passes_by_itself_says_when_to_try_again() -> None:
    storage = Storage()
    client = client_of(create_app(CheckpointManager(storage=storage)))
    storage.fail(errors.LockTimeout("locked"))
    assert client.post("/api/checkpoints", json=SAVE).headers["retry-after"] == "1"
    storage.fail(errors.ReadOnlyStore("not writable"))
    answer = client.post("/api/checkpoints", json=SAVE)
    assert "retry-after" not in answer.headers


def test_a_hint_stands_behind_the_text() -> None:
    storage = Storage()
    client = client_of(create_app(CheckpointManager(storage=storage)))
    storage.fail(errors.NewerFormat("event of v9", hint="upgrade"))
    answer = client.post("/api/checkpoints", json=SAVE)
    assert answer.json() == {"detail": "event of v9 (upgrade)", "code": "newer_format"}


def test_every_error_of_the_journal_has_a_status_of_its_own_choosing() -> None:
    def all_below(cls: type[errors.MilepostError]) -> set[type[errors.MilepostError]]:
        below = {c for c in cls.__subclasses__() if c.__module__ == errors.__name__}
        return below | {sub for c in below for sub in all_below(c)}

    codes = {cls.code for cls in all_below(errors.MilepostError)}
    assert codes <= set(STATUS_OF)


def test_a_job_that_another_process_holds_is_503_and_comes_back(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, lock_timeout_seconds=0.05)
    client = client_of(create_app(manager))
    saved(manager)
    head = os.open(tmp_path / "heads" / "etl", os.O_RDWR)
    fcntl.flock(head, fcntl.LOCK_EX)
    answer = client.post("/api/checkpoints", json=SAVE)
    assert (answer.status_code, answer.json()["code"]) == (503, "locked")
    assert client.get("/api/checkpoints", params={"job_id": "etl"}).status_code == 200
    os.close(head)
    assert client.post("/api/checkpoints", json=SAVE).status_code == 201


def flip(journal: Path, marker: bytes) -> None:
    """Change one byte of `marker` where it first stands in `journal`."""
    raw = bytearray(journal.read_bytes())
    raw[raw.index(marker)] ^= 1
    journal.write_bytes(raw)


@pytest.fixture
def damaged(manager: CheckpointManager) -> tuple[str, str]:
    """Damage job `etl` in the middle; return a checkpoint of it and one of `ok`."""
    first, *_ = saved(manager, 3)
    (fine,) = saved(manager, job_id="ok")
    manager.close()
    assert manager.root is not None
    flip(manager.root / "journals" / "etl.jsonl", b"checkpoint.saved")
    return first, fine


@pytest.fixture
def fresh(manager: CheckpointManager) -> TestClient:
    assert manager.root is not None
    return client_of(create_app(CheckpointManager(manager.root)))


def test_a_damaged_job_says_so_everywhere_and_is_never_called_unknown(
    damaged: tuple[str, str], fresh: TestClient
) -> None:
    first, _ = damaged
    answers = [
        fresh.get("/api/checkpoints", params={"job_id": "etl"}),
        fresh.get("/api/events", params={"job_id": "etl"}),
        fresh.post("/api/checkpoints", json=SAVE),
        fresh.post("/api/checkpoints/cleanup", json={"job_id": "etl"}),
        fresh.get(f"/api/checkpoints/{first}"),
        fresh.post(f"/api/checkpoints/{first}/restore", json={"resume": True}),
        fresh.delete(f"/api/checkpoints/{first}"),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (500, "damaged")
        assert "job 'etl' is damaged at line" in answer.json()["detail"]


def test_a_damaged_job_stops_no_other(  # I10
    damaged: tuple[str, str], fresh: TestClient
) -> None:
    _, fine = damaged
    assert fresh.get(f"/api/checkpoints/{fine}").status_code == 200
    assert fresh.post(f"/api/checkpoints/{fine}/restore").status_code == 200
    jobs = {job["job_id"]: job for job in fresh.get("/api/jobs").json()["jobs"]}
    assert jobs["ok"]["damage"] is None
    assert jobs["etl"]["damage"]["code"] == "damaged"
    ready = fresh.get("/readyz")
    assert (ready.status_code, ready.json()["damaged_jobs"]) == (200, 1)


def test_what_was_deleted_is_not_found_whatever_else_is_damaged(
    damaged: tuple[str, str], fresh: TestClient
) -> None:
    _, fine = damaged
    assert fresh.delete(f"/api/checkpoints/{fine}").status_code == 204
    assert fresh.get(f"/api/checkpoints/{fine}").status_code == 404


@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_a_checkpoint_that_goes_in_between_is_not_found(method: str) -> None:
    storage = Storage()
    manager, rival = (CheckpointManager(storage=storage) for _ in range(2))
    client = client_of(create_app(manager))
    (checkpoint_id,) = saved(manager)
    storage.before = lambda: rival.delete("etl", checkpoint_id)
    path = "/restore" if method == "POST" else ""
    answer = client.request(method, f"/api/checkpoints/{checkpoint_id}{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_state_that_cannot_be_trusted_is_400_and_no_older_one_is_given(
    manager: CheckpointManager, fresh: TestClient
) -> None:
    older = manager.save("etl", "s", {"secret": "alpha"})
    newer = manager.save("etl", "s", {"secret": "omega"})
    manager.close()
    assert manager.root is not None
    flip(manager.root / "journals" / "etl.jsonl", b"omega")
    for method, path in (("GET", ""), ("POST", "/restore")):
        answer = fresh.request(method, f"/api/checkpoints/{newer}{path}")
        assert (answer.status_code, answer.json()["code"]) == (400, "unreadable")
        assert "alpha" not in answer.text
    assert fresh.get(f"/api/checkpoints/{older}").status_code == 200
    listed = fresh.get("/api/checkpoints", params={"job_id": "etl"}).json()
    assert listed["total"] == 2


# -- advice fits the channel -----------------------------------------------------------

# What only a program that calls the library, or a person at a terminal, can do.
OF_ANOTHER_CHANNEL = re.compile(r"`|\bmilepost |--\w|\bNone\b|\w\(|'value'|with force")


def hints_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each hint that a module gives, with the name of the error."""
    tree = ast.parse(path.read_text())
    owners = {
        child: each.name
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
        for child in ast.walk(each)
    }
    for node in ast.walk(tree):
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg == "hint":
                assert isinstance(node, ast.Call)
                is_named = isinstance(node.func, ast.Name)
                name = ast.unparse(node.func) if is_named else owners.get(node, "")
                text = ast.unparse(keyword.value)
                yield name, text.removeprefix("f").strip("'\"")


def test_no_error_over_http_advises_a_call_or_a_command() -> None:
    top, checked = Path(errors.__file__).parents[1], 0
    for path in [*top.glob("journal/**/*.py"), *top.glob("api/**/*.py")]:
        for name, hint in hints_in(path):
            code = getattr(getattr(errors, name, None), "code", None)
            said = ADVICE.get(code, hint) if code else ""
            assert not OF_ANOTHER_CHANNEL.search(said), f"{path.name}: {name}: {said}"
            checked += code is not None
    assert checked > 20
