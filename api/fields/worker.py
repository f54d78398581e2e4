"""The JSON form of background work, for HTTP and for ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost.journal.clock import stamp

if TYPE_CHECKING:
    from milepost.journal.store.clock_watch import ClockJump
    from milepost.worker.schedule.last_runs import LastRun
    from milepost.worker.schedule.report import TaskReport
    from milepost.worker.schedules import ScheduleStatus
    from milepost.worker.status import StoredStatus, TaskStatus, WorkerStatus


def worker_fields(status: WorkerStatus) -> dict[str, Any]:
    """Return the status of a worker of this process, and of the store's tasks."""
    return {
        "leader": status.leader,
        "leader_pid": status.leader_pid,
        "scheduler_alive": status.scheduler_alive,
        "tasks": [_task(task) for task in status.tasks],
        "schedules": [schedule_fields(each) for each in status.schedules],
        "watcher": status.watcher,
        "config_problem": status.config_problem,
        "restart_needed": list(status.restart_needed),
        "problem": status.problem,
        "clock_jump": _jump(status.clock_jump),
    }


def stored_fields(status: StoredStatus) -> dict[str, Any]:
    """Return the status that the store's records hold, without any process's own."""
    return {
        "leader": False,
        "leader_pid": status.leader_pid,
        "scheduler_alive": None,
        "tasks": [_task(task) for task in status.tasks],
        "schedules": [schedule_fields(each) for each in status.schedules],
        "watcher": None,
        "config_problem": None,
        "restart_needed": [],
        "problem": status.problem,
        "clock_jump": _jump(status.clock_jump),
    }


def report_fields(report: TaskReport) -> dict[str, Any]:
    """Return one finished run."""
    return {
        **report._asdict(),
        "outcome": report.outcome,
        "line": report.line,
        "started_at": stamp(report.started_at),
        "problems": [found._asdict() for found in report.problems],
    }


def _task(task: TaskStatus) -> dict[str, Any]:
    return {
        "task": task.name,
        "schedule": task.schedule,
        "next_run": task.next_run and stamp(task.next_run),
        "running_since": task.running_since and stamp(task.running_since),
        "last": task.last and _last(task.last),
        "failures": task.failures,
        "resume_after": task.resume_after,
    }


def schedule_fields(schedule: ScheduleStatus) -> dict[str, Any]:
    """Return the status of one schedule."""
    last = schedule.last
    return {
        **schedule._asdict(),
        "next_run": schedule.next_run and stamp(schedule.next_run),
        "last": last and last._asdict(),
    }


def _last(last: LastRun) -> dict[str, Any]:
    return {**last._asdict(), "at": stamp(last.at), "counts": dict(last.counts)}


def _jump(jump: ClockJump | None) -> dict[str, Any] | None:
    return jump and {"at": stamp(jump.at), "by_seconds": jump.by_seconds}
