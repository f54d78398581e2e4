"""Executions: notice dead attempts, resume by policy, wake, remind, expire.

    what                                   how it is noticed
    a process died                         its lease is free: asked ten times a second
    an approval was decided                the watcher's hint of a changed journal
    a child ended                          the same hint, of the journal of its job
    a process of a function ended          its executor says so
    a deadline, a reminder, a backoff      the time of the next one is known

The cost of a look grows with the unfinished executions, not with history.  Trouble with
one job is recorded and retried, and never stops the others (I10).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.clock import moment
from milepost.worker.executors import JobStillRunning, start

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from milepost.journal.execution_models import Unfinished
    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.workflows import WorkflowRule
    from milepost.worker.executors import CommandExecutor, Executor
    from milepost.worker.problems import Problems

ACTOR = "worker"
# How often the leases of running executions are asked.
PROBE_SECONDS = 0.1
# The longest pause.
_MAX_PAUSE_SECONDS = 1.0
# Hints are collected this long, so that a busy store is not read after each write.
_COLLECT_SECONDS = 0.01
# How many jobs are looked at when a process has ended; the others follow in time.
_MAX_NOTICED = 64
# How long a started job has to take its lease before it is started again.
START_SECONDS = 10.0
_START = timedelta(seconds=START_SECONDS)

log = logging.getLogger("milepost.worker")


def backoff(rule: WorkflowRule, execution_id: str, failures: int) -> timedelta:
    """Return the pause before an execution is resumed after its last failures.

    The first resume is immediate.  The jitter is the same for the same failure, so that
    it can be computed again by any worker.
    """
    if failures <= 1:
        return timedelta()
    seconds = min(
        rule.backoff_seconds * 2.0 ** min(failures - 2, 64), rule.max_backoff_seconds
    )
    digest = hashlib.sha256(f"{execution_id} {failures}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return timedelta(seconds=seconds * (1 + rule.jitter * (2 * share - 1)))


class _Start(NamedTuple):
    """The last start of a pending execution: since which event, how often, until."""

    seq: int
    times: int
    again_at: datetime


class Supervisor:
    """Looks after the unfinished executions of a store.

    Args:
        manager: of the store.
        executor: starts jobs; None if none is configured.
        rule_of: returns the rule of a workflow.
        executor_of: returns what starts the executions of a rule by a function.
        problems: where trouble is recorded.
        clock: the current time.
        may_expire: whether deadlines count: the clock is trusted.
        steady: a clock that cannot be set, in seconds.
    """

    def __init__(
        self,
        manager: CheckpointManager,
        executor: Executor | None,
        rule_of: Callable[[str], WorkflowRule],
        problems: Problems,
        *,
        clock: Callable[[], datetime],
        may_expire: Callable[[], bool],
        executor_of: Callable[[WorkflowRule], CommandExecutor | None] = lambda _: None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._executor = executor
        self._executor_of = executor_of
        self._rule_of = rule_of
        self._problems = problems
        self._clock = clock
        self._may_expire = may_expire
        self._steady = steady
        # The jobs with unfinished executions: when to look at them again.
        self._due: dict[str, float] = {}
        self._cursor: str | None = None
        self._is_sweep_due = True
        self._starts: dict[str, _Start] = {}
        # Jobs that wait until another process ends, the first one first.
        self._queue: dict[str, None] = {}
        # The jobs that a job waits for an execution of, and the reverse.
        self._awaited: dict[str, frozenset[str]] = {}
        self._parents: dict[str, set[str]] = {}
        self._hints: set[str] = set()
        self._guard = threading.Lock()
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._stop.clear()
        self._is_sweep_due = True
        self._thread = threading.Thread(
            target=self._run, name="milepost-supervisor", daemon=True
        )
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Stop the thread, and wait for it."""
        thread, self._thread = self._thread, None
        self._stop.set()
        self._bell.set()
        if thread is not None:
            thread.join(timeout_seconds)

    def hint(self, job_id: str | None) -> None:
        """Look at a changed job at once if something waits for it; for any thread."""
        if job_id is not None and (job_id in self._due or job_id in self._parents):
            self.notice((job_id,))

    def process_ended(self) -> None:
        """Look at the jobs that wait for the end of a process; for any thread."""
        self.notice([*self._queue][:_MAX_NOTICED])

    def notice(self, job_ids: Collection[str] | None) -> None:
        """Look at jobs that changed, None for all that did; for any thread."""
        with self._guard:
            if job_ids is None:
                self._is_sweep_due = True
            else:
                self._hints.update(job_ids)
        self._bell.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.is_set():
            if self._bell.wait(pause):
                self._bell.clear()
                self._stop.wait(_COLLECT_SECONDS)
            with self._problems.noting("executions", Exception):
                pause = _MAX_PAUSE_SECONDS
                pause = self.look()

    # -- one look ----------------------------------------------------------------------

    def look(self) -> float:
        """Do what is due; return the seconds until something else may be."""
        now = self._steady()
        with self._guard:
            jobs, self._hints = self._hints, set()
            is_sweep, self._is_sweep_due = self._is_sweep_due, False
        if is_sweep:
            changed, self._cursor = self._manager.storage.changed(self._cursor)
            jobs |= {*changed}
        jobs |= {job_id for job_id, due in self._due.items() if due <= now}
        for job_id in jobs & self._parents.keys():
            jobs |= self._parents[job_id]
        queued = [job_id for job_id in self._queue if job_id in jobs]
        for job_id in [*queued, *sorted(jobs.difference(queued))]:
            if self._stop.is_set():
                break
            with self._problems.noting(f"executions of job {job_id!r}", Exception):
                self._due[job_id] = now + _MAX_PAUSE_SECONDS  # should it fail
                self._look_at(job_id)
        if not self._due:
            return _MAX_PAUSE_SECONDS
        left = min(self._due.values()) - self._steady()
        return min(max(left, 0.0), _MAX_PAUSE_SECONDS)

    def _look_at(self, job_id: str) -> None:
        unfinished = self._manager.workflows.unfinished(job_id)
        self._note_children(job_id, {found.child_job for found in unfinished})
        if not any(found.status == "pending" for found in unfinished):
            self._queue.pop(job_id, None)
        if not unfinished:
            del self._due[job_id]
            return
        pause = min([self._tend(found) for found in unfinished])
        self._due[job_id] = self._steady() + pause

    def _note_children(self, job_id: str, child_jobs: Collection[str | None]) -> None:
        """Remember for which jobs the executions of a job wait."""
        now = {child_job for child_job in child_jobs if child_job is not None}
        before = self._awaited.pop(job_id, frozenset())
        for child_job in before - now:
            self._parents[child_job].discard(job_id)
            if not self._parents[child_job]:
                del self._parents[child_job]
        for child_job in now - before:
            self._parents.setdefault(child_job, set()).add(job_id)
        if now:
            self._awaited[job_id] = frozenset(now)

    def _tend(self, found: Unfinished) -> float:
        """Do what is due for one execution; return the seconds until the next look."""
        now = self._clock()
        match found.status:
            case "running":
                self._starts.pop(found.execution_id, None)
                why = self._manager.workflows.why_dead(found.execution_id)
                if why is None:
                    return PROBE_SECONDS
                self._manager.workflows.expire(
                    found.execution_id, found.attempt, actor=ACTOR, reason=why
                )
                log.warning("execution %s was interrupted: %s", found.execution_id, why)
                return 0.0
            case "interrupted":
                return self._resume(found, now)
            case "pending":
                return self._begin(found, now)
            case _:
                return self._wait(found, now)

    def _resume(self, found: Unfinished, now: datetime) -> float:
        rule = self._rule_of(found.workflow_name)
        if not rule.auto_resume:
            return _MAX_PAUSE_SECONDS
        workflows = self._manager.workflows
        if found.failures >= rule.max_attempts:
            return self._give_up(found, rule, f"{found.failures} attempts ended early")
        wait = backoff(rule, found.execution_id, found.failures)
        left = (moment(found.changed_at) + wait - now).total_seconds()
        if left > 0:
            return min(left, _MAX_PAUSE_SECONDS)
        workflows.resume(
            found.execution_id, actor=ACTOR, is_auto=True, reason="auto_resume"
        )
        return 0.0

    def _give_up(self, found: Unfinished, rule: WorkflowRule, error: str) -> float:
        log.error("execution %s is not resumed: %s", found.execution_id, error)
        self._starts.pop(found.execution_id, None)
        if rule.on_exhausted == "fail":
            self._manager.workflows.fail(
                found.execution_id, reason="max_attempts", error=error, actor=ACTOR
            )
        else:
            self._manager.workflows.park(
                found.execution_id, reason=f"max_attempts: {error}", actor=ACTOR
            )
        return _MAX_PAUSE_SECONDS

    def _begin(self, found: Unfinished, now: datetime) -> float:
        """Have the executor start a pending execution, unless it starts already."""
        rule = self._rule_of(found.workflow_name)
        own = self._executor_of(rule)
        executor = own or self._executor
        if executor is None or not rule.auto_resume:
            return _MAX_PAUSE_SECONDS
        if own is not None and (
            own.has_child(found.job_id) or own.running >= rule.processes
        ):
            self._queue.setdefault(found.job_id)
            return _MAX_PAUSE_SECONDS
        last = self._starts.get(found.execution_id)
        if last is None or last.seq != found.changed_seq:
            last = _Start(found.changed_seq, 0, now)
        if now < last.again_at:
            left = (last.again_at - now).total_seconds()
            return min(left, _MAX_PAUSE_SECONDS)
        if last.times >= rule.max_attempts:
            return self._give_up(found, rule, f"it did not start {last.times} times")
        self._queue.pop(found.job_id, None)
        again = max(backoff(rule, found.execution_id, last.times + 1), _START)
        started = _Start(last.seq, last.times + 1, now + again)
        self._starts[found.execution_id] = started
        try:
            start(executor, found.job_id)
        except JobStillRunning:
            # An earlier process of the job: it ends, or takes the lease itself.
            again_at = now + timedelta(seconds=_MAX_PAUSE_SECONDS)
            self._starts[found.execution_id] = last._replace(again_at=again_at)
            return _MAX_PAUSE_SECONDS
        log.info("execution %s: job %r started", found.execution_id, found.job_id)
        return _MAX_PAUSE_SECONDS

    def _wait(self, found: Unfinished, now: datetime) -> float:
        """End a wait that is over; record a reminder or a deadline."""
        workflows = self._manager.workflows
        if found.child_job is not None:
            is_over = workflows.wake(found.execution_id, actor=ACTOR)
            return 0.0 if is_over else _MAX_PAUSE_SECONDS
        if found.due_at is None:
            return _MAX_PAUSE_SECONDS
        left = (moment(found.due_at) - now).total_seconds()
        is_decision = found.approval_id is not None
        if left > 0 or (is_decision and not self._may_expire()):
            return min(max(left, PROBE_SECONDS), _MAX_PAUSE_SECONDS)
        if found.approval_id is None:
            workflows.wake(found.execution_id, actor=ACTOR)
        elif not workflows.expire_approval(found.approval_id, actor=ACTOR):
            workflows.remind(found.approval_id, actor=ACTOR)
        return 0.0
