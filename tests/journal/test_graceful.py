"""A job that is asked to stop by a signal ends after its last save."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, MemoryStorage, Stop
from milepost.journal.errors import InvalidArgument, NestedCall
from milepost.journal.storage.files.storage import FileStorage
from tests.support.appending import run
from tests.support.eventually import eventually
from tests.support.faults import Child, Fault, FaultyDisk, children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tell = Callable[[Any], None]

ROOT = Path(__file__).parents[2]
JOB = "etl"
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def memory() -> CheckpointManager:
    return CheckpointManager(storage=MemoryStorage())


# -- a process of its own --------------------------------------------------------------

PROGRAM = """
import sys

from milepost import CheckpointManager

manager = CheckpointManager(sys.argv[1])
with manager.graceful() as stop:
    print("ready", flush=True)
    n = 0
    while not stop:
        n += 1
        if {saves}:
            manager.save("etl", "step", {{"n": n}})
    manager.save("etl", "stopped", {{"n": n}})
print(n, flush=True)
raise SystemExit(stop.exit_code)
"""


def start(root: Path, *, saves: bool, **popen: Any) -> subprocess.Popen[str]:
    job = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(saves=saves), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        **popen,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    return job


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("saves", [False, True])
def test_a_job_that_gets_a_signal_saves_and_exits_with_its_number(
    root: Path, number: signal.Signals, *, saves: bool
) -> None:
    with start(root, saves=saves) as job:
        job.send_signal(number)
        out, err = job.communicate(timeout=60)
    assert (job.returncode, err) == (128 + number, "")
    with CheckpointManager(root) as manager:
        info = manager.list(JOB)[-1]
        assert info.step_name == "stopped"
        assert manager.restore(JOB, info.checkpoint_id) == {"n": int(out)}
        assert manager.verify(JOB, deep=True)[0].ok


def test_signals_at_any_moment_of_many_saves_hurt_none(root: Path) -> None:
    with start(root, saves=True) as job:
        with suppress(ProcessLookupError):
            for _ in range(200):
                os.kill(job.pid, signal.SIGTERM)
        out, err = job.communicate(timeout=60)
    assert (job.returncode, err) == (143, "")
    with CheckpointManager(root) as manager:
        assert len(manager.list(JOB)) == int(out) + 1
        assert manager.verify(JOB, deep=True)[0].ok


def test_a_signal_that_is_ignored_before_stays_ignored(root: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with start(root, saves=False, preexec_fn=ignore) as job:
        for _ in range(3):
            job.send_signal(signal.SIGINT)
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=60)
    assert job.returncode == 143


def test_a_second_sigint_interrupts_at_once_and_the_store_is_whole(root: Path) -> None:
    def work(tell: Tell) -> None:
        manager = CheckpointManager(root)
        try:
            with manager.graceful() as stop:
                tell("ready")
                stop.wait()
                tell("stopping")
                while True:
                    manager.save(JOB, "more", {})
        except KeyboardInterrupt:
            tell(["interrupted", stop.exit_code, len(manager.list(JOB)) >= 0])

    with children(work) as (child,):
        assert child.hear() == "ready"
        child.signal(signal.SIGINT)
        assert child.hear() == "stopping"
        child.signal(signal.SIGINT)
        assert child.hear() == ["interrupted", 130, True]
    with CheckpointManager(root) as manager:
        assert all(report.ok for report in manager.verify(JOB, deep=True))


def test_a_forked_child_of_a_job_is_ended_by_a_signal_as_before(root: Path) -> None:
    manager = CheckpointManager(root)

    def live(tell: Tell) -> None:
        signal.alarm(60)  # if nothing else ends it
        tell("ready")
        while True:
            signal.pause()

    with manager.graceful() as outer, manager.graceful() as stop:
        child = Child(live)
        assert child.hear() == "ready"
        child.signal(signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM
        assert not stop
        assert not outer


# -- the flag --------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_the_flag_tells_the_signal_the_time_left_and_the_exit_code(
    number: signal.Signals,
) -> None:
    with memory().graceful(grace_seconds=1000) as stop:
        assert isinstance(stop, Stop)
        assert (bool(stop), stop.is_set(), stop.signal) == (False, False, None)
        assert (stop.seconds_left, stop.exit_code) == (math.inf, 0)
        signal.raise_signal(number)
        assert (bool(stop), stop.is_set(), stop.signal) == (True, True, number)
        assert 900 < stop.seconds_left <= 1000
        assert stop.exit_code == 128 + number
    assert (stop.is_set(), stop.exit_code) == (True, 128 + number), "after the block"


def test_the_time_left_is_ten_seconds_unless_told_and_never_negative() -> None:
    with memory().graceful() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert 0 < stop.seconds_left <= 10
    with memory().graceful(grace_seconds=1e-9) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.seconds_left == 0


def test_a_second_sigterm_changes_nothing_and_the_first_signal_counts() -> None:
    with memory().graceful() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert stop.signal is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 143


def test_waiting_ends_at_the_signal_in_every_thread() -> None:
    with memory().graceful() as stop:
        assert not stop.wait(0)
        assert not stop.wait(-1)
        ended: list[bool] = []
        threads = [run(lambda: ended.append(stop.wait(1e12))) for _ in range(3)]
        threads.append(run(lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert stop.wait()
        for thread in threads:
            thread.join(30)
        assert ended == [True] * 3
        assert stop.wait(0)
        assert stop.wait()


# -- the handlers ----------------------------------------------------------------------


def test_the_handlers_of_before_are_back_after_the_block() -> None:
    before = handlers()
    with memory().graceful() as outer:
        middle = handlers()
        assert middle != before
        with memory().graceful() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner
            assert outer, "every block is told"
        assert handlers() == middle
    assert handlers() == before
    for raised in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(raised), memory().graceful():
            raise raised
        assert handlers() == before


def test_a_handler_of_the_callers_own_is_called_too() -> None:
    called: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: called.append(number))
    with memory().graceful() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop
        assert called == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert called == [signal.SIGTERM] * 2


def test_of_a_handler_that_raises_the_exception_passes_through_the_block() -> None:
    def leave(number: int, _: object) -> None:
        raise SystemExit(number)

    signal.signal(signal.SIGTERM, leave)
    with pytest.raises(SystemExit, match="15"), memory().graceful() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop
    assert signal.getsignal(signal.SIGTERM) is leave


def test_only_the_main_thread_can_ask_for_signals() -> None:
    before = handlers()
    caught: list[InvalidArgument] = []

    def ask() -> None:
        with pytest.raises(InvalidArgument) as told, memory().graceful():
            pass
        caught.append(told.value)

    thread = threading.Thread(target=ask, name="loader")
    thread.start()
    thread.join(30)
    assert "'loader'" in str(caught[0])
    assert "main thread" in (caught[0].hint or "")
    assert handlers() == before


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "10", None, True])
def test_a_grace_period_that_means_nothing_is_refused(seconds: Any) -> None:
    before = handlers()
    with pytest.raises(InvalidArgument, match="grace_seconds"), ExitStack() as stack:
        stack.enter_context(memory().graceful(grace_seconds=seconds))
    assert handlers() == before


# -- the last save ---------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
def test_the_last_save_is_durable_when_the_block_ends(  # I1
    root: Path, durability: Any
) -> None:
    disk = FaultyDisk(root)
    storage = FileStorage(
        root, disk=disk, durability=durability, interval_seconds=10_000
    )
    manager = CheckpointManager(storage=storage)
    manager.save(JOB, "one", {})
    manager.storage.flush()
    disk.calls.clear()
    with manager.graceful():
        signal.raise_signal(signal.SIGTERM)
        manager.save(JOB, "last", {})
    steps = [call.operation for call in disk.calls if "journals" in call.path]
    assert "sync" in steps[steps.index("append") :]
    manager.close()


def test_a_signal_while_saves_are_made_durable_does_not_end_the_process(
    root: Path,
) -> None:
    disk = FaultyDisk(root)
    manager = CheckpointManager(
        storage=FileStorage(root, disk=disk, durability="never")
    )
    manager.save(JOB, "one", {})
    with manager.graceful() as stop:
        manager.save(JOB, "last", {})
        disk.set(Fault("sync", action=lambda: signal.raise_signal(signal.SIGTERM)))
    assert stop
    manager.close()


def test_a_save_in_a_handler_during_a_save_is_refused_and_names_graceful(
    root: Path,
) -> None:
    disk = FaultyDisk(root)
    manager = CheckpointManager(storage=FileStorage(root, disk=disk))
    manager.save(JOB, "one", {})
    caught: list[NestedCall] = []

    def save(*_: object) -> None:
        with pytest.raises(NestedCall) as told:
            manager.save(JOB, "nested", {})
        caught.append(told.value)

    signal.signal(signal.SIGTERM, save)
    disk.set(Fault("append", action=lambda: signal.raise_signal(signal.SIGTERM)))
    manager.save(JOB, "two", {})
    assert "graceful()" in (caught[0].hint or "")
    assert [info.step_name for info in manager.list(JOB)] == ["one", "two"]
    manager.close()


def test_a_thread_that_waits_for_the_flag_can_save_for_the_job(root: Path) -> None:
    manager = CheckpointManager(root)
    with manager.graceful() as stop:
        saver = run(lambda: stop.wait() and manager.save(JOB, "stopped", {}))
        while not stop:
            manager.save(JOB, "step", {})
            os.kill(os.getpid(), signal.SIGTERM)
        saver.join(30)
    assert eventually(lambda: manager.list(JOB)[-1].step_name == "stopped")
    manager.close()
