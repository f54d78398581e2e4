"""A clock that is set forward removes nothing before somebody says that it is right."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import StorageFailed
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.clock_guard import ClockGuard, why_waiting
from milepost.journal.store.clock_memory import ClockMemory
from milepost.journal.store.clock_watch import (
    ClockJump,
    ClockWatch,
    jump_after,
    steady_seconds,
)
from milepost.worker.config.settings import RetentionSettings, Rule, Settings
from milepost.worker.service import Worker
from tests.support.clock import NOW, Clock

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600.0
MONTH = 30 * 24 * HOUR
KEEP_TWO = RetentionSettings(min_keep=1, min_age="0s", default=Rule(keep_last=2))


class Clocks:
    """The clock that can be set, and the one that cannot."""

    def __init__(self, wall: Clock) -> None:
        self.wall = wall
        self.seconds = 1000.0

    def steady(self) -> float:
        return self.seconds

    def run(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall.turn(seconds=seconds)


@pytest.fixture
def clocks(clock: Clock) -> Clocks:
    return Clocks(clock)


@pytest.fixture
def watch(clocks: Clocks) -> ClockWatch:
    return ClockWatch(clocks.wall, clocks.steady)


# -- the watch -------------------------------------------------------------------------


def test_a_clock_that_runs_along_was_not_set(watch: ClockWatch, clocks: Clocks) -> None:
    for seconds in (0.0, 1.0, 9 * HOUR):
        clocks.run(seconds)
        assert watch.step_seconds() == 0


def test_what_the_clock_moved_besides_was_set(
    watch: ClockWatch, clocks: Clocks
) -> None:
    clocks.run(60)
    clocks.wall.turn(hours=5)
    assert watch.step_seconds() == 5 * HOUR
    assert watch.step_seconds() == 0
    clocks.wall.turn(hours=-7)
    assert watch.step_seconds() == -7 * HOUR


def test_a_clock_that_is_corrected_a_little_at_a_time_was_not_set(
    watch: ClockWatch, clocks: Clocks
) -> None:
    for _ in range(10_000):
        clocks.seconds += 1.0
        clocks.wall.turn(seconds=1.0005)
        assert watch.step_seconds() == 0


@pytest.mark.parametrize(
    ("known", "ahead", "stands"),
    [
        (None, 0.0, None),
        (None, HOUR, None),
        (None, HOUR + 1, ClockJump(NOW, HOUR + 1)),
        (ClockJump(NOW - timedelta(1), 9.0), 9.0, None),
        (ClockJump(NOW - timedelta(1), 9999.0), 9999.0, "known"),
        (ClockJump(NOW - timedelta(1), 9999.0), 19_999.0, ClockJump(NOW, 19_999.0)),
        (ClockJump(NOW - timedelta(1), 9999.0), -5.0, None),
    ],
)
def test_a_jump_stands_while_the_clock_is_ahead_by_more_than_is_allowed(
    known: ClockJump | None, ahead: float, stands: ClockJump | str | None
) -> None:
    expected = known if stands == "known" else stands
    assert jump_after(known, ahead, NOW, HOUR) == expected


def test_the_steady_clock_goes_on() -> None:
    assert steady_seconds() <= steady_seconds()


# -- the guard -------------------------------------------------------------------------


def guard_of(clocks: Clocks, memory: ClockMemory, boot: str = "one") -> ClockGuard:
    watch = ClockWatch(clocks.wall, clocks.steady)
    return ClockGuard(watch, memory, list, clocks.wall, lambda: boot)


@pytest.fixture
def memory(tmp_path: Path) -> ClockMemory:
    storage = FileStorage(tmp_path / "store")
    storage.create()
    return ClockMemory(storage)


def test_steps_that_are_small_each_add_up(clocks: Clocks, memory: ClockMemory) -> None:
    guard = guard_of(clocks, memory)
    for _ in range(3):
        assert guard.look(HOUR, MONTH) is None
        clocks.wall.turn(minutes=25)
    assert guard.look(HOUR, MONTH) == (clocks.wall(), 4500.0)


def test_a_jump_outlives_the_process_that_saw_it(
    clocks: Clocks, memory: ClockMemory
) -> None:
    guard = guard_of(clocks, memory)
    clocks.wall.turn(days=400)
    jump = guard.look(HOUR, MONTH)
    assert jump is not None
    assert guard_of(clocks, memory).look(HOUR, MONTH) == jump


def test_a_clock_that_is_set_back_needs_nobodys_word(
    clocks: Clocks, memory: ClockMemory
) -> None:
    first = guard_of(clocks, memory)
    clocks.wall.turn(days=400)
    assert first.look(HOUR, MONTH)
    second = guard_of(clocks, memory)
    clocks.wall.turn(days=-400)
    assert second.look(HOUR, MONTH) is None
    assert first.look(HOUR, MONTH) is None
    assert memory.jump() is None


def test_the_word_of_another_process_is_taken_and_the_next_jump_is_another(
    clocks: Clocks, memory: ClockMemory
) -> None:
    guard = guard_of(clocks, memory)
    clocks.wall.turn(days=400)
    jump = guard.look(HOUR, MONTH)
    assert guard_of(clocks, memory).trust() == jump
    assert guard.look(HOUR, MONTH) is None
    clocks.wall.turn(hours=2)
    assert guard.look(HOUR, MONTH) == (clocks.wall(), 2 * HOUR)


def test_what_happens_while_another_leads_is_left_to_it(
    clocks: Clocks, memory: ClockMemory
) -> None:
    guard = guard_of(clocks, memory)
    clocks.wall.turn(days=400)
    guard.pass_over()
    assert guard.look(HOUR, MONTH) is None


def test_a_clock_that_was_set_while_no_worker_ran_is_noticed(
    clocks: Clocks, memory: ClockMemory
) -> None:
    assert guard_of(clocks, memory).look(HOUR, MONTH) is None
    clocks.run(50 * HOUR)
    assert guard_of(clocks, memory).look(HOUR, MONTH) is None
    clocks.wall.turn(hours=3)
    jump = guard_of(clocks, memory).look(HOUR, MONTH)
    assert jump == (clocks.wall(), 3 * HOUR)


@pytest.mark.parametrize("since_start", [5.0, 1e9])
@pytest.mark.parametrize(("days", "beyond"), [(29, 0), (31, 1), (400, 370)])
def test_a_machine_that_was_started_since_may_have_been_off_for_so_long(
    clocks: Clocks, memory: ClockMemory, days: int, beyond: int, since_start: float
) -> None:
    assert guard_of(clocks, memory).look(HOUR, MONTH) is None
    clocks.wall.turn(days=days)
    clocks.seconds = since_start  # it counts anew
    jump = guard_of(clocks, memory, "another").look(HOUR, MONTH)
    assert jump == ((clocks.wall(), beyond * 24 * HOUR) if beyond else None)


def test_once_trusted_a_clock_is_trusted_by_the_next_process_too(
    clocks: Clocks, memory: ClockMemory
) -> None:
    assert guard_of(clocks, memory).look(HOUR, MONTH) is None
    clocks.wall.turn(days=400)
    guard_of(clocks, memory).trust()
    assert guard_of(clocks, memory).look(HOUR, MONTH) is None


def test_what_the_clocks_said_is_written_down_every_ten_minutes(
    clocks: Clocks, memory: ClockMemory
) -> None:
    clocks.seconds = 1.0
    guard = guard_of(clocks, memory)
    seen = set()
    for _ in range(1201):
        guard.look(HOUR, MONTH)
        seen.add(memory.seen())
        clocks.run(1)
    assert len(seen) == 3


def test_a_jump_that_cannot_be_remembered_stands_all_the_same(
    clocks: Clocks, tmp_path: Path
) -> None:
    guard = guard_of(clocks, ClockMemory(FileStorage(tmp_path / "none")))
    clocks.wall.turn(days=400)
    for _ in range(2):
        with pytest.raises(StorageFailed):
            guard.look(HOUR, MONTH)
        assert guard.jump == (clocks.wall(), 400 * 24 * HOUR)


# -- the worker ------------------------------------------------------------------------


@pytest.fixture
def worker(manager: CheckpointManager, clocks: Clocks) -> Worker:
    for number in range(5):
        manager.save("a", "step", {"n": number})
    return Worker(
        manager,
        Settings(retention=KEEP_TWO),
        clock=clocks.wall,
        steady=clocks.steady,
    )


def test_a_jump_holds_what_counts_ages_and_nothing_else(
    worker: Worker, manager: CheckpointManager, clocks: Clocks
) -> None:
    clocks.wall.turn(days=400)
    for name in ("cleanup", "compact", "purge"):
        report = worker.run_task(name)
        assert report.outcome == "waiting"
        assert "jumped forward by 400d" in report.line
    assert worker.run_task("verify").outcome == "ok"
    assert len(manager.list("a")) == 5
    status = worker.status.task("cleanup")
    assert status.last is not None
    assert status.last.outcome == "waiting"
    assert worker.status.clock_jump == (clocks.wall(), 400 * 86_400)


def test_after_the_word_what_waited_is_done(
    worker: Worker, manager: CheckpointManager, clocks: Clocks
) -> None:
    clocks.wall.turn(days=400)
    worker.run_task("cleanup")
    assert worker.trust_clock() is not None
    assert worker.run_task("cleanup").counts["removed"] == 3
    assert worker.status.clock_jump is None
    assert len(manager.list("a")) == 2


def test_time_that_passed_while_no_worker_ran_is_no_jump(
    worker: Worker, manager: CheckpointManager, clocks: Clocks
) -> None:
    clocks.run(40 * 86_400)
    assert worker.run_task("cleanup").outcome == "ok"
    assert len(manager.list("a")) == 2


def test_the_line_says_what_to_do() -> None:
    line = why_waiting(ClockJump(NOW, 2 * HOUR + 60))
    assert line.startswith("the clock jumped forward by 2h 1min, to 2026-11-23T05")
    assert "milepost worker task --trust-clock" in line
