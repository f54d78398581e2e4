"""Durable steps for asyncio: the twin of `run`."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from milepost.journal.workflow.course import How, OnCancel, open_course
from milepost.journal.workflow.retries import ONCE, Retry
from milepost.journal.workflow.run import Block, MapItem, failed, tolerated

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Mapping,
        Sequence,
    )
    from datetime import datetime, timedelta
    from types import TracebackType

    from milepost.journal.execution_models import ApprovalInfo
    from milepost.journal.workflow.course import Act, Operation, Options, Surroundings
    from milepost.journal.workflow.functions import WorkflowFunction

_T = TypeVar("_T")
# How often a step that may be stopped asks whether its execution was cancelled.
_PREEMPT_SECONDS = 0.2


@asynccontextmanager
async def open_run(
    around: Surroundings, job_id: str, options: Options, given: Mapping[str, Any] | None
) -> AsyncIterator[AsyncRun]:
    """Return a block that runs an execution; see `CheckpointManager.aexecution`."""
    course = await asyncio.to_thread(open_course, around, job_id, options, given)
    async with AsyncRun(course) as run:
        yield run


class AsyncRun(Block):
    """The asynchronous twin of `Run`.

    Each method takes the number of its step when it is called, and returns an
    awaitable, so that ``asyncio.gather`` of several is safe.  The journal is read and
    written in threads.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return await asyncio.to_thread(self._ended, error)

    def astep(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        retry: Retry = ONCE,
        once: bool = False,
        reconcile: Callable[[], Any] | None = None,
        preemptible: bool = False,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Run ``function(*args, **kwargs)``, unless it has a result; see `Run.step`.

        `function` and `reconcile` may be coroutine functions.  A `preemptible` step is
        cancelled once its execution is cancelled or paused.
        """
        key = self._course.next_key(name)
        call = partial(function, *args, **kwargs)
        if preemptible:
            call = partial(self._watched, call)
        return self._do(self._course.step(key, call, How(retry, once, reconcile)))

    async def _watched(self, call: Callable[[], Awaitable[_T]]) -> _T:
        task = asyncio.ensure_future(call())
        try:
            while not (await asyncio.wait([task], timeout=_PREEMPT_SECONDS))[0]:
                await asyncio.to_thread(self._course.check)
        finally:
            task.cancel()
        return task.result()

    async def amap(
        self,
        name: str,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        key: Callable[[Any], object] | None = None,
        workers: int = 8,
        tolerate: int = 0,
        retry: Retry = ONCE,
    ) -> list[MapItem]:
        """Run a step for each item, `workers` at once; see `Run.map`."""
        listed = [*items]
        keys = self._keys(name, listed, key)
        turns = asyncio.Semaphore(workers)

        async def one(step: str, item: Any) -> MapItem:
            operation = self._item(step, function, item, retry)
            async with turns:
                try:
                    return MapItem(step, await self._do(operation))
                except Exception as exc:  # noqa: BLE001 - whatever the step raises
                    return failed(step, exc)

        tasks = [
            asyncio.ensure_future(one(step, item))
            for step, item in zip(keys, listed, strict=True)
        ]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return tolerated(name, found, tolerate)

    def asleep(
        self, name: str, seconds: float = 0.0, *, hours: float = 0.0, days: float = 0.0
    ) -> Coroutine[Any, Any, None]:
        """Wait; see `Run.sleep`."""
        return self.asleep_until(name, self._at(seconds, hours, days))

    def asleep_until(self, name: str, at: datetime) -> Coroutine[Any, Any, None]:
        """Wait until a time; see `Run.sleep_until`."""
        return self._do(self._sleep_until(name, at))

    def asignal(
        self,
        name: str,
        *,
        timeout: timedelta | None = None,
        default: Any = None,
        wait_up_to: float = 0.0,
    ) -> Coroutine[Any, Any, Any]:
        """Return the payload of the next signal of a name; see `Run.signal`."""
        return self._do(self._signal(name, timeout, default, wait_up_to))

    def aapproval(
        self,
        name: str,
        subject: Mapping[str, Any],
        *,
        approvers: Sequence[str] = (),
        required: int = 1,
        allow_self: bool = False,
        deadline: timedelta | None = None,
        remind_before: timedelta | None = None,
        notify: Callable[[], object] | None = None,
        wait_up_to: float = 0.0,
    ) -> Coroutine[Any, Any, ApprovalInfo]:
        """Return the approval of `subject`; see `Run.approval`."""
        terms = self._terms(approvers, required, allow_self, deadline, remind_before)
        return self._do(self._approval(name, subject, terms, notify, wait_up_to))

    def achild(
        self,
        name: str,
        workflow: WorkflowFunction,
        *,
        job_id: str,
        on_cancel: OnCancel = "cancel",
        **input: Any,  # noqa: A002 - what it is
    ) -> Coroutine[Any, Any, Any]:
        """Return the result of an execution of another workflow; see `Run.child`."""
        return self._do(self._child(name, workflow.arun, job_id, on_cancel, input))

    async def _do(self, operation: Operation[_T]) -> _T:
        try:
            act = next(operation)
            while True:
                try:
                    found = await self._perform(act)
                except Exception as exc:  # noqa: BLE001 - the operation decides
                    act = operation.throw(exc)
                else:
                    act = operation.send(found)
        except StopIteration as end:
            answer: _T = end.value
            return answer

    async def _perform(self, act: Act) -> Any:
        match act.kind:
            case "journal":
                return await asyncio.to_thread(act.function)
            case "pause" if self._course.around.pause is time.sleep:
                return await asyncio.sleep(act.function())
            case "pause":  # of a clock that is turned by hand
                return self._course.around.pause(act.function())
        with self._course.keys.within(act.key):
            found = act.function()
            return await found if inspect.isawaitable(found) else found
