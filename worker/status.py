"""Status of a store's background work, from a running worker or from its records."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import MilepostError
from milepost.journal.store.clock_memory import ClockMemory
from milepost.journal.store.clock_watch import ClockJump
from milepost.worker.config.settings import NEVER
from milepost.worker.schedule.last_runs import (
    LastRun,
    LastRuns,
    TaskRecord,
    UnreadableLastRuns,
)
from milepost.worker.schedule.schedule_records import (
    ScheduleRecords,
    UnreadableSchedules,
)
from milepost.worker.schedule.scheduler import read_schedule
from milepost.worker.schedules import schedule_statuses
from milepost.worker.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.leases import Lease
    from milepost.worker.config.schedules import ScheduleRule
    from milepost.worker.config.settings import WorkerSettings
    from milepost.worker.schedule.schedule_records import ScheduleRecord
    from milepost.worker.schedules import ScheduleStatus
    from milepost.worker.tasks.task import Task
    from milepost.worker.watcher import Kind

LEASE = "worker"  # of the leader among the workers of a store


class TaskStatus(NamedTuple):
    """Status of one task.

    Attributes:
        next_run: when it is next due, including retries, in UTC; in the past if missed,
            None if its schedule is off.
        running_since: set while it runs in this process.
        last: the last run by any process.
        failures: the number of consecutive runs that raised.
        resume_after: the last job visited by a bounded run; the next run starts after
            it.
    """

    name: str
    schedule: str
    next_run: datetime | None
    running_since: datetime | None
    last: LastRun | None
    failures: int
    resume_after: str | None


class WorkerStatus(NamedTuple):
    """Status of a running worker.

    Attributes:
        leader: whether this worker runs the store's scheduled tasks.
        leader_pid: the leader's process id, None if there is no leader.
        scheduler_alive: whether due tasks would run; False on a follower.
        tasks: in the order of `TASKS`.
        schedules: in the order of the config file.
        watcher: how changes are detected between sweeps.
        config_problem: why the last edit of the config file was refused.
        restart_needed: the edited tables that take effect after a restart.
        problem: the other current problems.
        clock_jump: the clock jump that blocks removals, None if there is none.
    """

    leader: bool
    leader_pid: int | None
    scheduler_alive: bool
    tasks: tuple[TaskStatus, ...]
    watcher: Kind
    config_problem: str | None
    restart_needed: tuple[str, ...]
    problem: str | None
    clock_jump: ClockJump | None
    schedules: tuple[ScheduleStatus, ...] = ()

    def task(self, name: str) -> TaskStatus:
        """Return the status of one task.

        Raises:
            KeyError: there is no task `name`.
        """
        return {task.name: task for task in self.tasks}[name]


class StoredStatus(NamedTuple):
    """The part of `WorkerStatus` that a store keeps."""

    leader_pid: int | None
    tasks: tuple[TaskStatus, ...]
    clock_jump: ClockJump | None
    problem: str | None
    schedules: tuple[ScheduleStatus, ...]


def stored_schedules(
    storage: Storage, rules: Sequence[ScheduleRule], timezone: str, now: datetime
) -> tuple[ScheduleStatus, ...]:
    """Return the status of the schedules of a store, from their records."""
    if not rules:
        return ()
    records: Mapping[str, ScheduleRecord] = {}
    with contextlib.suppress(UnreadableSchedules, OSError, MilepostError):
        records = ScheduleRecords(storage).read()
    return schedule_statuses(rules, records, timezone, now)


def stored_status(
    storage: Storage,
    worker: WorkerSettings,
    now: datetime,
    schedules: Sequence[ScheduleRule] = (),
) -> StoredStatus:
    """Return the status of the work on a store, from its records."""
    records: dict[str, TaskRecord] = {}
    jump = problem = None
    try:
        records, jump = LastRuns(storage).read(), ClockMemory(storage).jump()
    except (UnreadableLastRuns, OSError) as exc:
        problem = f"last runs: {exc}"
    return StoredStatus(
        leader_pid(storage.lease(LEASE)),
        tuple(task_status(task, worker, records.get(task.name), now) for task in TASKS),
        jump,
        problem,
        stored_schedules(storage, schedules, worker.timezone, now),
    )


def leader_pid(lease: Lease) -> int | None:
    """Return the process id of the leader, None if there is none or it is unknown."""
    with contextlib.suppress(MilepostError):
        holder = lease.holder()
        return None if holder is None else holder.pid
    return None


def task_status(
    task: Task, worker: WorkerSettings, record: TaskRecord | None, now: datetime
) -> TaskStatus:
    """Return the status of `task` from its record and its schedule."""
    schedule = getattr(worker, task.name)
    return TaskStatus(
        task.name,
        schedule,
        next_run=_next_run(schedule, worker.timezone, record, now),
        running_since=None,
        last=record.last if record else None,
        failures=record.failures if record else 0,
        resume_after=record.resume_after if record else None,
    )


def _next_run(
    schedule: str, timezone: str, record: TaskRecord | None, now: datetime
) -> datetime | None:
    if schedule == NEVER:
        return None
    trigger = read_schedule(schedule, timezone)
    # If the clock was set back, the next run must not be delayed by that time.
    since = min(record.due_after, now) if record else now
    with contextlib.suppress(OverflowError):
        due = trigger.get_next_fire_time(since, now)
        if isinstance(due, datetime):
            return due.astimezone(UTC)
    return None
