"""Schedules: each slot starts one execution, whatever the clock and the worker do."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, MemoryStorage
from milepost.journal.clock import utc_now
from milepost.worker.config.schedules import ScheduleRule
from milepost.worker.config.settings import ConfigError, load
from milepost.worker.problems import Problems
from milepost.worker.schedule.schedule_records import ScheduleRecord, ScheduleRecords
from milepost.worker.schedule.slots import wall_time
from milepost.worker.schedules import Schedules, schedule_statuses
from tests.support.cli import call, clean_environ
from tests.support.clock import Clock
from tests.support.eventually import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.worker.schedules import ScheduleStatus

HOURLY = {"workflow": "w", "cron": "0 * * * *", "job_id": "h-{date}-{time}"}
NOON = datetime(2026, 11, 23, 12, 1, tzinfo=UTC)


class Timed:
    """A store whose worker looks at a schedule when it is told to."""

    def __init__(self, *, zone: str = "UTC", now: datetime = NOON, **rule: Any) -> None:
        self.clock = Clock(now)
        self.manager = CheckpointManager(storage=MemoryStorage(), clock=self.clock)
        self.rules = [ScheduleRule(**{**HOURLY, **rule})]
        self.zone = zone
        self.is_trusted = True
        self.problems = Problems()
        self.schedules = Schedules(
            self.manager,
            self.problems,
            clock=self.clock,
            may_start=lambda: self.is_trusted,
        )
        self.look()

    def look(self) -> None:
        self.schedules.look(self.rules, self.zone)

    def go(self, until: datetime, **step: float) -> None:
        """Look again and again until a time."""
        while self.clock.now < until:
            self.clock.turn(**step)
            self.look()

    def slots(self) -> list[str]:
        """Return the slots that were started, in this order."""
        found = self.manager.list_executions()
        return [each["started_by"].removeprefix("schedule:") for each in found]

    def hours(self) -> list[int]:
        return [int(slot[11:13]) for slot in self.slots()]

    def finish(self) -> None:
        """End every unfinished execution."""
        for each in self.manager.list_executions("pending"):
            self.manager.cancel_execution(each["execution_id"])

    def status(self) -> ScheduleStatus:
        records = ScheduleRecords(self.manager.storage).read()
        (found,) = schedule_statuses(self.rules, records, self.zone, self.clock.now)
        return found


def test_a_new_schedule_begins_with_its_next_slot() -> None:
    timed = Timed()
    assert timed.slots() == []
    timed.clock.turn(minutes=58)
    timed.look()
    assert timed.slots() == []
    timed.clock.turn(minutes=1)
    timed.look()
    timed.look()
    (found,) = timed.manager.list_executions()
    assert (found["started_by"], found["correlation_id"], found["status"]) == (
        "schedule:2026-11-23T13:00",
        "h-2026-11-23-1300",
        "pending",
    )


# catch_up, hours without a worker, minutes after the last slot: started hours, skipped
DOWNTIMES: list[tuple[str, int, int, list[int], int]] = [
    ("none", 0, 59, [], 0),
    ("last", 0, 59, [], 0),
    ("all", 0, 59, [], 0),
    ("none", 1, 0, [13], 0),
    ("none", 1, 1, [13], 0),
    ("none", 1, 2, [], 1),
    ("none", 5, 0, [17], 4),
    ("none", 5, 30, [], 5),
    ("last", 1, 59, [13], 0),
    ("last", 5, 30, [17], 4),
    ("all", 1, 59, [13], 0),
    ("all", 5, 30, [13, 14, 15, 16, 17], 0),
]


@pytest.mark.parametrize("row", DOWNTIMES)
def test_what_was_missed_is_caught_up_with_as_the_schedule_says(
    row: tuple[str, int, int, list[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    catch_up, hours, minutes, started, skips = row
    timed = Timed(catch_up=catch_up, concurrency=10)
    timed.clock.now = NOON.replace(minute=0) + timedelta(hours=hours, minutes=minutes)
    with caplog.at_level(logging.WARNING):
        timed.look()
    assert (timed.hours(), timed.status().skipped) == (started, skips)
    assert (f"{skips} slot" in caplog.text) == bool(skips)
    timed.look()
    assert (timed.hours(), timed.status().skipped) == (started, skips)


@pytest.mark.slow
def test_a_long_downtime_is_caught_up_with_in_bounds() -> None:
    timed = Timed(catch_up="all", cron="* * * * *", concurrency=256)
    timed.clock.turn(days=8)  # 11,520 slots
    timed.look()
    timed.look()
    status = timed.status()
    assert (status.started, status.skipped) == (100, 11_420)
    assert timed.slots()[-1] == "2026-12-01T12:01"


# catch_up: the hours that are started while the execution of 13 h runs until 16:30
@pytest.mark.parametrize(
    ("catch_up", "during", "after"),
    [
        ("none", [13], [13, 17]),
        ("last", [13], [13, 16, 17]),
        ("all", [13], [13, 14, 15, 16, 17]),
    ],
)
def test_a_slot_is_late_while_its_predecessor_is_unfinished(
    catch_up: str, during: list[int], after: list[int]
) -> None:
    timed = Timed(catch_up=catch_up)
    timed.go(NOON.replace(hour=16, minute=30), minutes=1)
    assert timed.hours() == during
    assert timed.schedules.is_late == (catch_up != "none")
    assert timed.status().late == {"none": 0, "last": 1, "all": 3}[catch_up]
    for _ in range(5):
        timed.finish()
        timed.look()
    while timed.clock.now < NOON.replace(hour=17, minute=10):
        timed.clock.turn(minutes=1)
        timed.look()
        timed.finish()
    assert timed.hours() == after
    status = timed.status()
    assert status.started + status.skipped == 5


def test_a_slot_of_a_job_that_is_busy_is_late() -> None:
    timed = Timed(job_id="same", concurrency=9)
    timed.clock.turn(hours=1)
    timed.look()
    timed.clock.turn(hours=1)
    timed.look()  # both pending, in one job
    assert timed.hours() == [13, 14]


@pytest.mark.parametrize(
    ("zone", "day", "cron", "due"),
    [
        ("Europe/Berlin", "2026-03-29", "30 2 * * *", ["01:00"]),  # skipped
        ("Europe/Berlin", "2026-10-25", "30 2 * * *", ["00:30"]),  # twice
        ("Europe/Berlin", "2026-07-01", "30 2 * * *", ["00:30"]),
        ("America/New_York", "2026-03-08", "30 2 * * *", ["07:00"]),
        ("America/New_York", "2026-11-01", "30 1 * * *", ["05:30"]),
        ("Australia/Lord_Howe", "2026-10-04", "15 2 * * *", ["15:30"]),  # half an hour
        ("UTC", "2026-03-29", "30 2 * * *", ["02:30"]),
    ],
)
def test_a_slot_that_is_skipped_or_comes_twice_runs_once(
    zone: str, day: str, cron: str, due: list[str]
) -> None:
    begin = datetime.fromisoformat(f"{day}T00:00+00:00") - timedelta(hours=12)
    timed = Timed(zone=zone, now=begin, cron=cron, concurrency=9)
    seen: dict[str, str] = {}
    while timed.clock.now < begin + timedelta(hours=36):
        timed.clock.turn(minutes=15)
        timed.look()
        for slot in timed.slots():
            seen.setdefault(slot, f"{timed.clock.now:%H:%M}")
    assert [at for slot, at in seen.items() if slot.startswith(day)] == due
    assert len(timed.slots()) == len(seen)


def test_every_hour_of_a_day_with_a_gap_runs_once() -> None:
    begin = datetime(2026, 3, 28, 23, 1, tzinfo=UTC)
    timed = Timed(zone="Europe/Berlin", now=begin, catch_up="all", concurrency=99)
    timed.go(begin + timedelta(hours=23), minutes=10)
    assert timed.hours() == [*range(1, 24), 0]  # 2 h at the end of the gap


def test_a_clock_that_is_set_back_starts_nothing_twice() -> None:
    timed = Timed(concurrency=99)
    timed.go(NOON.replace(hour=15), minutes=1)
    timed.clock.turn(hours=-2)
    timed.go(NOON.replace(hour=16), minutes=1)
    assert timed.hours() == [13, 14, 15, 16]
    assert timed.status().started == 4
    timed.clock.turn(days=-300)  # it was wrong for a long time
    timed.look()
    timed.clock.turn(hours=1)
    timed.look()
    assert len(timed.hours()) == 5


def test_nothing_starts_while_the_clock_is_not_trusted() -> None:
    timed = Timed()
    timed.is_trusted = False
    timed.clock.turn(days=900)
    timed.look()
    assert timed.slots() == []
    timed.clock.turn(days=-900, hours=1)
    timed.is_trusted = True
    timed.look()
    assert timed.hours() == [13]


def test_a_change_of_the_time_zone_repeats_no_slot() -> None:
    timed = Timed(zone="UTC", concurrency=99)
    timed.go(NOON.replace(hour=14), minutes=1)
    timed.zone = "Asia/Tokyo"
    timed.look()
    assert timed.hours() == [13, 14]
    timed.go(NOON.replace(hour=15), minutes=1)
    assert timed.hours() == [13, 14, 0]


def test_trouble_with_one_schedule_stops_no_other() -> None:
    """I10."""
    timed = Timed(concurrency=9)
    bad = ScheduleRule(workflow="w", cron="0 * * * *", job_id="bad-{time}")
    timed.rules = [bad.model_copy(update={"job_id": "bad\x00"}), *timed.rules]
    timed.look()
    timed.clock.turn(hours=1)
    timed.look()
    assert timed.hours() == [13]
    assert "schedule 'bad" in str(timed.problems)


def test_two_workers_at_once_start_a_slot_once(tmp_path: Path) -> None:
    clock = Clock(NOON)
    rule = ScheduleRule(**HOURLY, concurrency=9)
    with CheckpointManager(tmp_path, clock=clock) as manager:
        manager.save("other", "s", {})
        Schedules(manager, Problems(), clock=clock).look([rule], "UTC")
        clock.turn(hours=1)
        both = threading.Barrier(8)

        def work() -> None:
            with CheckpointManager(tmp_path, clock=clock) as mine:
                schedules = Schedules(mine, Problems(), clock=clock)
                both.wait(DEADLINE_SECONDS)
                schedules.look([rule], "UTC")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(manager.list_executions()) == 1


def test_a_kill_between_the_start_and_the_record_starts_nothing_twice(
    tmp_path: Path,
) -> None:
    clock = Clock(NOON)
    rule = ScheduleRule(**HOURLY)
    with CheckpointManager(tmp_path, clock=clock) as manager:
        manager.save("other", "s", {})
        Schedules(manager, Problems(), clock=clock).look([rule], "UTC")
    script = f"""
    import os, signal
    from datetime import datetime
    from milepost import CheckpointManager
    from milepost.worker.config.schedules import ScheduleRule
    from milepost.worker.problems import Problems
    from milepost.worker.schedules import Schedules

    now = datetime.fromisoformat("2026-11-23T13:00:05+00:00")
    manager = CheckpointManager({str(tmp_path)!r}, clock=lambda: now)
    die = lambda job_id: os.kill(os.getpid(), signal.SIGKILL)
    made = Schedules(manager, Problems(), clock=lambda: now, on_started=die)
    made.look([ScheduleRule(**{HOURLY!r})], "UTC")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    for later in (timedelta(hours=1, seconds=1), timedelta(days=3)):
        clock.now = NOON + later
        with CheckpointManager(tmp_path, clock=clock) as manager:
            made = Schedules(manager, Problems(), clock=clock)
            made.look([rule.model_copy(update={"catch_up": "all"})], "UTC")
            made.look([rule.model_copy(update={"catch_up": "all"})], "UTC")
            started = [each["started_by"] for each in manager.list_executions()]
            assert started == ["schedule:2026-11-23T13:00"]


