"""The worker as a whole: real files, real threads, real processes, a turned clock."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, MemoryStorage
from milepost.journal.ids import file_name
from milepost.journal.store.clock_memory import ClockMemory
from milepost.worker.config.settings import load, open_manager
from milepost.worker.deadline import EXIT_SECONDS
from milepost.worker.schedule.last_runs import LastRun, LastRuns, TaskRecord
from milepost.worker.schedule.scheduler import read_schedule
from milepost.worker.service import Worker
from milepost.worker.status import LEASE
from milepost.worker.tasks import TASK_NAMES, verification
from tests.support.clock import NOW, Clock
from tests.support.eventually import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "milepost", "worker")
MAIN = "from milepost.api.cli.main import main; main()"
QUICK = "[worker]\nsweep = '50ms'\ndebounce = '10ms'\n"
KEEP_TWO = "[retention]\nmin_keep = 1\nmin_age = '0s'\ndefault.keep_last = 2\n"


class Noticing(CheckpointManager):
    """A store that tells what this process has read without being asked."""

    def has_read(self, job_id: str) -> bool:
        return self._store.knows(job_id)


class Home:
    """A store with a config file, the workers on it, and child processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.root = folder / "checkpoints"
        self.clock = Clock()
        self.write("")
        self.manager = Noticing(self.root, clock=self.clock)
        self.manager.save("first", "step", {})
        self.workers: list[Worker] = []
        self.children: list[subprocess.Popen[str]] = []

    def write(self, text: str) -> None:
        """Save a config file as editors do: whole, under another name, renamed."""
        aside = self.folder / "config.toml.swp"
        aside.write_text("[store]\nroot = 'checkpoints'\n" + text)
        aside.rename(self.config)

    def fill(self, job: str, count: int = 5) -> None:
        for number in range(count):
            self.manager.save(job, f"step-{number}", {"n": number})

    def count(self, job: str) -> int:
        return len(self.manager.list(job))

    def worker(self, text: str | None = None, **options: Any) -> Worker:
        if text is not None:
            self.write(text)
        settings = load(self.config, environ={})
        options.setdefault("steady", self.clock.steady)
        made = Worker(self.manager, settings, clock=self.clock, **options)
        self.workers.append(made)
        return made

    def started(self, text: str | None = None, **options: Any) -> Worker:
        made = self.worker(text, **options)
        made.start()
        eventually(lambda: made.status.leader and made._planned)
        return made

    def child(self, *arguments: str, code: str | None = None) -> subprocess.Popen[str]:
        command = COMMAND if code is None else (sys.executable, "-c", code, "worker")
        made = subprocess.Popen(
            [*command, f"--config={self.config}", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(made)
        return made

    def leading_child(self) -> subprocess.Popen[str]:
        child = self.child()
        assert child.stderr is not None
        for line in child.stderr:
            if line.endswith("milepost.worker: leading\n"):
                return child
        raise AssertionError("the child never led")

    def due_after(self, moment: datetime) -> None:
        """Write down that everything due until `moment` has run."""
        LastRuns(self.manager.storage).write("cleanup", TaskRecord(moment))

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        for child in self.children:
            child.kill()
            child.communicate()
        self.manager.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the config files of whoever runs the tests out of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))


def last(worker: Worker) -> LastRun | None:
    return worker.status.task("cleanup").last


# -- scheduled runs --------------------------------------------------------------------


def test_retention_runs_by_itself_again_and_again(home: Home) -> None:
    home.fill("a")
    worker = home.started(f"{KEEP_TWO}[worker]\ncleanup = 'every 1s'\n")
    eventually(lambda: home.count("a") == 2)
    home.fill("b")
    eventually(lambda: home.count("b") == 2)
    assert worker.status.scheduler_alive
    assert worker.status.problem is None


def test_a_run_that_was_missed_is_made_up_at_the_start(home: Home) -> None:
    home.fill("a")
    first = home.worker(KEEP_TWO)
    first.run_task("cleanup")
    home.fill("a")
    home.clock.turn(days=3)
    worker = home.started()
    eventually(lambda: home.count("a") == 2)
    eventually(lambda: "5 removed, 2 jobs" in str(last(worker)))
    made_up = last(worker)
    assert made_up is not None
    assert (made_up.at, made_up.outcome) == (home.clock.now, "ok")


def test_a_run_that_was_not_missed_is_not_made_up(home: Home) -> None:
    home.fill("a")
    home.due_after(NOW - timedelta(hours=1))
    worker = home.started(KEEP_TWO)
    worker.stop()
    assert home.count("a") == 5
    assert last(worker) is None


