"""The one door to APScheduler, shut against the ways in which it loses work.

| APScheduler by default | here |
|---|---|
| drops a run that starts a second late | late is fine; one run makes up for many |
| numbers weekdays from Monday, cron from Sunday | a weekday has a name |
| joins day of month and day of week by "and", cron by "or" | only one of them is set |
| accepts a schedule that never fires | refused |
| reads ``mon/2`` as ``mon`` | refused |
| a run that raised waits for its next turn | retried, each time after twice as long |
| a thread that died looks as if it ran | a heartbeat, and the thread itself |
| a pool that is full keeps what is due waiting | a thread for each task |
| the interpreter's end waits for the pool | a task that hangs ends with the process |
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
)
from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from milepost.journal.quantities import seconds
from milepost.worker.schedule.priority import give_way

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

HEARTBEAT_SECONDS = 5.0
RETRY_SECONDS = 30.0
RETRY_MAX_SECONDS = 3600.0
# Silent for so many heartbeats is dead, whatever its thread says.
BEATS_TO_ALARM = 4
BEATS_TO_REPLACE = 9
EXAMPLE = 'such as "0 3 * * *", "*/15 * * * mon-fri" or "every 30s"'

_HEARTBEAT = "heartbeat"
_EXECUTOR = "milepost"
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_NUMERIC = r"(\*|\d+(-\d+)?)(/\d+)?"
_NAMED = r"[a-z]{3}(-[a-z]{3})?"
_ITEM = (_NUMERIC, _NUMERIC, rf"{_NUMERIC}|last", rf"{_NUMERIC}|{_NAMED}", _NAMED)
# Any moment will do: five fields repeat every 400 years.
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)

# An APScheduler trigger; the package has no types.
Trigger = Any


def read_schedule(
    text: str, timezone: str = "UTC", *, jitter_seconds: float = 0.0
) -> Trigger:
    """Return the trigger for `text`: five cron fields, or ``every <duration>``.

    `jitter_seconds` spreads cron runs of many stores; an interval starts when its
    process does, which spreads it anyway.

    Raises:
        ValueError: no schedule, one that never fires, or one that people read in two
            ways; says what to write.
    """
    words = text.split()
    if words[:1] == ["every"]:
        return _interval(" ".join(words[1:]))
    if len(words) != len(_FIELDS):
        raise ValueError(
            f"expected five fields (minute hour day month weekday) {EXAMPLE}"
        )
    for name, item, word in zip(_FIELDS, _ITEM, words, strict=True):
        _check_field(name, item, word)
    if words[2] != "*" and words[4] != "*":
        raise ValueError(
            "expected a day of month or a day of week: cron would run on either,"
            " this scheduler only where both meet"
        )
    try:
        trigger = CronTrigger.from_crontab(text.lower(), timezone=_zone(timezone))
    except ValueError as exc:
        raise ValueError(f"expected a schedule {EXAMPLE}: {exc}") from exc
    if trigger.get_next_fire_time(None, _SOME_DAY) is None:
        raise ValueError("expected a schedule that fires; no such day exists")
    trigger.jitter = jitter_seconds or None
    return trigger


def _interval(text: str) -> Trigger:
    length = seconds(text)
    if not 1 <= length <= seconds("1y"):
        raise ValueError("expected every 1s to every 1y")
    return IntervalTrigger(seconds=length, timezone=UTC)


def _check_field(name: str, item: str, word: str) -> None:
    is_weekday = name == "day of week"
    if is_weekday and re.search(r"\d", word):
        raise ValueError(
            f'expected names for the day of week, such as "sun" or "mon-fri": {word}'
            " is one day to cron and another to this scheduler"
        )
    several = rf"({item})(,({item}))*"
    if word != "*" and not re.fullmatch(several, word, re.IGNORECASE | re.ASCII):
        raise ValueError(f"expected a {name}, not {word!r}, in a schedule {EXAMPLE}")


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def coming(trigger: Trigger, now: datetime, count: int) -> list[datetime]:
    """Return when `trigger`, which has no jitter, fires next: `count` times, in UTC."""
    runs: list[datetime] = []
    while len(runs) < count:
        last = runs[-1] if runs else None
        fires = trigger.get_next_fire_time(last, last or now)
        if fires is None:
            break
        runs.append(fires.astimezone(UTC))
    return runs


def is_overdue(trigger: Trigger, since: datetime, now: datetime) -> bool:
    """Return whether `trigger` fired after `since` and up to `now`."""
    if since >= now:
        return False  # the clock was set back; what comes next is not overdue
    fired = trigger.get_next_fire_time(since, now)
    return fired is not None and fired <= now


class Ended(NamedTuple):
    """One run that is over: of which task, and what it raised."""

    task: str
    error: BaseException | None


class _Threads(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """A thread for each run; the scheduler sees to it that none runs twice at once.

    Daemons: a run that hangs, on a dead disk say, must not keep a process from its end.
    Whatever it is in the middle of, a crash may come then as well (I1).
    """

    def __init__(self) -> None:
        super().__init__()
        self._runs: set[threading.Thread] = set()

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self._runs = {run for run in self._runs if run.is_alive()}
        run = threading.Thread(
            target=self._run, args=(job, run_times), name=f"milepost-{job.id}"
        )
        run.daemon = True
        self._runs.add(run)
        run.start()

    def _run(self, job: Any, run_times: list[datetime]) -> None:
        give_way()
        try:
            events = run_job(job, "default", run_times, self._logger.name)
        except BaseException:  # noqa: BLE001 - told to whoever owns the task
            self._run_job_error(job.id, *sys.exc_info()[1:])
        else:
            self._run_job_success(job.id, events)

    def shutdown(self, wait: bool = True) -> None:
        """Return when what runs has returned, if told to wait."""
        for run in self._runs if wait else ():
            run.join()


class Scheduler:
    """Runs tasks in background threads, each never twice at once.

    Schedules live in memory only and are given anew by whoever starts it, so an edited
    schedule can't live on in a stored copy.
    """

    def __init__(
        self,
        on_ended: Callable[[], None] = lambda: None,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`on_ended` is called in some thread when `tend` has something to do."""
        self._on_ended = on_ended
        self._heartbeat_seconds = heartbeat_seconds
        self._retry_seconds = retry_seconds
        self._ended: deque[Ended] = deque(maxlen=100)
        self._failures: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._last_beat = time.monotonic()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            jobstores={"default": MemoryJobStore()},
            # The heartbeat beats in the scheduler's own thread, whatever tasks do.
            executors={_EXECUTOR: _Threads(), _HEARTBEAT: DebugExecutor()},
            job_defaults={
                "misfire_grace_time": None,
                "coalesce": True,
                "max_instances": 1,
            },
        )
        # What a task raised is told once, in one line, by whoever owns the task.
        logging.getLogger(f"apscheduler.executors.{_EXECUTOR}").setLevel("CRITICAL")
        self._scheduler.add_listener(
            self._note,
            EVENT_JOB_EXECUTED
            | EVENT_JOB_ERROR
            | EVENT_JOB_MISSED
            | EVENT_JOB_MAX_INSTANCES,
        )

    def start(self) -> None:
        """Start the threads; tasks that were put before now begin."""
        beat = IntervalTrigger(seconds=self._heartbeat_seconds, timezone=UTC)
        self._scheduler.add_job(
            self._beat, beat, id=_HEARTBEAT, executor=_HEARTBEAT, name=_HEARTBEAT
        )
        self._scheduler.start()

    def stop(self) -> None:
        """Start nothing more, and return when what runs has returned."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def abandon(self) -> None:
        """Start nothing more, without waiting for anything: for one that is dead."""
        if self._scheduler.running:
            threading.Thread(
                target=self._scheduler.shutdown,
                kwargs={"wait": False},
                name="milepost-abandoned",
                daemon=True,
            ).start()

    def put(self, task: str, run: Callable[[], object], trigger: Trigger) -> None:
        """Run `task` by `trigger` from now on, whatever it was run by before."""
        self._scheduler.add_job(
            run,
            trigger,
            id=task,
            name=task,
            executor=_EXECUTOR,
            replace_existing=True,
        )

    def remove(self, task: str) -> None:
        """Run `task` no more; what runs of it goes on."""
        if self._scheduler.get_job(task) is not None:
            self._scheduler.remove_job(task)
        self._failures.pop(task, None)
        self._retry_at.pop(task, None)

    def run_soon(self, task: str) -> None:
        """Run `task` at once, beside its schedule; if it is running, do nothing."""
        if self._scheduler.get_job(task) is not None:
            self._scheduler.modify_job(task, next_run_time=_system_now())

    def next_run(self, task: str) -> datetime | None:
        """Return when `task` is due, in UTC, a retry included; None if never."""
        job = self._scheduler.get_job(task)
        due = getattr(job, "next_run_time", None)
        if due is None:
            return None
        retry_at = self._retry_at.get(task)
        if retry_at is not None:
            wait = timedelta(seconds=max(0.0, retry_at - time.monotonic()))
            due = min(due, _system_now() + wait)
        in_utc: datetime = due.astimezone(UTC)
        return in_utc

    @property
    def is_alive(self) -> bool:
        """Whether its thread lives and runs what is due.

        APScheduler's own ``running`` stays true after its thread has died.
        """
        return self.is_running and self._silent_beats < BEATS_TO_ALARM

    @property
    def is_dead(self) -> bool:
        """Whether another has to take its place; a pause of the machine is no death."""
        return not self.is_running or self._silent_beats > BEATS_TO_REPLACE

    @property
    def is_running(self) -> bool:
        """Whether its thread lives."""
        thread = getattr(self._scheduler, "_thread", None)
        return thread is not None and thread.is_alive()

    @property
    def _silent_beats(self) -> float:
        return (time.monotonic() - self._last_beat) / self._heartbeat_seconds

    def tend(self) -> None:
        """Note which runs failed and start the retries that are due.

        For the caller's own loop, about once a second.  The listener can't do it: it
        runs inside the scheduler, where an exception or a wait stops everything.
        """
        while self._ended:
            ended = self._ended.popleft()
            if ended.error is None:
                self._failures.pop(ended.task, None)
                self._retry_at.pop(ended.task, None)
                continue
            failures = self._failures.get(ended.task, 0)
            self._failures[ended.task] = failures + 1
            wait = min(self._retry_seconds * 2 ** min(failures, 20), RETRY_MAX_SECONDS)
            self._retry_at[ended.task] = time.monotonic() + wait
        for task, due in list(self._retry_at.items()):
            if due <= time.monotonic():
                del self._retry_at[task]
                self.run_soon(task)

    def _beat(self) -> None:
        self._last_beat = time.monotonic()

    def _note(self, event: Any) -> None:
        if event.job_id == _HEARTBEAT or event.code == EVENT_JOB_MAX_INSTANCES:
            return
        self._ended.append(Ended(event.job_id, getattr(event, "exception", None)))
        self._on_ended()


def _system_now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - APScheduler compares with this very clock