FLOWS = """
from milepost import CheckpointManager
manager = CheckpointManager("checkpoints")

@manager.workflow("w", version="9")
def w(run, n=0):
    return run.step("s", lambda: n + 1)
"""
CONFIG = """
[store]
root = "checkpoints"
[[workflows]]
function = "flows:w"
[[schedule]]
workflow = "w"
cron = "0 * * * *"
job_id = "{workflow}-{date}-{time}"
input = {n = 41}
"""


def test_a_real_worker_starts_what_was_missed_and_schedules_lists_it(
    folder: Path,
) -> None:
    (folder / "flows.py").write_text(FLOWS)
    (folder / "config.toml").write_text(CONFIG)
    with CheckpointManager("checkpoints") as manager:
        manager.save("other", "s", {})
        an_hour_ago = wall_time(utc_now(), UTC) - timedelta(hours=1)
        record = ScheduleRecord(an_hour_ago.replace(microsecond=0), "UTC")
        ScheduleRecords(manager.storage).write("w-{date}-{time}", record)
        (missed,) = call("schedules", "--json").json["data"]["schedules"]
        assert (missed["late"], missed["last"]) == (1, None)
        command = [sys.executable, "-m", "milepost", "worker"]
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env=clean_environ()
        ) as child:
            eventually(lambda: manager.list_executions("completed"))
            child.send_signal(signal.SIGTERM)
            assert child.wait(DEADLINE_SECONDS) == 0
        (found,) = manager.list_executions()
        assert manager.execution_outcome(found["execution_id"]).result == 42
    assert found["workflow_version"] == "9"
    (shown,) = call("schedules", "--json").json["data"]["schedules"]
    assert (shown["status"], shown["started"], shown["late"]) == ("completed", 1, 0)
    assert shown["last"]["execution_id"] == found["execution_id"]
    assert "w-{date}-{time}" in call("schedules").out
    status = call("worker", "status", "--json").json["data"]
    assert status["schedules"][0]["started"] == 1
    (folder / "config.toml").write_text('[store]\nroot = "checkpoints"\n')
    assert call("schedules", "--fail-if-empty").code == 8


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"0 * * * *"', '"every 1h"', "schedule[0].cron"),
        ('"0 * * * *"', '"0 0 30 2 *"', "schedule that fires"),
        ("{date}", "{day}", "expected {date}, {time} or {workflow}, not {day}"),
        ("{n = 41}", "{n = 2026-11-20}", "expected plain JSON values: $.n"),
        ('workflow = "w"\n', "", "schedule[0].workflow is missing"),
        ("[[schedule]]", "[[schedules]]", "did you mean schedule?"),
        (
            'workflow = "w"\n',
            'workflow = "x"\n',
            'schedule[0].workflow = "x": expected a workflow that the worker starts',
        ),
    ],
)
def test_a_schedule_that_would_start_nothing_is_refused_with_its_place(
    folder: Path, old: str, new: str, said: str
) -> None:
    (folder / "flows.py").write_text(FLOWS)
    sys.modules.pop("flows", None)
    (folder / "config.toml").write_text(CONFIG.replace(old, new))
    done = call("config", "check")
    assert (done.code, said in done.err) == (1, True), done.err


def test_two_schedules_need_two_names(folder: Path) -> None:
    twice = CONFIG + CONFIG[CONFIG.index("[[schedule]]") :]
    (folder / "config.toml").write_text(twice)
    with pytest.raises(ConfigError, match="expected distinct job_id"):
        load(folder / "config.toml", environ={})