def test_in_a_new_store_nothing_was_missed_yet_but_counts_from_now_on(
    home: Home,
) -> None:
    home.fill("a")
    worker = home.started(KEEP_TWO)
    worker.stop()
    assert home.count("a") == 5
    home.clock.turn(days=1)
    home.started()
    eventually(lambda: home.count("a") == 2)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b'{"format":3,"tasks":{}}',
        b"[1]",
        b"\0" * 99,
        b'{"format":1,"tasks":{"cleanup":{"due_after":"2026","last":null}}}',
    ],
)
def test_when_nobody_knows_the_last_run_it_counts_as_missed(
    raw: bytes, home: Home
) -> None:
    home.fill("a")
    (home.root / "records").mkdir()
    (home.root / "records/last-runs").write_bytes(raw)
    home.started(KEEP_TWO)
    eventually(lambda: home.count("a") == 2)


def test_a_run_that_was_stopped_is_made_up(home: Home) -> None:
    home.fill("a")
    home.due_after(NOW - timedelta(days=1))
    worker = home.worker(KEEP_TWO)
    worker.ask_to_stop()
    assert worker.run_task("cleanup").outcome == "stopped"
    home.started()
    eventually(lambda: home.count("a") == 2)


def test_a_run_that_raised_is_on_record_and_retried(home: Home) -> None:
    home.fill("a")
    home.due_after(NOW - timedelta(days=1))
    heads = home.root / "heads"
    heads.rename(home.root / "aside")
    heads.touch()
    worker = home.started(KEEP_TWO, retry_seconds=0.05)
    eventually(lambda: "StorageFailed" in str(last(worker)))
    heads.unlink()
    (home.root / "aside").rename(heads)
    eventually(lambda: home.count("a") == 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_scheduler_whose_thread_died_is_replaced(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(type(read_schedule("0 3 * * *"))):  # type: ignore[misc]
        def get_next_fire_time(self, *_: object) -> datetime:
            if threading.current_thread().name == "APScheduler":
                raise ZeroDivisionError
            return NOW - timedelta(days=999)

    worker = home.started(KEEP_TWO)
    dead = worker._scheduler
    assert dead is not None
    dead.put("other", print, Broken(hour=3))
    eventually(lambda: worker._scheduler is not dead and worker._planned)
    assert worker.status.scheduler_alive
    assert "died" in caplog.text


def test_a_scheduler_that_went_silent_is_seen_and_replaced(home: Home) -> None:
    worker = home.started(KEEP_TWO, heartbeat_seconds=0.05)
    silent = worker._scheduler
    assert silent is not None
    eventually(lambda: worker.status.scheduler_alive)
    silent._scheduler.pause()
    eventually(lambda: not silent.is_alive)
    eventually(lambda: worker._scheduler is not silent and worker.status.leader)
    eventually(lambda: worker.status.scheduler_alive)


def test_each_missed_task_is_made_up_and_one_that_is_off_is_not(home: Home) -> None:
    for task in TASK_NAMES:
        LastRuns(home.manager.storage).write(task, TaskRecord(NOW - timedelta(days=8)))
    worker = home.started("[worker]\npurge = 'off'\n")
    ran = {"cleanup", "compact", "verify"}
    eventually(lambda: {t.name for t in worker.status.tasks if t.last} == ran)
    assert worker.status.task("purge").next_run is None


def test_a_task_that_raises_stops_no_other_and_is_retried(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [ZeroDivisionError("a bug")] * 2

    def stumble(*_: Any, **__: Any) -> list[Any]:
        if failures:
            raise failures.pop()
        return []

    monkeypatch.setattr(verification, "walk", stumble)
    schedules = "cleanup = 'every 1s'\nverify = 'every 1y'\n"
    worker = home.started(f"[worker]\n{schedules}", retry_seconds=0.05)
    assert worker._scheduler is not None
    worker._scheduler.run_soon("verify")
    eventually(lambda: not failures)
    eventually(lambda: (found := last(worker)) and found.outcome == "ok")


@pytest.mark.parametrize("is_other_process", [False, True])
def test_a_jump_of_the_clock_holds_removals_until_it_is_trusted(
    home: Home, *, is_other_process: bool
) -> None:
    home.fill("a")
    worker = home.started(KEEP_TWO, steady=lambda: 0.0)
    home.clock.turn(days=99)
    assert worker.run_task("cleanup").outcome == "waiting"
    eventually(lambda: worker._is_held)
    assert home.count("a") == 5
    if is_other_process:
        ClockMemory(home.manager.storage).write_jump(None)
    else:
        worker.trust_clock()
    eventually(lambda: home.count("a") == 2)
    assert worker.status.clock_jump is None


def test_stopping_ends_the_pass_and_every_thread(home: Home) -> None:
    before = set(threading.enumerate())
    for number in range(50):
        home.fill(f"job-{number:02}", 3)
    home.due_after(NOW - timedelta(days=1))
    worker = home.started(KEEP_TWO)
    eventually(lambda: home.count("job-00") == 2)
    worker.stop()
    ended = last(worker)
    assert ended is not None
    assert ended.outcome in {"stopped", "ok"}
    assert set(threading.enumerate()) == before


# -- one worker per store --------------------------------------------------------------


def test_a_second_worker_takes_over_when_the_first_process_is_killed(  # I8
    home: Home,
) -> None:
    home.write(KEEP_TWO)
    child = home.leading_child()
    worker = home.worker()
    worker.start()
    eventually(lambda: worker.status.watcher != "off")
    assert not worker.status.leader
    assert worker.status.leader_pid == child.pid
    child.send_signal(signal.SIGKILL)
    eventually(lambda: worker.status.leader and worker.status.scheduler_alive)


def leads(child: subprocess.Popen[str], led: list[int]) -> None:
    """Note a child in `led` once it says that it leads."""
    assert child.stderr is not None
    said = "milepost.worker: leading\n"
    led.extend(child.pid for line in child.stderr if line.endswith(said))


def test_of_several_processes_one_leads_and_another_when_it_is_killed(  # I8
    home: Home,
) -> None:
    led: list[int] = []
    children = {child.pid: child for child in (home.child() for _ in range(3))}
    for child in children.values():
        threading.Thread(target=leads, args=(child, led), daemon=True).start()
    lease = home.manager.storage.lease(LEASE)
    fences = []
    for count in (1, 2, 3):
        eventually(lambda: len(led) == count)  # noqa: B023 - called in this very turn
        holder = lease.holder()
        assert holder is not None
        assert holder.pid == led[-1]
        fences.append(holder.fence)
        children[led[-1]].send_signal(signal.SIGKILL)
        children[led[-1]].wait()
    assert sorted(led) == sorted(children)
    assert fences == [1, 2, 3]


def test_a_follower_runs_nothing_that_is_scheduled(home: Home) -> None:
    home.write(f"{KEEP_TWO}{QUICK}cleanup = 'every 1s'\n")
    first = home.started()
    second = home.worker()
    second.start()
    eventually(lambda: last(first))
    assert not second.status.leader
    assert last(second) is not None, "the store remembers it for everybody"
    first.stop()
    eventually(lambda: second.status.leader)


def test_a_store_that_was_removed_is_led_no_more_until_it_is_back(home: Home) -> None:
    worker = home.started(QUICK)
    shutil.rmtree(home.root)
    eventually(lambda: not worker.status.leader)
    CheckpointManager(home.root).save("again", "step", {})
    eventually(lambda: worker.status.leader)


def test_a_lock_file_that_was_replaced_is_taken_anew(home: Home) -> None:
    worker = home.started(QUICK)
    assert worker._lease.fence == 1
    other = home.root / "records/other"
    other.touch()
    other.rename(home.root / "records/worker.lock")
    eventually(lambda: worker._lease.fence == 2)


def test_a_task_that_is_due_after_the_lease_was_lost_is_not_run(home: Home) -> None:
    home.fill("a")
    worker = home.worker(KEEP_TWO)
    assert worker._lease.acquire(LEASE)
    (home.root / "records/worker.lock").unlink()  # and no loop has noticed yet
    worker._run_due("cleanup")
    assert home.count("a") == 5
    assert worker._lease.acquire(LEASE)
    worker._run_due("cleanup")
    assert home.count("a") == 2


def test_a_lock_file_that_cannot_be_made_is_a_problem_and_tried_again(
    home: Home,
) -> None:
    (home.root / "records").touch()
    worker = home.worker()
    worker.start()
    eventually(lambda: "lease: " in str(worker.status.problem))
    assert not worker.status.leader
    (home.root / "records").unlink()
    eventually(lambda: worker.status.leader)
    assert worker.status.problem is None


def test_a_worker_waits_for_a_store_and_makes_none(tmp_path: Path) -> None:
    settings = load(environ={"MILEPOST_STORE_ROOT": "none"})
    with open_manager(settings) as manager:
        worker = Worker(manager, settings)
        worker.start()
        eventually(lambda: worker.status.watcher != "off")
        assert not list((tmp_path / "none").iterdir())
        manager.save("a", "step", {})
        eventually(lambda: worker.status.leader)
        worker.stop()


def test_a_store_in_memory_has_a_worker_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "milepost.worker")
    settings = load(environ={"MILEPOST_WORKER_CLEANUP": "every 1s"})
    with CheckpointManager(storage=MemoryStorage()) as manager:
        worker = Worker(manager, settings)
        worker.start()
        eventually(lambda: last(worker))
        assert worker.status.leader
        assert worker.status.watcher == "off"
        first = last(worker)
        eventually(lambda: last(worker) != first)  # it still leads
        worker.stop()
    assert [r.message for r in caplog.records].count("leading") == 1
    assert "was lost" not in caplog.text


# -- what other processes write --------------------------------------------------------

SAVE = (
    "from milepost import CheckpointManager as M; M('checkpoints').save('b', 's', {})"
)


@pytest.mark.parametrize(
    "how",
    [
        "sweep = '1h'\nwatcher = 'auto'\n",
        "sweep = '1h'\nwatcher = 'poll'\n",
        "sweep = '50ms'\nwatcher = 'off'\n",
    ],
    ids=["inotify", "poll", "sweep"],
)
def test_another_processs_save_is_noticed(how: str, home: Home) -> None:
    home.started(f"[worker]\n{how}")
    eventually(lambda: home.manager.has_read("first"))
    assert home.child(code=SAVE).wait(DEADLINE_SECONDS) == 0
    eventually(lambda: home.manager.has_read("b"))


# -- edits of the config file ----------------------------------------------------------


def test_an_edit_is_in_force_while_it_runs(home: Home) -> None:
    home.fill("a")
    worker = home.started(f"{QUICK}[retention]\ntrash_period = '3d'\n")
    assert home.manager.trash_seconds == 3 * 86_400
    assert worker.run_task("cleanup").counts["removed"] == 0
    home.write(f"{KEEP_TWO}trash_period = '1d'\n{QUICK}cleanup = '0 9 * * *'\n")
    eventually(lambda: worker.settings.retention.default.keep_last == 2)
    eventually(lambda: "09:00" in str(worker.status.task("cleanup").next_run))
    assert home.manager.trash_seconds == 86_400
    assert worker.run_task("cleanup").counts["removed"] == 3


@pytest.mark.parametrize(
    "mistake", ["[retention]\nmin_kep = 1\n", "[retention\n", None]
)
def test_a_bad_edit_keeps_the_last_good_settings_and_says_so(
    mistake: str | None, home: Home
) -> None:
    worker = home.started(KEEP_TWO + QUICK)
    good = worker.settings
    if mistake is None:
        home.config.unlink()
    else:
        home.write(mistake + QUICK)
    eventually(lambda: worker.status.config_problem)
    assert str(home.config) in str(worker.status.config_problem)
    assert worker.settings == good
    home.write(KEEP_TWO + QUICK + "jitter = '1s'\n")
    eventually(lambda: worker.status.config_problem is None)
    assert worker.settings.worker.jitter_seconds == 1


def test_an_edit_that_needs_a_restart_is_named_and_not_in_force(home: Home) -> None:
    worker = home.started(QUICK)
    home.write(QUICK + "jitter = '1s'\n[api]\nport = 99\n")
    eventually(lambda: worker.status.restart_needed == ("api",))
    assert worker.settings.api.port == 8080
    home.write(QUICK + "enabled = false\n")
    eventually(lambda: worker.status.restart_needed == ("worker.enabled",))
    home.write(QUICK)
    eventually(lambda: worker.status.restart_needed == ())


def test_a_variable_still_beats_the_file_after_an_edit(home: Home) -> None:
    home.write(QUICK)
    environ = {"MILEPOST_RETENTION_DEFAULT_KEEP_LAST": "7"}
    worker = Worker(home.manager, load(home.config, environ=environ))
    home.workers.append(worker)
    worker.start()
    home.write(KEEP_TWO + QUICK)
    eventually(lambda: worker.settings.retention.min_keep == 1)
    assert worker.settings.retention.default.keep_last == 7


# -- as a process ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds", [1.0, pytest.param(EXIT_SECONDS, marks=pytest.mark.slow)]
)
def test_sigterm_ends_the_process_within_ten_seconds_though_a_task_hangs(
    seconds: float, home: Home
) -> None:
    imported = "from milepost.worker import deadline"
    code = f"{imported}; deadline.EXIT_SECONDS = {seconds}; {MAIN}"
    home.fill("a")
    home.due_after(NOW - timedelta(days=9))
    home.write(KEEP_TWO)
    with (home.root / "heads" / file_name("a")).open("rb") as head:
        fcntl.flock(head, fcntl.LOCK_EX)  # as a process that hangs while it writes
        child = home.child(code=code)
        last_runs = home.root / "records/last-runs"
        eventually(lambda: b"verify" in last_runs.read_bytes())
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(DEADLINE_SECONDS) == 0
        assert time.monotonic() - began < 10
        assert b"verify" in last_runs.read_bytes()


def test_each_task_by_hand_is_tried_though_another_failed(home: Home) -> None:
    (home.root / "heads").rename(home.root / "aside")
    (home.root / "heads").touch()
    done = home.child("--once")
    _, talk = done.communicate(timeout=DEADLINE_SECONDS)
    assert done.returncode == 1
    failed = [line for line in talk.splitlines() if " failed: StorageFailed" in line]
    assert len(failed) == len(TASK_NAMES)
    assert talk.splitlines()[-1].startswith("milepost: ")
