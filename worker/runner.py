"""Running a task and recording the outcome, for scheduled and manual runs."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from milepost.journal.store.clock_guard import why_waiting
from milepost.worker.config.settings import NEVER
from milepost.worker.schedule.last_runs import (
    LastRun,
    LastRuns,
    TaskRecord,
    UnreadableLastRuns,
)
from milepost.worker.schedule.report import TaskReport
from milepost.worker.schedule.scheduler import is_overdue, read_schedule
from milepost.worker.tasks import TASK_NAMES
from milepost.worker.tasks.task import Progress, Silent, Task, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from milepost.journal.manager import CheckpointManager
    from milepost.journal.store.clock_guard import ClockGuard
    from milepost.worker.config.settings import Settings, WorkerSettings
    from milepost.worker.problems import Problems

log = logging.getLogger("milepost.worker")


class Runner:
    """Runs tasks on one store; a task never runs twice at once in this process."""

    def __init__(
        self,
        manager: CheckpointManager,
        last_runs: LastRuns,
        guard: ClockGuard,
        problems: Problems,
        *,
        clock: Callable[[], datetime],
        steady: Callable[[], float],
        stop: threading.Event,
    ) -> None:
        """`stop` ends current runs early and later runs at once."""
        self._manager = manager
        self._last_runs = last_runs
        self._guard = guard
        self._problems = problems
        self._clock = clock
        self._steady = steady
        self._stop = stop
        self._locks = {name: threading.Lock() for name in TASK_NAMES}
        self.running_since: dict[str, datetime] = {}

    def run(
        self,
        task: Task,
        settings: Settings,
        *,
        now: datetime | None = None,
        progress: Progress | None = None,
    ) -> TaskReport:
        """TaskContext `task` now, in this thread, even if another process leads (I8).

        Ages count from `now`, the current time unless given.

        Raises:
            MilepostError: the jobs can't be listed; the failure is recorded.
        """
        with self._locks[task.name]:
            began = self._steady()
            now = now or self._clock()
            before = self._record(task) or TaskRecord(due_after=now)
            self.running_since[task.name] = now
            run = TaskContext(
                self._manager,
                settings,
                now,
                before.resume_after,
                self._stop,
                progress or Silent(),
                self._steady,
                began + settings.worker.max_run_seconds,
            )
            try:
                report = self._waiting(task, run) or task.run(run)
            except BaseException as exc:
                text = f"{type(exc).__name__}: {exc}"
                took = self._steady() - began
                last = LastRun(now, "failed", took, error=text)
                # `due_after` is unchanged, so a restarted worker runs the task again.
                self._remember(
                    task, before._replace(last=last, failures=before.failures + 1)
                )
                log.error("%s failed: %s", task.name, text)  # noqa: TRY400 - it is raised
                raise
            finally:
                del self.running_since[task.name]
            report = report._replace(duration_seconds=self._steady() - began)
            self._remember(task, _record_of(report, before))
            level = logging.INFO if report.outcome == "ok" else logging.WARNING
            log.log(level, "%s %s: %s", task.name, report.outcome, report.line)
            return report

    def _waiting(self, task: Task, run: TaskContext) -> TaskReport | None:
        """Return the report of a refused run if the clock is not trusted, else None."""
        if not task.counts_ages:
            return None
        # The leader checks once a second, but a clock jump can make a run due before.
        with self._problems.noting("clock", OSError):
            worker = run.settings.worker
            self._guard.look(worker.max_clock_jump_seconds, worker.max_downtime_seconds)
        if self._guard.jump is None:
            return None
        return TaskReport(
            task.name,
            run.now,
            resume_after=run.resume_after,
            waits_for=why_waiting(self._guard.jump),
        )

    def is_overdue(self, task: Task, worker: WorkerSettings) -> bool:
        """Return whether a run of `task` was missed; False in a new store."""
        schedule = getattr(worker, task.name)
        if schedule == NEVER:
            return False
        now = self._clock()
        try:
            record = self._last_runs.read().get(task.name)
        except (UnreadableLastRuns, OSError) as exc:
            # An extra run is harmless, a missing one is not.
            log.warning("assuming that a %s run was missed: %s", task.name, exc)
            return True
        if record is None:
            # A new store: only runs due from now on can be missed.
            self._remember(task, TaskRecord(due_after=now))
            return False
        trigger = read_schedule(schedule, worker.timezone)
        return is_overdue(trigger, record.due_after, now)

    def _record(self, task: Task) -> TaskRecord | None:
        with contextlib.suppress(UnreadableLastRuns, OSError):
            return self._last_runs.read().get(task.name)
        return None

    def _remember(self, task: Task, record: TaskRecord) -> None:
        if not has_store(self._manager):
            return
        with self._problems.noting(f"last run of {task.name}", OSError):
            self._last_runs.write(task.name, record)


def has_store(manager: CheckpointManager) -> bool:
    """Return whether the store exists; no lock file is created in a mistyped folder."""
    root = manager.root
    return root is None or (root / "journals").is_dir()


def _record_of(report: TaskReport, before: TaskRecord) -> TaskRecord:
    last = LastRun(
        report.started_at,
        report.outcome,
        report.duration_seconds,
        report.line,
        report.counts,
        report.problems[0].message if report.problems else None,
    )
    # A stopped or waiting run is still due, so a restarted worker runs it again.
    is_done = report.is_complete and report.waits_for is None
    due_after = report.started_at if is_done else before.due_after
    failures = 0 if report.is_complete else before.failures
    return TaskRecord(due_after, last, report.resume_after, failures)
