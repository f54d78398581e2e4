"""The scheduler: no run is lost, no failure is silent, nothing runs twice at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from milepost.worker.schedule.priority import NICENESS
from milepost.worker.schedule.scheduler import (
    Scheduler,
    coming,
    is_overdue,
    read_schedule,
)
from tests.support.eventually import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

DAILY = "0 3 * * *"


class Task:
    """A task that counts its runs, and does as it is told in each."""

    def __init__(self) -> None:
        self.runs = 0
        self.failures: list[BaseException] = []
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self) -> None:
        self.runs += 1
        self.may_end.wait(DEADLINE_SECONDS)
        if self.failures:
            raise self.failures.pop()


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler(heartbeat_seconds=0.1, retry_seconds=0.05)
    made.start()
    yield made
    made.stop()


def test_a_real_interval_runs_again_and_again(scheduler: Scheduler) -> None:
    task = Task()
    scheduler.put("task", task, read_schedule("every 1s"))
    assert task.runs == 0
    eventually(lambda: task.runs == 2)


def test_what_runs_soon_keeps_its_schedule(scheduler: Scheduler) -> None:
    task = Task()
    scheduler.put("task", task, read_schedule(DAILY))
    due = scheduler.next_run("task")
    scheduler.run_soon("task")
    eventually(lambda: task.runs == 1)
    eventually(lambda: scheduler.next_run("task") == due)


def test_a_task_that_runs_is_not_started_beside_itself(scheduler: Scheduler) -> None:
    task = Task()
    task.may_end.clear()
    scheduler.put("task", task, read_schedule(DAILY))
    due = scheduler.next_run("task")
    for _ in range(3):
        scheduler.run_soon("task")
        eventually(lambda: task.runs and scheduler.next_run("task") == due)
    task.may_end.set()
    scheduler.stop()
    assert task.runs == 1


def test_a_schedule_that_is_put_again_replaces_the_old_one(
    scheduler: Scheduler,
) -> None:
    scheduler.put("task", Task(), read_schedule("0 3 * * *"))
    scheduler.put("task", Task(), read_schedule("0 5 * * *"))
    due = scheduler.next_run("task")
    assert due is not None
    assert (due.hour, due.tzinfo) == (5, UTC)
    assert scheduler.next_run("other") is None


def test_a_late_run_still_runs_and_once_for_all_that_were_missed() -> None:
    scheduler = Scheduler()
    missed = datetime(2020, 1, 1, 3, tzinfo=UTC)
    task = Task()
    scheduler.put("task", task, read_schedule(DAILY))
    scheduler._scheduler.get_job("task").modify(next_run_time=missed)
    scheduler.start()
    eventually(lambda: task.runs)
    scheduler.stop()
    assert task.runs == 1


# -- failures --------------------------------------------------------------------------


def test_a_retry_that_is_pending_is_the_next_run_until_it_has_run() -> None:
    bell = threading.Event()
    scheduler = Scheduler(bell.set, retry_seconds=600)
    task = Task()
    task.failures.append(ValueError("no"))
    scheduler.put("task", task, read_schedule("0 0 29 2 *"))
    scheduler.start()
    on_schedule = scheduler.next_run("task")
    began = datetime.now(UTC)  # noqa: TID251 - a retry counts by the system's clock
    scheduler.run_soon("task")
    eventually(bell.is_set)
    scheduler.tend()
    retry = scheduler.next_run("task")
    ended = datetime.now(UTC)  # noqa: TID251 - as above
    assert retry is not None
    wait, slack = timedelta(seconds=600), timedelta(seconds=1)
    assert began + wait - slack <= retry <= ended + wait + slack
    assert retry.tzinfo is UTC
    scheduler.run_soon("task")
    eventually(lambda: task.runs == 2)

    def is_settled() -> bool:
        scheduler.tend()
        return scheduler.next_run("task") == on_schedule

    eventually(is_settled)
    scheduler.stop()


@pytest.mark.parametrize("failure", [OSError("disk"), SystemExit(3)])
def test_a_task_that_raised_is_retried_until_it_does_not(
    failure: BaseException, scheduler: Scheduler
) -> None:
    task, other = Task(), Task()
    task.failures = [failure, failure]
    scheduler.put("task", task, read_schedule(DAILY))
    scheduler.put("other", other, read_schedule("every 1s"))
    scheduler.run_soon("task")

    def tended(runs: int) -> bool:
        scheduler.tend()
        return task.runs == runs

    eventually(lambda: tended(3))
    seen = other.runs
    eventually(lambda: tended(3) and other.runs > seen)
    assert scheduler.is_alive


def test_each_retry_waits_twice_as_long() -> None:
    scheduler = Scheduler(retry_seconds=1000)
    task = Task()
    task.failures = [OSError("disk")] * 4
    scheduler.put("task", task, read_schedule(DAILY))
    scheduler.start()
    waits = []
    while task.failures:
        scheduler.run_soon("task")
        eventually(lambda: scheduler._ended)
        scheduler.tend()
        waits.append(scheduler._retry_at["task"] - time.monotonic())
    scheduler.stop()
    assert [round(wait / 100) for wait in waits] == [10, 20, 36, 36]


def test_the_owner_is_rung_when_a_run_ends() -> None:
    rung = threading.Event()
    scheduler = Scheduler(rung.set)
    scheduler.put("task", Task(), read_schedule(DAILY))
    scheduler.start()
    scheduler.run_soon("task")
    assert rung.wait(DEADLINE_SECONDS)
    scheduler.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_scheduler_thread_is_seen(scheduler: Scheduler) -> None:
    class Broken(type(read_schedule(DAILY))):  # type: ignore[misc]
        def get_next_fire_time(self, *_: object) -> datetime:
            if threading.current_thread().name == "APScheduler":
                raise ZeroDivisionError
            return datetime(2020, 1, 1, tzinfo=UTC)

    assert scheduler.is_alive
    scheduler.put("task", Task(), Broken(hour=3))
    eventually(lambda: not scheduler.is_running)
    assert not scheduler.is_alive
    assert scheduler._scheduler.running, "APScheduler would have us believe"


def test_a_scheduler_that_runs_nothing_any_more_is_seen(scheduler: Scheduler) -> None:
    eventually(lambda: scheduler.is_alive)
    scheduler._scheduler.pause()
    eventually(lambda: not scheduler.is_alive)
    assert scheduler.is_running


def test_stopping_waits_for_what_runs() -> None:
    scheduler = Scheduler()
    task = Task()
    task.may_end.clear()
    scheduler.put("task", task, read_schedule(DAILY))
    scheduler.start()
    scheduler.run_soon("task")
    eventually(lambda: task.runs)
    stopping = threading.Thread(target=scheduler.stop)
    stopping.start()
    stopping.join(0.1)
    assert stopping.is_alive()
    task.may_end.set()
    stopping.join(DEADLINE_SECONDS)
    assert not stopping.is_alive()
    assert not scheduler.is_running


# -- what is due -----------------------------------------------------------------------

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "since", "is_due"),
    [
        (DAILY, NOON - timedelta(hours=10), True),
        (DAILY, NOON - timedelta(days=300), True),
        (DAILY, NOON - timedelta(hours=9), False),  # at 03:00 sharp: that run is done
        (DAILY, NOON + timedelta(days=2), False),  # the clock was set back
        ("every 10min", NOON - timedelta(minutes=10), True),
        ("every 10min", NOON - timedelta(minutes=9), False),
    ],
)
def test_a_run_is_overdue_if_its_time_came_since(
    schedule: str, since: datetime, is_due: bool
) -> None:
    assert is_overdue(read_schedule(schedule), since, NOON) is is_due


def test_a_cron_line_is_read_in_its_zone() -> None:
    trigger = read_schedule(DAILY, "Asia/Tokyo")
    due = trigger.get_next_fire_time(None, NOON)
    assert due.astimezone(UTC) == datetime(2026, 11, 23, 18, tzinfo=UTC)


def test_jitter_only_makes_a_cron_run_later_and_leaves_intervals_alone() -> None:
    trigger = read_schedule(DAILY, jitter_seconds=30)
    plain = read_schedule(DAILY).get_next_fire_time(None, NOON)
    late = [trigger.get_next_fire_time(None, NOON) - plain for _ in range(50)]
    assert timedelta(0) <= min(late) < max(late) <= timedelta(seconds=30)
    assert read_schedule("every 1s", jitter_seconds=30).jitter is None


def test_the_next_runs_are_told_in_utc() -> None:
    trigger = read_schedule("0 3 * * *", "Europe/Berlin")
    now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    # The clocks go forward in between.
    assert [f"{run:%d %H:%M}" for run in coming(trigger, now, 3)] == [
        *("29 01:00", "30 01:00", "31 01:00")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="no priorities per thread here")
def test_a_task_gives_way_and_its_thread_alone() -> None:
    seen: list[int] = []
    before = own_niceness()
    scheduler = Scheduler()
    scheduler.put(
        "task", lambda: seen.append(own_niceness()), read_schedule("every 1h")
    )
    scheduler.start()
    try:
        scheduler.run_soon("task")
        eventually(lambda: bool(seen))
    finally:
        scheduler.stop()
    assert seen[0] >= max(NICENESS, own_niceness())
    assert own_niceness() == before


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
