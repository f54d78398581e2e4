"""The worker of one store: leader election, scheduled tasks, change notification.

    thread             does
    milepost-worker    waits for the lease; as leader: plans, retries, supervises
    APScheduler        starts due tasks, each run in its own thread
    milepost-watcher   refreshes the index; reloads an edited config file
    milepost-supervisor  looks after executions; see `worker.supervisor`
    milepost-webhook…  send events; see `worker.webhooks`

Every worker watches, because each process has its own index; only the leader runs
scheduled tasks.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal.clock import utc_now
from milepost.journal.errors import MilepostError
from milepost.journal.store.clock_guard import ClockGuard
from milepost.journal.store.clock_memory import ClockMemory
from milepost.journal.store.clock_watch import ClockWatch, steady_seconds
from milepost.worker.config.files import ConfigError, signature
from milepost.worker.config.settings import NEVER, load
from milepost.worker.config.workflows import rule_of
from milepost.worker.executors import STOP_SECONDS as STOP_JOBS_SECONDS
from milepost.worker.functions import Functions, FunctionUnusable
from milepost.worker.problems import Problems
from milepost.worker.runner import Runner, has_store
from milepost.worker.schedule.last_runs import LastRuns, TaskRecord, UnreadableLastRuns
from milepost.worker.schedule.scheduler import (
    HEARTBEAT_SECONDS,
    RETRY_SECONDS,
    Scheduler,
    read_schedule,
)
from milepost.worker.schedules import Schedules
from milepost.worker.status import (
    LEASE,
    TaskStatus,
    WorkerStatus,
    leader_pid,
    stored_schedules,
    task_status,
)
from milepost.worker.supervisor import Supervisor
from milepost.worker.tasks import TASKS
from milepost.worker.watcher import ConfigWatch, Watcher, WatchTiming
from milepost.worker.webhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from milepost.journal.manager import CheckpointManager
    from milepost.journal.store.clock_watch import ClockJump
    from milepost.worker.config.schedules import ScheduleRule
    from milepost.worker.config.settings import Settings, WorkerSettings
    from milepost.worker.config.workflows import WorkflowRule
    from milepost.worker.executors import Executor
    from milepost.worker.schedule.report import TaskReport
    from milepost.worker.schedules import ScheduleStatus
    from milepost.worker.tasks.task import Progress

SCHEDULES = "schedules"  # the task of the scheduler that looks for due slots
LEAD_POLL_SECONDS = 1.0
TEND_SECONDS = 1.0
STOP_SECONDS = 8.0
# Edits of these tables take effect only after a restart.
FIXED_TABLES = ("store", "api", "executor")

log = logging.getLogger("milepost.worker")


class Worker:
    """Does a store's background work until it is stopped; cannot be restarted."""

    def __init__(
        self,
        manager: CheckpointManager,
        settings: Settings,
        *,
        executor: Executor | None = None,
        config_path: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
        steady: Callable[[], float] = steady_seconds,
        retry_seconds: float = RETRY_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Create the worker without starting it.

        `executor` resumes executions that no function of `settings` runs; without one,
        they wait for a process that takes their lease.  `config_path` is watched for
        edits; by default the file of `settings`.  `steady` returns seconds of a clock
        that cannot be set, unlike `clock`.  `retry_seconds` is the wait after a failed
        run, doubled after each further failure.

        Raises:
            FunctionUnusable: a function of `settings` cannot be used.
            ConfigError: nothing would run the workflow of a schedule.
        """
        self._manager = manager
        self._settings = settings
        self._config_path = config_path or settings.file
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._lease = manager.storage.lease(LEASE)
        self._last_runs = LastRuns(manager.storage)
        self._stop = threading.Event()
        self._bell = threading.Event()
        self._problems = Problems()
        self._clock_memory = ClockMemory(manager.storage)
        self._guard = ClockGuard(
            ClockWatch(clock, steady), self._clock_memory, manager.event_times, clock
        )
        manager.clock_guard = self._guard
        self._runner = Runner(
            manager,
            self._last_runs,
            self._guard,
            self._problems,
            clock=clock,
            steady=steady,
            stop=self._stop,
        )
        self._functions = Functions(manager.root, settings.log_dir, self._process_ended)
        self._has_executor = executor is not None
        self._rules = self._bound(settings)
        self._supervisor = Supervisor(
            manager,
            executor,
            lambda name: rule_of(self._rules, name),
            self._problems,
            clock=clock,
            may_expire=lambda: self._guard.jump is None,
            executor_of=self._functions.executor,
        )
        self._schedules = Schedules(
            manager,
            self._problems,
            clock=clock,
            may_start=lambda: self._guard.jump is None,
            version_of=lambda name: self._functions.version(rule_of(self._rules, name)),
            on_started=lambda job_id: self._supervisor.notice((job_id,)),
        )
        self._webhooks = Webhooks(manager, self._problems, clock=clock, steady=steady)
        self._scheduler: Scheduler | None = None
        self._planned: tuple[WorkerSettings, list[ScheduleRule]] | None = None
        self._is_held = False
        self._config_problem: str | None = None
        self._restart_needed: tuple[str, ...] = ()
        self._watcher = self._make_watcher()
        self._thread = threading.Thread(
            target=self._run, name="milepost-worker", daemon=True
        )
        manager.trash_seconds = settings.retention.trash_seconds
        manager.policies = settings.retention.policies

    def _bound(self, settings: Settings) -> list[WorkflowRule]:
        """Return the rules of workflows as they apply.

        Raises:
            FunctionUnusable: a function cannot be used.
            ConfigError: nothing would run the workflow of a schedule.
        """
        rules = self._functions.bind(settings.workflows)
        for place, schedule in enumerate(settings.schedule):
            rule = rule_of(rules, schedule.workflow)
            if not (rule.auto_resume and (rule.function or self._has_executor)):
                raise ConfigError(
                    f"{settings.file or 'settings'}: schedule[{place}].workflow = "
                    f'"{schedule.workflow}": expected a workflow that the worker starts'
                    "; add [[workflows]] with its function, or with auto_resume = true"
                    " and an [executor]"
                )
        return rules

    def _make_watcher(self) -> Watcher:
        config = None
        if path := self._config_path:
            is_same = path == self._settings.file
            seen = self._settings.signature if is_same else signature(path)
            config = ConfigWatch(path, seen, self._reload)
        root = self._manager.root
        return Watcher(
            root / "journals" if root else None,
            self._catch_up,
            config=config,
            on_hint=self._supervisor.hint,
            pace=_pace(self._settings.worker),
        )

    # -- life ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads; the worker leads once no other worker does.

        Raises:
            RuntimeError: it was started before.
        """
        self._thread.start()
        self._watcher.start()

    def ask_to_stop(self) -> None:
        """Request a stop without waiting; safe in a signal handler."""
        self._stop.set()
        self._bell.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait up to `timeout_seconds` for the end; return whether it has ended."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Stop and wait: the watcher, then running tasks; then release the lease.

        A run ends between two jobs, or between two pieces of one.  A run still blocked
        after `timeout_seconds`, for example on another process's lock, is logged and
        ends with the process.
        """
        deadline = time.monotonic() + timeout_seconds
        self.ask_to_stop()
        is_over = self._watcher.stop(timeout_seconds)
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if not is_over or self._thread.is_alive():
            log.warning("still busy after %g s; no longer waiting", timeout_seconds)

    @property
    def settings(self) -> Settings:
        """The current settings, including edits that need no restart."""
        return self._settings

    @property
    def status(self) -> WorkerStatus:
        """The current status."""
        scheduler = self._scheduler
        is_leader = scheduler is not None
        return WorkerStatus(
            leader=is_leader,
            leader_pid=leader_pid(self._lease),
            scheduler_alive=scheduler is not None and scheduler.is_alive,
            tasks=tuple(self._task_statuses(scheduler)),
            schedules=self._schedule_statuses(),
            watcher=self._watcher.kind,
            config_problem=self._config_problem,
            restart_needed=self._restart_needed,
            problem=str(self._problems) or None,
            clock_jump=self._guard.jump if is_leader else self._stored_jump(),
        )

    def _task_statuses(self, scheduler: Scheduler | None) -> Iterable[TaskStatus]:
        worker, now = self._settings.worker, self._clock()
        records: dict[str, TaskRecord] = {}
        with contextlib.suppress(UnreadableLastRuns, OSError):
            records = self._last_runs.read()
        for task in TASKS:
            status = task_status(task, worker, records.get(task.name), now)
            since = self._runner.running_since.get(task.name)
            due = scheduler.next_run(task.name) if scheduler else None
            yield status._replace(running_since=since, next_run=due or status.next_run)

    def _schedule_statuses(self) -> tuple[ScheduleStatus, ...]:
        settings, storage = self._settings, self._manager.storage
        timezone = settings.worker.timezone
        return stored_schedules(storage, settings.schedule, timezone, self._clock())

    def _stored_jump(self) -> ClockJump | None:
        with contextlib.suppress(OSError):
            return self._clock_memory.jump()
        return None

    # -- one run ---------------------------------------------------------------------

    def run_task(
        self,
        name: str,
        now: datetime | None = None,
        *,
        progress: Progress | None = None,
    ) -> TaskReport:
        """Run the task `name` now, in this thread, even if another process leads (I8).

        Raises:
            KeyError: there is no such task.
            MilepostError: the jobs can't be listed; the failure is recorded.
        """
        task = {task.name: task for task in TASKS}[name]
        return self._runner.run(task, self._settings, now=now, progress=progress)

    def _run_due(self, name: str) -> object:
        """Run a task for the scheduler, unless the lease was lost meanwhile."""
        return self.run_task(name) if self._lease.is_held() else None

    def trust_clock(self) -> ClockJump | None:
        """Accept the clock after a detected jump; return that jump, None if none.

        Raises:
            OSError: the decision can't be stored.
        """
        jump = self._guard.trust()
        if jump is not None:
            self._is_held = True  # makes the next check run the waiting tasks
            self._bell.set()
        return jump

    # -- leading ---------------------------------------------------------------------

    def _run(self) -> None:
        is_waiting = False
        while not self._stop.is_set():
            leads = False
            if has_store(self._manager):
                with self._problems.noting("lease", MilepostError):
                    leads = self._lease.acquire(LEASE)
            if leads:
                with self._problems.noting("leading", Exception):
                    self._lead()
                self._lease.release()
            elif not is_waiting:
                log.info("waiting: %s", self._why_waiting())
            is_waiting = not leads
            self._guard.pass_over()
            self._stop.wait(LEAD_POLL_SECONDS)
        self._functions.stop_all(STOP_JOBS_SECONDS)

    def _why_waiting(self) -> str:
        if not has_store(self._manager):
            return f"no store in {self._manager.root} yet"
        pid = leader_pid(self._lease)
        leader = "another process" if pid is None else f"process {pid}"
        return self._problems.get("lease") or f"{leader} leads"

    def _lead(self) -> None:
        log.info("leading")
        self._supervisor.start()
        try:
            while not self._stop.is_set():
                if not self._lease.renew():
                    log.warning("the lease was lost; no longer leading")
                    return
                self._tend()
                self._webhooks.tend(self._settings.webhooks, self._settings.environ)
                self._problems.settle("leading")
                self._bell.wait(TEND_SECONDS)
                self._bell.clear()
        finally:
            self._supervisor.stop(STOP_SECONDS)
            if self._stop.is_set():
                self._functions.stop_all(STOP_JOBS_SECONDS)
            self._webhooks.stop()
            scheduler, self._scheduler = self._scheduler, None
            if scheduler:
                scheduler.stop()

    def _tend(self) -> None:
        scheduler = self._scheduler
        if scheduler is not None and scheduler.is_dead:
            log.error("the scheduler died; starting another")
            scheduler.abandon()
            scheduler = None
        if scheduler is None:
            self._planned = None
            scheduler = Scheduler(
                self._bell.set,
                heartbeat_seconds=self._heartbeat_seconds,
                retry_seconds=self._retry_seconds,
            )
            scheduler.start()
            self._scheduler = scheduler
        settings = self._settings
        if self._planned != (settings.worker, settings.schedule):
            self._plan(scheduler, settings.worker)
            self._plan_schedules(scheduler, settings.schedule)
            self._planned = settings.worker, settings.schedule
        if self._schedules.is_late:
            scheduler.run_soon(SCHEDULES)
        self._look_at_clock(scheduler)
        scheduler.tend()

    def _plan(self, scheduler: Scheduler, worker: WorkerSettings) -> None:
        for task in TASKS:
            schedule = getattr(worker, task.name)
            if schedule == NEVER:
                scheduler.remove(task.name)
                continue
            trigger = read_schedule(
                schedule, worker.timezone, jitter_seconds=worker.jitter_seconds
            )
            scheduler.put(task.name, partial(self._run_due, task.name), trigger)
            if self._runner.is_overdue(task, worker):
                log.info("a %s run was missed; running it now", task.name)
                scheduler.run_soon(task.name)

    def _plan_schedules(
        self, scheduler: Scheduler, rules: Sequence[ScheduleRule]
    ) -> None:
        """Look for due slots now and each minute; no slot is between two minutes."""
        self._schedules.forget_others(rules)
        if not rules:
            scheduler.remove(SCHEDULES)
            return
        scheduler.put(SCHEDULES, self._look_for_slots, read_schedule("* * * * *"))
        scheduler.run_soon(SCHEDULES)

    def _look_for_slots(self) -> None:
        if self._lease.is_held():
            settings = self._settings
            self._schedules.look(settings.schedule, settings.worker.timezone)

    def _look_at_clock(self, scheduler: Scheduler) -> None:
        with self._problems.noting("clock", OSError):
            worker = self._settings.worker
            self._guard.look(worker.max_clock_jump_seconds, worker.max_downtime_seconds)
        was_held, self._is_held = self._is_held, self._guard.jump is not None
        if was_held and not self._is_held:
            for task in TASKS:
                if task.counts_ages:  # it was waiting for a trusted clock
                    scheduler.run_soon(task.name)

    # -- callbacks ---------------------------------------------------------------------

    def _process_ended(self) -> None:
        self._supervisor.process_ended()

    def _catch_up(self, job_ids: Collection[str] | None) -> None:
        self._webhooks.notice(job_ids)
        with self._problems.noting("catching up", MilepostError):
            self._manager.refresh(job_ids)
        self._supervisor.notice(job_ids)

    def _reload(self) -> None:
        try:
            edited = load(self._config_path, environ=self._settings.environ)
            rules = self._bound(edited)
        except (ConfigError, FunctionUnusable) as exc:
            self._config_problem = str(exc)
            log.warning("keeping the last valid settings: %s", exc)
            return
        before = self._settings
        fixed = {table: getattr(before, table) for table in FIXED_TABLES}
        waiting = [t for t in FIXED_TABLES if getattr(edited, t) != fixed[t]]
        if edited.worker.enabled != before.worker.enabled:
            waiting.append("worker.enabled")
            enabled = {"enabled": before.worker.enabled}
            fixed["worker"] = edited.worker.model_copy(update=enabled)
        self._settings, self._rules = edited.model_copy(update=fixed), rules
        self._config_problem = None
        self._restart_needed = tuple(waiting)
        self._manager.trash_seconds = edited.retention.trash_seconds
        self._manager.policies = edited.retention.policies
        self._watcher.set_pace(_pace(edited.worker))
        self._bell.set()
        log.info("reloaded %s", self._config_path)
        if waiting:
            log.warning("restart to apply changes of: %s", ", ".join(waiting))


def _pace(worker: WorkerSettings) -> WatchTiming:
    return WatchTiming(worker.watcher, worker.sweep_seconds, worker.debounce_seconds)
