"""Who waits for a job's lock gets it in the order of arrival, across processes."""

from __future__ import annotations

import os
import resource
import signal
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import LockTimeout
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import Child, Fault, FaultyDisk, children, in_child

if TYPE_CHECKING:
    from milepost.journal.storage.files.folders import Durability
    from tests.support.faults import Tell

JOB = "etl"


def manager_on(root: Path, disk: FaultyDisk | None = None) -> CheckpointManager:
    storage = FileStorage(root, disk=disk or FaultyDisk(root, syncs=False))
    return CheckpointManager(storage=storage)


class Line:
    """Those that wait for a job: each a handle of its own, as a process has."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads: list[threading.Thread] = []

    def join(self, name: str) -> None:
        """Let one more save; return once it waits."""
        disk, waits = FaultyDisk(self._root, syncs=False), threading.Event()
        disk.set(Fault("queue", on=f"heads/{JOB}", action=waits.set))
        save = partial(manager_on(self._root, disk).save, JOB, name, {})
        thread = threading.Thread(target=save, daemon=True)
        thread.start()
        assert waits.wait(30)
        self._threads.append(thread)

    def end(self) -> None:
        """Wait until all have saved."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def steps(root: Path) -> list[str]:
    return [info.step_name for info in manager_on(root).list(JOB)]


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a free lock to the next in line, however late a busy machine runs it."""
    monkeypatch.setattr("milepost.journal.storage.files.head_file._GRACE_SECONDS", 30)


@pytest.mark.usefixtures("patience")
def test_those_that_wait_are_served_in_the_order_in_which_they_came(
    root: Path,
) -> None:
    holder = manager_on(root)
    holder.save(JOB, "first", {})
    line, names = Line(root), [f"{n}" for n in range(8)]
    with holder._store.storage.job(JOB).hold():
        for name in names:
            line.join(name)
    line.end()
    assert steps(root) == ["first", *names]


@pytest.mark.usefixtures("patience")
def test_who_comes_back_stands_behind_those_that_wait(root: Path) -> None:
    """The lock is free for a moment: who has just had it must not take it again."""
    holder = manager_on(root)
    holder.save(JOB, "first", {})
    line = Line(root)
    with holder._store.storage.job(JOB).hold():
        line.join("waiting")
    holder.save(JOB, "again", {})
    line.end()
    assert steps(root) == ["first", "waiting", "again"]


def test_nobody_of_eight_processes_is_left_behind(root: Path) -> None:
    crowd, each = 8, 30
    manager_on(root).save(JOB, "first", {})
    reading, writing = os.pipe()

    def work(tell: Tell) -> None:
        os.close(writing)
        os.read(reading, 1)  # returns at the end: once all are there
        manager = CheckpointManager(root, durability="never", lock_timeout_seconds=60)
        for _ in range(each):
            manager.save(JOB, f"{os.getpid()}", {})
        tell("done")

    with children(*[work] * crowd) as running:
        os.close(reading)
        os.close(writing)
        assert [child.hear() for child in running] == ["done"] * crowd
    saved = steps(root)[1:]
    assert len(saved) == crowd * each
    # In the half in which all of them save, each has its share.
    half = saved[: crowd * each // 2]
    shares = sorted(half.count(f"{child.pid}") for child in running)
    assert shares[0] >= each // 4, shares


def test_a_killed_waiter_blocks_nobody(root: Path) -> None:
    holder = manager_on(root)
    holder.save(JOB, "first", {})
    line = Line(root)

    def wait(tell: Tell) -> None:
        disk = FaultyDisk(root, syncs=False)
        disk.set(Fault("queue", on=f"heads/{JOB}", action=lambda: tell("waits")))
        manager_on(root, disk).save(JOB, "killed", {})

    with holder._store.storage.job(JOB).hold():
        waiter = Child(wait)
        assert waiter.hear() == "waits"
        line.join("behind")
        waiter.signal(signal.SIGKILL)
        assert waiter.wait() == -signal.SIGKILL
    line.end()
    assert steps(root) == ["first", "behind"]


def stopped_waiter(root: Path, holder: CheckpointManager) -> Child:
    """Return a process that was stopped right after it stood in line to save."""

    def wait(tell: Tell) -> None:
        disk = FaultyDisk(root, syncs=False)
        stop = partial(os.kill, os.getpid(), signal.SIGSTOP)
        disk.set(Fault("queue", on=f"heads/{JOB}", action=stop))
        tell(manager_on(root, disk).save(JOB, "stopped", {}))

    with holder._store.storage.job(JOB).hold():
        waiter = Child(wait)
        os.waitpid(waiter.pid, os.WUNTRACED)
    return waiter


def go_on(waiter: Child) -> None:
    """Let a stopped process save."""
    waiter.signal(signal.SIGCONT)
    assert waiter.hear() is not None
    assert waiter.wait() == 0


def test_a_stopped_waiter_is_passed_over(root: Path) -> None:
    holder = manager_on(root)
    holder.save(JOB, "first", {})
    waiter = stopped_waiter(root, holder)
    holder.save(JOB, "passed", {})
    holder.save(JOB, "passed again", {})
    go_on(waiter)
    assert steps(root) == ["first", "passed", "passed again", "stopped"]


def test_a_stopped_waiter_changes_nothing_for_those_behind_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = manager_on(root)
    holder.save(JOB, "first", {})
    line, names = Line(root), [f"{n}" for n in range(24)]
    waiter = stopped_waiter(root, holder)
    holder.save(JOB, "second", {})  # from now on, this one waits for it no longer
    monkeypatch.setattr("milepost.journal.storage.files.head_file._GRACE_SECONDS", 30)
    holder.save(JOB, "third", {})
    with holder._store.storage.job(JOB).hold():
        for name in names:
            line.join(name)
        monkeypatch.setattr(
            "milepost.journal.storage.files.head_file._GRACE_SECONDS", 2
        )
    line.end()
    go_on(waiter)
    found = steps(root)
    assert found[:3] == ["first", "second", "third"]
    assert [name for name in found if name in names] == names


def test_who_gives_up_leaves_the_line(root: Path) -> None:
    holder = manager_on(root)
    holder.save(JOB, "first", {})
    impatient = CheckpointManager(root, lock_timeout_seconds=0)
    refused: list[LockTimeout] = []

    def save() -> None:
        try:
            impatient.save(JOB, "impatient", {})
        except LockTimeout as exc:
            refused.append(exc)

    with holder._store.storage.job(JOB).hold():
        thread = threading.Thread(target=save)
        thread.start()
        thread.join(30)
    assert len(refused) == 1
    found = holder._store.storage.job(JOB).files.head._opened  # type: ignore[attr-defined]
    assert found.file.queued(0) is None
    impatient.save(JOB, "patient", {})
    assert steps(root) == ["first", "patient"]


# -- bounds that follow the process ----------------------------------------------------


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
@pytest.mark.parametrize("limit", [64, pytest.param(1024, marks=pytest.mark.slow)])
def test_more_jobs_than_descriptors_are_no_problem_under_any_limit(
    root: Path, limit: int, durability: Durability
) -> None:
    def work() -> list[int]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        inherited = open_files()  # what earlier tests left to the garbage collector
        manager = CheckpointManager(
            storage=FileStorage(
                root,
                disk=FaultyDisk(root, syncs=False),
                durability=durability,
                interval_seconds=600,
            )
        )
        most = 0
        for number in range(limit // 2 + 10):
            manager.save(f"job-{number}", "one", {})
            manager.save(f"job-{number}", "two", {})
            most = max(most, len(open_files() - inherited))
        return [len(manager.jobs()), most]

    jobs, most = in_child(work)
    assert jobs == limit // 2 + 10
    # A quarter is the journals'; locks and folders are open for a moment.
    assert most <= limit // 4 + 8


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}
