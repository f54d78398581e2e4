"""The worker of one store: leads or waits, runs retention, notices changes.

    thread             does
    milepost-worker    waits for the lock; leads: plans, retries, looks after the rest
    APScheduler + pool runs the retention pass when it is due
    milepost-watcher   catches up with other processes; tells of config edits

Every worker watches, because each process has an index of its own; only the leader
runs what is scheduled.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from journal.clock import utc_now
from journal.errors import MilepostError
from worker.last_runs import LastRun, LastRuns, TaskRecord, UnreadableLastRuns
from worker.leader import LeaderLock
from worker.scheduler import RETRY_SECONDS, Scheduler, is_overdue, read_schedule
from worker.settings import load
from worker.sources import ConfigError, signature
from worker.tasks import retention_pass
from worker.watcher import ConfigWatch, Kind, Pace, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from datetime import datetime
    from pathlib import Path

    from journal import CheckpointManager
    from worker.settings import Settings, WorkerSettings
    from worker.tasks import RunReport

RETENTION = "retention"
LEAD_POLL_SECONDS = 1.0
TEND_SECONDS = 1.0
STOP_SECONDS = 10.0
# What an edit of these tables would change was fixed when the process started.
FIXED_TABLES = ("store", "api", "executor")

log = logging.getLogger("milepost.worker")


class WorkerStatus(NamedTuple):
    """How a worker is, for `/readyz`, `doctor` and people.

    Attributes:
        leader: whether this worker runs the store's scheduled work.
        scheduler_alive: whether what is scheduled would run; False on a follower.
        last_runs: by task, whichever process ran it.
        watcher: what notices changes beside the sweep.
        config_problem: why the last edit of the config file is not in force.
        restart_needed: what was edited in it and waits for a restart.
        problem: what else keeps it from its work.
        next_run: when retention is due, in UTC.
    """

    leader: bool
    scheduler_alive: bool
    last_runs: dict[str, LastRun]
    watcher: Kind
    config_problem: str | None
    restart_needed: tuple[str, ...]
    problem: str | None
    next_run: datetime | None


class Worker:
    """Does a store's background work until it is stopped; then make a new one."""

    def __init__(
        self,
        manager: CheckpointManager,
        settings: Settings,
        *,
        config_path: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`config_path` is watched for edits; by default, where `settings` came from.

        `retry_seconds` is the first wait after a task that raised; each next is twice
        as long.
        """
        self._manager = manager
        self._settings = settings
        self._config_path = config_path or settings.file
        self._clock = clock
        self._retry_seconds = retry_seconds
        folder = manager.root / "worker" if manager.root else None
        self._lock = LeaderLock(folder / "lock" if folder else None)
        self._last_runs = LastRuns(folder)
        self._one_pass = threading.Lock()
        self._stop = threading.Event()
        self._bell = threading.Event()
        self._scheduler: Scheduler | None = None
        self._planned: WorkerSettings | None = None
        self._config_problem: str | None = None
        self._restart_needed: tuple[str, ...] = ()
        self._problems: dict[str, str] = {}
        self._watcher = self._make_watcher()
        self._thread = threading.Thread(
            target=self._run, name="milepost-worker", daemon=True
        )
        manager.trash_seconds = settings.retention.trash_seconds
        manager.policies = settings.retention.policies

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
            pace=_pace(self._settings.worker),
        )

    # -- life ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads; leading begins as soon as no other worker does.

        Raises:
            RuntimeError: it was started before.
        """
        self._thread.start()
        self._watcher.start()

    def ask_to_stop(self) -> None:
        """Let everything end soon, without waiting; safe in a signal handler."""
        self._stop.set()
        self._bell.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait until it has ended, or `timeout_seconds`; return whether it has."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Stop and wait: watcher first, then what runs, then the lock is free.

        A pass ends between two jobs.  What is not over in time (another process may
        hold a job's lock) is left to end by itself, and said so.
        """
        deadline = time.monotonic() + timeout_seconds
        self.ask_to_stop()
        is_over = self._watcher.stop(timeout_seconds)
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if not is_over or self._thread.is_alive():
            log.warning("still busy after %g s, not waiting longer", timeout_seconds)

    @property
    def settings(self) -> Settings:
        """The settings in force: as started, with the edits that take effect."""
        return self._settings

    @property
    def status(self) -> WorkerStatus:
        """How it is right now."""
        scheduler = self._scheduler
        return WorkerStatus(
            leader=scheduler is not None,
            scheduler_alive=scheduler is not None and scheduler.is_alive,
            last_runs=self._read_last_runs(),
            watcher=self._watcher.kind,
            config_problem=self._config_problem,
            restart_needed=self._restart_needed,
            problem="; ".join(self._problems.values()) or None,
            next_run=scheduler.next_run(RETENTION) if scheduler else None,
        )

    # -- the retention pass ----------------------------------------------------------

    def run_once(self, now: datetime | None = None) -> RunReport:
        """Run one retention pass here and now, whoever leads (I8).

        Raises:
            MilepostError: the jobs can't be listed; the failure is on record.
        """
        with self._one_pass:
            now = now or self._clock()
            before = self._record() or TaskRecord(due_after=now)
            try:
                report = retention_pass(
                    self._manager,
                    self._settings.retention,
                    now=now,
                    stop=self._stop,
                    resume_after=before.resume_after,
                )
            except BaseException as exc:
                # Still due, so that a restart makes up for it.
                text = f"{type(exc).__name__}: {exc}"
                self._remember(before._replace(last=LastRun(now, "failed", error=text)))
                log.error("retention failed: %s", text)  # noqa: TRY400 - it is raised
                raise
            self._remember(_record_of(report, before))
            is_clean = report.outcome == "ok"
            log.log(logging.INFO if is_clean else logging.WARNING, "%s", report.line)
            return report

    def _record(self) -> TaskRecord | None:
        with contextlib.suppress(UnreadableLastRuns, OSError):
            return self._last_runs.read().get(RETENTION)
        return None

    def _read_last_runs(self) -> dict[str, LastRun]:
        with contextlib.suppress(UnreadableLastRuns, OSError):
            tasks = self._last_runs.read().items()
            return {task: each.last for task, each in tasks if each.last}
        return {}

    def _remember(self, record: TaskRecord) -> None:
        if not self._has_store():
            return
        with self._noting("last run", OSError):
            self._last_runs.write(RETENTION, record)

    # -- leading ---------------------------------------------------------------------

    def _run(self) -> None:
        is_waiting = False
        while not self._stop.is_set():
            leads = False
            if self._has_store():
                with self._noting("lock", OSError):
                    leads = self._lock.take()
            if leads:
                with self._noting("leading", Exception):
                    self._lead()
                self._lock.release()
            elif not is_waiting:
                log.info("waiting: %s", self._why_waiting())
            is_waiting = not leads
            self._stop.wait(LEAD_POLL_SECONDS)

    def _has_store(self) -> bool:
        # A mistyped folder must not get a lock file, and an unmounted disk no folder.
        root = self._manager.root
        return root is None or (root / "journals").is_dir()

    def _why_waiting(self) -> str:
        if not self._has_store():
            return f"no store in {self._manager.root} yet"
        return self._problems.get("lock") or f"{self._lock.holder()} leads"

    def _lead(self) -> None:
        log.info("leading")
        try:
            while not self._stop.is_set():
                if not self._lock.is_held():
                    log.warning("the lock file was replaced, leading no more")
                    return
                self._tend()
                self._problems.pop("leading", None)
                self._bell.wait(TEND_SECONDS)
                self._bell.clear()
        finally:
            scheduler, self._scheduler = self._scheduler, None
            if scheduler:
                scheduler.stop()

    def _tend(self) -> None:
        if self._scheduler and not self._scheduler.is_running:
            log.error("the scheduler's thread died, starting another")
            self._scheduler.stop()
            self._scheduler = None
        if self._scheduler is None:
            self._planned = None
            scheduler = Scheduler(self._bell.set, retry_seconds=self._retry_seconds)
            scheduler.start()
            self._scheduler = scheduler
        if self._planned != self._settings.worker:
            self._plan(self._scheduler, self._settings.worker)
        self._scheduler.tend()

    def _plan(self, scheduler: Scheduler, worker: WorkerSettings) -> None:
        jitter = worker.jitter_seconds
        trigger = read_schedule(worker.cleanup, worker.timezone, jitter_seconds=jitter)
        scheduler.put(RETENTION, self.run_once, trigger)
        if self._is_overdue(worker):
            log.info("making up for a missed retention run")
            scheduler.run_soon(RETENTION)
        self._planned = worker

    def _is_overdue(self, worker: WorkerSettings) -> bool:
        now = self._clock()
        try:
            record = self._last_runs.read().get(RETENTION)
        except (UnreadableLastRuns, OSError) as exc:
            # Once too often is harmless, once too rarely is not.
            log.warning("taking the last retention run for missed: %s", exc)
            return True
        if record is None:
            # A new store: nothing was missed, and from now on it counts.
            self._remember(TaskRecord(due_after=now))
            return False
        trigger = read_schedule(worker.cleanup, worker.timezone)
        return is_overdue(trigger, record.due_after, now)

    # -- what the watcher notices ----------------------------------------------------

    def _catch_up(self, job_ids: Collection[str] | None) -> None:
        with self._noting("catching up", MilepostError):
            self._manager.refresh(job_ids)

    def _reload(self) -> None:
        try:
            edited = load(self._config_path, environ=self._settings.environ)
        except ConfigError as exc:
            self._config_problem = str(exc)
            log.warning("keeping the last good settings: %s", exc)
            return
        before = self._settings
        fixed = {table: getattr(before, table) for table in FIXED_TABLES}
        waiting = [t for t in FIXED_TABLES if getattr(edited, t) != fixed[t]]
        if edited.worker.enabled != before.worker.enabled:
            waiting.append("worker.enabled")
            enabled = {"enabled": before.worker.enabled}
            fixed["worker"] = edited.worker.model_copy(update=enabled)
        self._settings = edited.model_copy(update=fixed)
        self._config_problem = None
        self._restart_needed = tuple(waiting)
        self._manager.trash_seconds = edited.retention.trash_seconds
        self._manager.policies = edited.retention.policies
        self._watcher.set_pace(_pace(edited.worker))
        self._bell.set()
        log.info("read %s again", self._config_path)
        if waiting:
            log.warning("a restart is needed for: %s", ", ".join(waiting))

    @contextlib.contextmanager
    def _noting(self, what: str, *kinds: type[Exception]) -> Iterator[None]:
        """Keep `kinds` from ending a thread: into the status, and once into the log."""
        try:
            yield
        except kinds as exc:
            text = f"{what}: {exc or type(exc).__name__}"
            if self._problems.get(what) != text:
                is_expected = isinstance(exc, (MilepostError, OSError))
                log.warning("%s", text, exc_info=not is_expected)
            self._problems[what] = text
        else:
            self._problems.pop(what, None)


def _pace(worker: WorkerSettings) -> Pace:
    return Pace(worker.watcher, worker.sweep_seconds, worker.debounce_seconds)


def _record_of(report: RunReport, before: TaskRecord) -> TaskRecord:
    last = LastRun(
        report.started_at,
        report.outcome,
        removed=report.removed,
        jobs=report.jobs,
        error=report.problems[0].message if report.problems else None,
    )
    if not report.is_complete:
        return before._replace(last=last)
    return TaskRecord(report.started_at, last, report.resume_after)
