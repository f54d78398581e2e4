"""Restoring with ``resume: true``: at most one start, and never a silent failure."""

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
    from collections.abc import Awaitable, Iterator

    from milepost.worker.executors import Executor

logger = logging.getLogger("milepost.api")


class Outcome(NamedTuple):
    """What became of a restore, in a word and in a sentence."""

    job_status: Literal["restored", "resumed"]
    message: str


def restored(job_id: str, checkpoint_id: str) -> Outcome:
    """Return the outcome of a restore that starts nothing."""
    return Outcome(
        "restored", f"checkpoint {checkpoint_id} is now current in job {job_id!r}"
    )


class Resumer:
    """Asks an executor to start jobs again, one request per job at a time."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def reserved(self, job_id: str) -> Iterator[None]:
        """Hold `job_id` while it is restored and resumed.

        Between "is it running?" and its start nobody else may restore it: two requests
        would both see it stopped, and the second would move its current checkpoint
        under the job that the first has just started.

        Raises:
            JobStillRunning: the job runs, or another request is resuming it.
        """
        with self._lock:
            if job_id in self._busy:
                raise JobStillRunning(job_id, detail="another request resumes it now")
            self._busy.add(job_id)
        try:
            if self._is_running(job_id):
                raise JobStillRunning(job_id)
            yield
        finally:
            with self._lock:
                self._busy.discard(job_id)

    def resume(self, job_id: str, so_far: Outcome) -> Outcome:
        """Start `job_id` once; a failure is an outcome, since it is already restored.

        Whatever a user's executor raises ends here.
        """
        if self._executor is None:
            why = "no executor is configured"
            return so_far._replace(message=f"{so_far.message}; not resumed: {why}")
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
        return Outcome("resumed", f"{so_far.message}; the job was resumed")

    def _is_running(self, job_id: str) -> bool:
        ask = getattr(self._executor, "is_running", None)
        if not callable(ask):
            return False
        try:
            # Only a plain answer counts: a mock has every method, and says something
            # true to every question.
            return ask(job_id) is True
        except Exception:
            # It cannot tell; `resume_job` still can, and says so in the answer.
            logger.exception("the executor cannot say whether job %r runs", job_id)
            return False


async def _wait_for(answer: Awaitable[object]) -> object:
    return await answer
