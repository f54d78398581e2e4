"""How a store's background work is: as a worker knows it, or as its files tell it."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.store.clock_memory import ClockMemory
from milepost.journal.store.clock_watch import ClockJump
from milepost.worker.config.settings import NEVER
from milepost.worker.leader import LeaderLock
from milepost.worker.schedule.last_runs import (
    LastRun,
    LastRuns,
    TaskRecord,
    UnreadableLastRuns,
)
from milepost.worker.schedule.scheduler import read_schedule
from milepost.worker.tasks import TASKS

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.worker.config.settings import WorkerSettings
    from milepost.worker.tasks.task import Task
    from milepost.worker.watcher import Kind


class TaskStatus(NamedTuple):
    """One task.

    Attributes:
        next_run: when it is due, in UTC, a retry included; in the past if it was
            missed, None if its schedule is off.
        running_since: set while it runs in this very process.
        last: the last run, whichever process ran it.
        failures: how many runs in a row have raised.
        resume_after: the job before the one the next run begins with, if the last one
            had to leave jobs out.
    """

    name: str
    schedule: str
    next_run: datetime | None
    running_since: datetime | None
    last: LastRun | None
    failures: int
    resume_after: str | None


class WorkerStatus(NamedTuple):
    """How a worker is, for `/readyz`, `/api/worker` and people.

    Attributes:
        leader: whether this worker runs the store's scheduled work.
        leader_pid: the process that does; None if nobody does.
        scheduler_alive: whether what is scheduled would run; False on a follower.
        tasks: in the order of the registry.
        watcher: what notices changes beside the sweep.
        config_problem: why the last edit of the config file is not in force.
        restart_needed: what was edited in it and waits for a restart.
        problem: what else keeps it from its work.
        clock_jump: why nothing is removed for its age.
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

    def task(self, name: str) -> TaskStatus:
        """Return the status of one task.

        Raises:
            KeyError: there is none of that name.
        """
        return {task.name: task for task in self.tasks}[name]


class StoredStatus(NamedTuple):
    """What the files of a store tell about its background work; see `WorkerStatus`."""

    leader_pid: int | None
    tasks: tuple[TaskStatus, ...]
    clock_jump: ClockJump | None
    problem: str | None


def stored_status(
    root: Path | None, worker: WorkerSettings, now: datetime
) -> StoredStatus:
    """Return how the work on the store in `root` is, without any worker's help."""
    folder = root / "worker" if root else None
    last_runs = LastRuns(folder)
    records: dict[str, TaskRecord] = {}
    jump = problem = None
    try:
        records, jump = last_runs.read(), ClockMemory(root).jump()
    except (UnreadableLastRuns, OSError) as exc:
        problem = f"last runs: {exc}"
    return StoredStatus(
        LeaderLock(folder / "lock" if folder else None).leader(),
        tuple(task_status(task, worker, records.get(task.name), now) for task in TASKS),
        jump,
        problem,
    )


def task_status(
    task: Task, worker: WorkerSettings, record: TaskRecord | None, now: datetime
) -> TaskStatus:
    """Return what the record of `task` and its schedule tell."""
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
    # A clock that was set back must not put the next run off by as much.
    since = min(record.due_after, now) if record else now
    with contextlib.suppress(OverflowError):
        due = trigger.get_next_fire_time(since, now)
        if isinstance(due, datetime):
            return due.astimezone(UTC)
    return None
