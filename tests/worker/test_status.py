"""Who does the background work and how each task went: records, API, command line."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from milepost.journal.errors import StorageFailed
from milepost.journal.ids import file_name
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.clock_memory import ClockMemory
from milepost.journal.store.clock_watch import ClockJump
from milepost.worker.config.settings import (
    RetentionSettings,
    Rule,
    Settings,
    WorkerSettings,
)
from milepost.worker.schedule.last_runs import (
    LastRun,
    LastRuns,
    TaskRecord,
    UnreadableLastRuns,
)
from milepost.worker.schedule.scheduler import (
    BEATS_TO_ALARM,
    BEATS_TO_REPLACE,
    HEARTBEAT_SECONDS,
)
from milepost.worker.service import Worker
from milepost.worker.status import LEASE, leader_pid, stored_status
from milepost.worker.tasks import TASK_NAMES
from tests.support.cli import JOB, call, damage, run
from tests.support.client import client_of
from tests.support.clock import NOW, Clock
from tests.support.eventually import eventually
from tests.support.servers import RULE, SERVING, ask, staying

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.worker.status import TaskStatus

KEEP_TWO = RetentionSettings(min_keep=1, min_age="0s", default=Rule(keep_last=2))


@pytest.fixture
def stored(root: Path) -> FileStorage:
    storage = FileStorage(root)
    storage.create()
    return storage


# -- the record of last runs -----------------------------------------------------------


def test_what_is_written_is_read_again(stored: FileStorage) -> None:
    last = LastRun(NOW, "partly", 1.5, "3 removed, 2 jobs", {"removed": 3}, "no")
    record = TaskRecord(NOW, last, "job-7", 4)
    LastRuns(stored).write("cleanup", record)
    assert LastRuns(stored).read() == {"cleanup": record}


def test_two_processes_that_write_at_once_lose_neither_record(
    stored: FileStorage,
) -> None:
    children = []
    for name in ("cleanup", "compact"):
        if (child := os.fork()) == 0:
            for number in range(50):
                LastRuns(stored).write(name, TaskRecord(NOW, failures=number))
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0, 0]
    found = LastRuns(stored).read()
    assert {name: each.failures for name, each in found.items()} == {
        "cleanup": 49,
        "compact": 49,
    }


@pytest.mark.parametrize("format_", [1, 3])
def test_a_record_of_another_format_is_not_guessed_at(
    stored: FileStorage, format_: int
) -> None:
    record = stored.record("last-runs")
    record.compare_and_set(None, b'{"format": %d, "tasks": []}' % format_)
    with pytest.raises(UnreadableLastRuns, match=f"format {format_}, not 2"):
        LastRuns(stored).read()


# -- from the records ------------------------------------------------------------------


def status_of(storage: FileStorage, **worker: Any) -> dict[str, TaskStatus]:
    found = stored_status(storage, WorkerSettings(**worker), NOW)
    return {task.name: task for task in found.tasks}


def test_the_records_tell_what_ran_and_what_is_due(stored: FileStorage) -> None:
    yesterday = NOW - timedelta(days=1)
    LastRuns(stored).write("cleanup", TaskRecord(yesterday, failures=2))
    found = status_of(stored, verify="off")
    assert tuple(found) == TASK_NAMES
    missed = datetime(2026, 11, 23, 3, tzinfo=UTC)
    assert (found["cleanup"].next_run, found["cleanup"].failures) == (missed, 2)
    assert found["compact"].next_run == datetime(2026, 11, 24, 3, 30, tzinfo=UTC)
    assert (found["verify"].next_run, found["verify"].last) == (None, None)


def test_who_leads_is_told_by_the_lease(stored: FileStorage) -> None:
    looking, lease = stored.lease(LEASE), stored.lease(LEASE)
    assert leader_pid(looking) is None
    assert lease.acquire(LEASE)
    assert leader_pid(looking) == leader_pid(lease) == os.getpid()
    lease.release()
    assert leader_pid(looking) is None


def test_records_that_make_no_sense_are_a_problem_and_no_error(
    stored: FileStorage,
) -> None:
    lease = stored.lease(LEASE)
    assert lease.acquire(LEASE)
    (stored.root / "records/last-runs").write_bytes(b"\0" * 9)
    (stored.root / "records/worker.lease").write_bytes(b"\0" * 9)
    found = stored_status(stored, WorkerSettings(), NOW)
    assert "invalid content" in str(found.problem)
    assert found.leader_pid is None
    assert len(found.tasks) == len(TASK_NAMES)
    lease.release()


# -- over HTTP -------------------------------------------------------------------------


@pytest.fixture
def worker(manager: CheckpointManager, clock: Clock) -> Worker:
    for number in range(5):
        manager.save("a", "step", {"n": number})
    return Worker(manager, Settings(retention=KEEP_TWO), clock=clock)


def test_the_api_tells_of_each_task(worker: Worker, manager: CheckpointManager) -> None:
    worker.run_task("cleanup")
    app = create_app(manager, worker=worker, clock=lambda: NOW)
    answer = client_of(app).get("/api/worker").json()
    retention = answer["tasks"][0]
    assert [task["task"] for task in answer["tasks"]] == [*TASK_NAMES]
    assert retention["schedule"] == "0 3 * * *"
    assert retention["last"]["line"] == "3 removed, 1 job"
    assert retention["last"]["counts"]["removed"] == 3
    assert retention["last"]["outcome"] == "ok"
    assert retention["next_run"] == "2026-11-24T03:00:00.000000+00:00"
    assert (answer["leader"], answer["leader_pid"]) == (False, None)
    assert answer["clock_jump"] is answer["problem"] is None


def test_a_server_without_a_worker_tells_what_the_files_tell(
    worker: Worker, manager: CheckpointManager
) -> None:
    worker.run_task("cleanup")
    app = create_app(manager, clock=lambda: NOW)
    answer = client_of(app).get("/api/worker").json()
    assert answer["tasks"][0]["last"]["counts"]["removed"] == 3
    assert answer["scheduler_alive"] is answer["watcher"] is None


def test_failures_in_a_row_are_counted_until_one_run_succeeds(
    worker: Worker, root: Path
) -> None:
    heads = root / "heads"
    heads.rename(root / "aside")
    heads.touch()
    for count in (1, 2):
        with pytest.raises(StorageFailed):
            worker.run_task("verify")
        assert worker.status.task("verify").failures == count
    heads.unlink()
    (root / "aside").rename(heads)
    worker.run_task("verify")
    assert worker.status.task("verify").failures == 0
    assert worker.status.task("cleanup").last is None


# -- on the command line ---------------------------------------------------------------


def test_the_status_needs_no_server_and_has_a_row_per_task(
    store: Path, folder: Path
) -> None:
    (folder / "config.toml").write_text(RULE)
    before = call("worker", "status")
    call("worker", "task", "cleanup")
    after = call("worker", "status")
    assert [row[0] for row in before.rows] == [*TASK_NAMES]
    assert before.err == "no worker is running\n"
    assert (store / "records/last-runs").exists()
    assert after.rows[0][5:] == ["ok", "2 removed, 1 job"]
    assert after.rows[1][5:] == ["", ""]
    data = call("worker", "status", "--json").json["data"]
    assert data["leader_pid"] is None
    assert data["tasks"][0]["last"]["counts"]["removed"] == 2


@pytest.mark.usefixtures("folder")
def test_the_status_of_no_store_makes_none() -> None:
    assert call("worker", "status").code == 10


@pytest.mark.usefixtures("store")
def test_the_status_says_which_process_leads_and_that_it_was_killed() -> None:
    with staying("worker") as server:
        server.wait_for("leading")
        pid = server.child.pid
        assert call("worker", "status").err == f"process {pid} is the active worker\n"
        server.child.send_signal(signal.SIGKILL)
        server.child.wait()
        assert call("worker", "status").err == "no worker is running\n"


@pytest.mark.usefixtures("store")
def test_a_task_of_another_name_is_refused_with_the_names_there_are() -> None:
    done = call("worker", "task", "cleenup")
    assert done.code == 2
    assert "cleanup, compact, purge, verify" in done.err
    assert call("worker", "--once", "status").code == 2


def test_a_run_by_hand_that_finds_damage_is_partly_done(store: Path) -> None:
    damage(store)
    done = call("worker", "task", "verify", "--json")
    assert done.code == 3
    (found,) = done.json["data"]["runs"]
    assert (found["outcome"], found["damaged"]) == ("partly", 1)
    assert found["problems"][0]["job_id"] == JOB


def test_the_word_about_the_clock_can_be_given_by_hand(
    store: Path, folder: Path
) -> None:
    (folder / "config.toml").write_text(RULE)
    jump = ClockJump(datetime(2026, 11, 23, 5, tzinfo=UTC), 9_000_000.0)
    ClockMemory(FileStorage(store)).write_jump(jump)
    held = call("worker", "task", "cleanup")
    told = call("worker", "status")
    done = call("worker", "task", "cleanup", "--trust-clock")
    assert (held.code, held.rows[0][1]) == (3, "waiting")
    assert "the clock jumped forward by 104d 4h" in told.err
    assert (done.code, done.rows[0][3]) == (0, "2 removed, 1 job")
    assert "clock" not in call("worker", "status").err


# -- a server whose config file is edited ----------------------------------------------


def test_a_bad_edit_is_told_by_log_readyz_and_config_check_and_undone_by_a_good_one(
    store: Path, folder: Path
) -> None:
    quick = '[worker]\nsweep = "50ms"\ndebounce = "10ms"\n'
    config = folder / "config.toml"
    config.write_text(quick)
    with staying("serve", "--port", "0") as server:
        port = int(server.wait_for(SERVING)[2])
        config.write_text(f"{quick}[api]\nprot = 80\n")
        server.wait_for("keeping the last valid settings: .*did you mean api.port")
        _, answer = ask(port, "GET", "/readyz")
        assert "api.prot" in answer["config_problem"]
        assert "api.prot" in ask(port, "GET", "/api/worker")[1]["config_problem"]
        checked = run("config", "check")
        assert (checked.code, "did you mean api.port?" in checked.err) == (1, True)
        config.write_text(f"{quick}jitter = '1s'\n")
        server.wait_for(r"reloaded .*config\.toml")
        status, answer = ask(port, "GET", "/readyz")
        assert (status, answer["config_problem"]) == (200, None)
    assert store.is_dir()


# -- a scheduler that died -------------------------------------------------------------


def test_readyz_is_red_while_the_scheduler_is_dead_and_green_when_it_is_replaced(
    manager: CheckpointManager,
) -> None:
    manager.save("a", "step", {})
    worker = Worker(manager, Settings(), heartbeat_seconds=0.2)
    client = client_of(create_app(manager, worker=worker))
    worker.start()
    try:
        eventually(lambda: client.get("/readyz").json()["worker"]["leader"])
        assert worker._scheduler is not None
        worker._scheduler._scheduler.pause()
        eventually(lambda: client.get("/readyz").status_code == 503)
        reasons = client.get("/readyz").json()["reasons"]
        assert reasons in ([], ["the worker's scheduler is not running"])
        eventually(lambda: client.get("/readyz").status_code == 200)
    finally:
        worker.stop()


def test_the_default_heartbeat_shows_a_death_within_a_minute() -> None:
    assert HEARTBEAT_SECONDS * BEATS_TO_ALARM < 60
    assert HEARTBEAT_SECONDS * BEATS_TO_REPLACE < 60


# -- what other processes do -----------------------------------------------------------


def test_what_another_process_saved_is_in_the_very_next_answer(store: Path) -> None:
    assert store.is_dir()
    with staying("serve", "--port", "0") as server:
        port = int(server.wait_for(SERVING)[2])
        listed = f"/api/checkpoints?job_id={JOB}"
        assert ask(port, "GET", listed)[1]["total"] == 3
        for count in (4, 5):
            run("save", JOB, "--step", "s", stdin=b"{}")
            assert ask(port, "GET", listed)[1]["total"] == count


@pytest.mark.slow
@pytest.mark.parametrize("words", [("worker",), ("serve", "--port", "0")], ids=str)
def test_sigterm_ends_what_stays_within_ten_seconds_though_a_task_hangs(
    words: tuple[str, ...], store: Path, folder: Path
) -> None:
    (folder / "config.toml").write_text(RULE)
    long_ago = TaskRecord(NOW - timedelta(days=9))
    LastRuns(FileStorage(store)).write("cleanup", long_ago)
    with (store / "heads" / file_name(JOB)).open("rb") as head:
        fcntl.flock(head, fcntl.LOCK_EX)  # as a process that hangs while it writes
        with staying(*words) as server:
            server.wait_for("Ctrl-C ends it")
            eventually(lambda: LastRuns(FileStorage(store)).read().keys() > {"cleanup"})
            began = time.monotonic()
            assert server.stop(signal.SIGTERM) == 0
            assert time.monotonic() - began < 10
