"""Workflows as functions, which the worker can wake."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from milepost.journal import ids
from milepost.journal.errors import InvalidArgument
from milepost.journal.workflow.course import open_course
from milepost.journal.workflow.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from milepost.journal.events.workflow_events import StepOrigin
    from milepost.journal.execution_models import Outcome
    from milepost.journal.workflow.course import Course, Options, Surroundings


class WorkflowFunction:
    """A workflow: a function of a `Run`, or a coroutine function of an `AsyncRun`.

    Made by `CheckpointManager.workflow`.  Calling it calls the function.

    Attributes:
        root: the folder of the manager that made it; None of another storage.
        function: the program; gets the run, and the initial data as keywords.
        options: how its executions run.
        max_attempts: the worker resumes an execution no more after this number of
            attempts that ended early; None: as its configuration says.
    """

    def __init__(
        self,
        root: Path | None,
        around: Callable[[str | None], Surroundings],
        function: Callable[..., Any],
        options: Options,
        max_attempts: int | None,
    ) -> None:
        if not callable(function):
            raise InvalidArgument(f"a workflow is a function, got {function!r:.60}")
        self.root = root
        self._around = around
        self.function = function
        self.options = options
        self.max_attempts = max_attempts
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<workflow {self.options.name!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def run(
        self,
        around: Surroundings,
        job_id: str,
        given: Mapping[str, Any],
        parent: StepOrigin | None = None,
    ) -> Outcome:
        """Run an execution of the workflow as far as it goes.

        Raises:
            LeaseLive: a process runs it.
            Exception: what the function raised; the execution has failed.
        """
        return self.go_on(open_course(around, job_id, self.options, given, parent))

    def go_on(self, course: Course) -> Outcome:
        """Run an attempt as far as it goes.

        Raises:
            Exception: what the function raised; the execution has failed.
        """
        if inspect.iscoroutinefunction(self.function):
            from asyncio import run as run_all  # imported late: it is slow

            return run_all(self._ago_on(course))
        if course.attempt:
            with Run(course) as run:
                run.result = self.function(run, **run.input)
        return course.outcome()

    async def arun(
        self,
        around: Surroundings,
        job_id: str,
        given: Mapping[str, Any],
        parent: StepOrigin | None = None,
    ) -> Outcome:
        """Run an execution of an asynchronous workflow; see `run`."""
        from asyncio import to_thread  # imported late: it is slow

        return await self._ago_on(
            await to_thread(open_course, around, job_id, self.options, given, parent)
        )

    async def _ago_on(self, course: Course) -> Outcome:
        from asyncio import to_thread  # imported late: it is slow

        from milepost.journal.workflow.async_run import AsyncRun

        if course.attempt:
            async with AsyncRun(course) as run:
                run.result = await self.function(run, **run.input)
        return await to_thread(course.outcome)

    def begin(self, job_id: str, given: Mapping[str, Any] | None = None) -> Course:
        """Begin an attempt in a job of its manager's store, for `go_on`.

        Continues the newest unfinished execution of the workflow in the job, also one
        that a step of another execution started.

        Args:
            job_id: the job.
            given: the initial data of a new execution; None: none may be started.

        Raises:
            LeaseLive: a process runs it.
            UnknownExecution: there is none, and none may be started.
        """
        return open_course(
            self._around(None),
            ids.check_job_id(job_id),
            self.options,
            given,
            may_start=given is not None,
        )

    def resume_job(self, job_id: str) -> Outcome:
        """Run the workflow in a job of its manager's store; see `run`."""
        return self.go_on(self.begin(job_id, {}))
