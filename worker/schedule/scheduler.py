"""The task scheduler: the only module that imports APScheduler.

| APScheduler by default | here |
|---|---|
| drops a run that starts a second late | runs late; several missed runs become one |
| numbers weekdays from Monday, cron from Sunday | weekdays must be named |
| "day of month" and "day of week" must both match, in cron one | only one may be set |
| accepts a schedule that never fires | refused |
| reads ``mon/2`` as ``mon`` | refused |
| runs a failed task at its next scheduled time | retries with exponential backoff |
| reports a dead scheduler thread as running | a heartbeat, and a check of the thread |
| delays due tasks while its pool is full | one thread per run |
| the interpreter waits for the pool at exit | daemon threads |
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
# Missed heartbeats until the scheduler counts as not alive, and until it is replaced.
BEATS_TO_ALARM = 4
BEATS_TO_REPLACE = 9
EXAMPLE = 'such as "0 3 * * *", "*/15 * * * mon-fri" or "every 30s"'

_HEARTBEAT = "heartbeat"
_EXECUTOR = "milepost"
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_NUMERIC = r"(\*|\d+(-\d+)?)(/\d+)?"
_NAMED = r"[a-z]{3}(-[a-z]{3})?"
_ITEM = (_NUMERIC, _NUMERIC, rf"{_NUMERIC}|last", rf"{_NUMERIC}|{_NAMED}", _NAMED)
# Any time works: whether a schedule of five fields ever fires does not depend on it.
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)

# An APScheduler trigger; the package has no types.
Trigger = Any


def read_schedule(
    text: str, timezone: str = "UTC", *, jitter_seconds: float = 0.0
) -> Trigger:
    """Return the trigger for `text`: five cron fields, or ``every <duration>``.

    `jitter_seconds` delays cron runs randomly, so that many stores do not start at
    once.  Intervals count from the start of the process and need none.

    Raises:
        ValueError: the schedule is malformed, ambiguous or never fires.
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
            "expected a day of month or a day of week, not both: cron runs if either"
            " matches, this scheduler only if both match"
        )
    try:
        trigger = CronTrigger.from_crontab(text.lower(), timezone=_zone(timezone))
    except ValueError as exc:
        raise ValueError(f"expected a schedule {EXAMPLE}: {exc}") from exc
    if trigger.get_next_fire_time(None, _SOME_DAY) is None:
        raise ValueError("expected a schedule that fires; this one never does")
    trigger.jitter = jitter_seconds or None
    return trigger


def read_cron(text: str) -> Trigger:
    """Return the trigger of five cron fields, for times on the wall.

    Raises:
        ValueError: they are malformed, ambiguous or never fire.
    """
    if text.split()[:1] == ["every"]:
        raise ValueError(
            'expected five fields (minute hour day month weekday), such as "30 2 * * *"'
        )
    return read_schedule(text)


def _interval(text: str) -> Trigger:
    length = seconds(text)
    if not 1 <= length <= seconds("1y"):
        raise ValueError("expected every 1s to every 1y")
    return IntervalTrigger(seconds=length, timezone=UTC)


def _check_field(name: str, item: str, word: str) -> None:
    is_weekday = name == "day of week"
    if is_weekday and re.search(r"\d", word):
        raise ValueError(
            f'expected names for the day of week, such as "sun" or "mon-fri", not'
            f" {word}: cron and this scheduler number the days differently"
        )
    several = rf"({item})(,({item}))*"
    if word != "*" and not re.fullmatch(several, word, re.IGNORECASE | re.ASCII):
        raise ValueError(f"expected a {name}, not {word!r}, in a schedule {EXAMPLE}")


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def coming(trigger: Trigger, now: datetime, count: int) -> list[datetime]:
    """Return the next `count` times, in UTC, of a `trigger` without jitter."""
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
        return False  # the clock was set back
    fired = trigger.get_next_fire_time(since, now)
    return fired is not None and fired <= now


class Ended(NamedTuple):
    """The end of a task's run, with the exception that it raised."""

    task: str
    error: BaseException | None


