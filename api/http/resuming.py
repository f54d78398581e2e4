"""Restoring with ``resume: true``: at most one start, and failures are reported."""

from __future__ import annotations

import inspect
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anyio.from_thread

from milepost.api.http.responses import writable
from milepost.worker.executors import JobStillRunning

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from milepost.journal.execution_models import Continuation
    from milepost.worker.executors import Executor

# How long a request waits for another one that resumes the same job.
_WAIT_SECONDS = 30.0

logger = logging.getLogger("milepost.api")


class Outcome(NamedTuple):
    """The outcome of a restore: a status word and a sentence."""

    job_status: Literal["restored", "resumed"]
    message: str


def restored(job_id: str, checkpoint_id: str) -> Outcome:
    """Return the outcome of a restore without a resume."""
    return Outcome(
        "restored", f"checkpoint {checkpoint_id} is now current in job {job_id!r}"
    )


def going_on(so_far: Outcome, found: Continuation) -> Outcome:
    """Return the outcome of a restore before its executor is called."""
    message = so_far.message
    if found.why_not is not None:
        message = f"{message}; not resumed: {found.why_not}"
    elif found.mode == "branched":
        message = f"{message}; execution {found.execution_id} branches from it"
    elif found.mode == "resumed" and found.execution_id is not None:
        message = f"{message}; execution {found.execution_id} goes on"
    return so_far._replace(message=message)


class Resumer:
    """Starts jobs through an executor, one request per job at a time."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._busy: set[str] = set()
        self._freed = threading.Condition()

    @property
    def can_start(self) -> bool:
        """Whether there is an executor."""
        return self._executor is not None

    @contextmanager
    def reserved(
        self, job_id: str, *, is_repeat: Callable[[], bool], may_wait: bool
    ) -> Iterator[None]:
        """Reserve `job_id` while it is restored and resumed.

        Without this, two requests could both see the job stopped, and the second would
        move the current checkpoint under the job that the first has just started.

        Args:
            job_id: the job.
            is_repeat: whether the request repeats one that is journaled; it may start
                nothing, so the job may run.
            may_wait: wait for another request, which this one may repeat.

        Raises:
            JobStillRunning: the job runs, or another request is resuming it.
        """
        timeout = _WAIT_SECONDS if may_wait else 0.0
        with self._freed:
            if not self._freed.wait_for(lambda: job_id not in self._busy, timeout):
                raise JobStillRunning(job_id, detail="another request resumes it now")
            self._busy.add(job_id)
        try:
            if not is_repeat() and self._is_running(job_id):
                raise JobStillRunning(job_id)
            yield
        finally:
            with self._freed:
                self._busy.discard(job_id)
                self._freed.notify_all()

    def resume(self, job_id: str, so_far: Outcome) -> Outcome:
        """Start `job_id` once; a failure is an outcome, since the restore is done.

        Any exception of a user's executor is caught here.
        """
        if self._executor is None:
            return self.resumed(so_far)
        try:
            answer: Any = self._executor.resume_job(job_id)
            if inspect.isawaitable(answer):
                anyio.from_thread.run(_wait_for, answer)
        except Exception as exc:
            logger.exception("the executor failed to resume job %r", job_id)
            why = writable(str(exc) or type(exc).__name__)
            return so_far._replace(
                message=f"{so_far.message}; not resumed: the executor failed: {why}"
            )
        return self.resumed(so_far)

    def resumed(self, so_far: Outcome) -> Outcome:
        """Return the outcome of a start that did not fail.

        Also that of a repeat: the journal has the restore, not the start.
        """
        if self._executor is None:
            why = "no executor is configured"
            return so_far._replace(message=f"{so_far.message}; not resumed: {why}")
        return Outcome("resumed", f"{so_far.message}; the job was resumed")

    def _is_running(self, job_id: str) -> bool:
        ask = getattr(self._executor, "is_running", None)
        if not callable(ask):
            return False
        try:
            # Only True counts: every method of a mock returns a truthy value.
            return ask(job_id) is True
        except Exception:
            # Unknown; `resume_job` may still refuse, and the answer reports that.
            logger.exception("the executor cannot say whether job %r runs", job_id)
            return False


async def _wait_for(answer: Awaitable[object]) -> object:
    return await answer