class _Threads(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """An APScheduler executor with one thread per run.

    Daemon threads: a blocked run, for example on a dead disk, must not keep the process
    from exiting.  Ending a run this way is as safe as a crash (I1).
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
        except BaseException:  # noqa: BLE001 - reported to the listener
            self._run_job_error(job.id, *sys.exc_info()[1:])
        else:
            self._run_job_success(job.id, events)

    def shutdown(self, wait: bool = True) -> None:
        """Join the running threads if `wait`."""
        for run in self._runs if wait else ():
            run.join()


class Scheduler:
    """Runs tasks in background threads; a task never runs twice at once.

    Schedules are kept in memory only, so a stored copy cannot outlive an edited config
    file.
    """

    def __init__(
        self,
        on_ended: Callable[[], None] = lambda: None,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`on_ended` is called, in any thread, when `tend` has work to do."""
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
            # The heartbeat runs in the scheduler's own thread, independent of tasks.
            executors={_EXECUTOR: _Threads(), _HEARTBEAT: DebugExecutor()},
            job_defaults={
                "misfire_grace_time": None,
                "coalesce": True,
                "max_instances": 1,
            },
        )
        # The runner logs a failed task in one line; APScheduler would log it again.
        logging.getLogger(f"apscheduler.executors.{_EXECUTOR}").setLevel("CRITICAL")
        self._scheduler.add_listener(
            self._note,
            EVENT_JOB_EXECUTED
            | EVENT_JOB_ERROR
            | EVENT_JOB_MISSED
            | EVENT_JOB_MAX_INSTANCES,
        )

    def start(self) -> None:
        """Start the threads; tasks already added become active."""
        beat = IntervalTrigger(seconds=self._heartbeat_seconds, timezone=UTC)
        self._scheduler.add_job(
            self._beat, beat, id=_HEARTBEAT, executor=_HEARTBEAT, name=_HEARTBEAT
        )
        self._scheduler.start()

    def stop(self) -> None:
        """Start no more runs, and wait for the current ones."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def abandon(self) -> None:
        """Start no more runs, without waiting; for a dead scheduler."""
        if self._scheduler.running:
            threading.Thread(
                target=self._scheduler.shutdown,
                kwargs={"wait": False},
                name="milepost-abandoned",
                daemon=True,
            ).start()

    def put(self, task: str, run: Callable[[], object], trigger: Trigger) -> None:
        """Schedule `task` by `trigger`, replacing its previous schedule."""
        self._scheduler.add_job(
            run,
            trigger,
            id=task,
            name=task,
            executor=_EXECUTOR,
            replace_existing=True,
        )

    def remove(self, task: str) -> None:
        """Unschedule `task`; a current run continues."""
        if self._scheduler.get_job(task) is not None:
            self._scheduler.remove_job(task)
        self._failures.pop(task, None)
        self._retry_at.pop(task, None)

    def run_soon(self, task: str) -> None:
        """Run `task` now, in addition to its schedule; no-op while it runs."""
        if self._scheduler.get_job(task) is not None:
            self._scheduler.modify_job(task, next_run_time=_system_now())

    def next_run(self, task: str) -> datetime | None:
        """Return when `task` is next due, including retries, in UTC; None if never."""
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
        """Whether its thread runs and its heartbeat is recent.

        APScheduler's own ``running`` stays true after its thread has died.
        """
        return self.is_running and self._silent_beats < BEATS_TO_ALARM

    @property
    def is_dead(self) -> bool:
        """Whether it must be replaced; the limit allows for pauses of the machine."""
        return not self.is_running or self._silent_beats > BEATS_TO_REPLACE

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""
        thread = getattr(self._scheduler, "_thread", None)
        return thread is not None and thread.is_alive()

    @property
    def _silent_beats(self) -> float:
        return (time.monotonic() - self._last_beat) / self._heartbeat_seconds

    def tend(self) -> None:
        """Record failed runs and start the retries that are due.

        Call it about once a second.  The listener cannot do this: it runs inside the
        scheduler, where an exception or a wait would stop all tasks.
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
    return datetime.now(UTC)  # noqa: TID251 - APScheduler uses this clock
