"""Durable steps: plain Python that is killed anywhere and started again.

A step has a name.  Its result is recorded in one event, and a later attempt of the
execution gets it from there instead of running the step again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, overload

from milepost.journal import ids
from milepost.journal.commands import saving
from milepost.journal.commands.approvals import Terms
from milepost.journal.errors import InvalidArgument, MilepostError, StepFailed
from milepost.journal.index.durable import Child
from milepost.journal.workflow.course import How, OnCancel
from milepost.journal.workflow.retries import ONCE, Retry, Suspended

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Iterable,
        Mapping,
        Sequence,
    )
    from types import TracebackType

    from milepost.journal.events.workflow_events import StepOrigin
    from milepost.journal.execution_models import ApprovalInfo
    from milepost.journal.workflow.course import Act, Course, Operation, Surroundings
    from milepost.journal.workflow.functions import WorkflowFunction

_T = TypeVar("_T")
_R = TypeVar("_R")


class MapItem(NamedTuple):
    """The outcome of one item of a map.

    Attributes:
        key: of its step.
        value: the result, None if it failed.
        error: why it failed.
    """

    key: str
    value: Any = None
    error: Exception | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the item has a result."""
        return self.error is None


class Block:
    """What both twins have: the state of a block, and its end.

    Attributes:
        job_id: the job.
        execution_id: the execution.
        attempt: its number.
        input: the initial data.
        result: what the execution returns; set it, or leave it None.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self.job_id = course.job_id
        self.execution_id = course.execution_id
        self.input = course.input()
        self.result: Any = None

    @property
    def attempt(self) -> int:
        """The number of this attempt; 0 while the execution waits."""
        return self._course.attempt

    @property
    def status(self) -> str:
        """The status of the execution."""
        return self._course.status

    def key(self, name: str) -> str:
        """Return a key for an external system, the same in every attempt.

        It stands for the next step of this name.
        """
        return self._course.external_key(name)

    def scope(self, name: str) -> AbstractContextManager[None]:
        """Return a block whose steps are numbered by themselves.

        Needed where several threads or tasks ask for steps of one name: the order of
        their calls differs from attempt to attempt.  Items of a map have scopes.
        """
        return self._course.keys.within(self._course.next_key(name))

    def check(self) -> None:
        """Refuse to go on if the execution was paused or cancelled.

        Raises:
            Suspended: it waits.
            LeaseLost, IllegalTransition: this attempt is over.
        """
        self._course.check()

    def save(
        self,
        step_name: str,
        state: Mapping[str, Any],
        *,
        tags: Sequence[str] = (),
        pinned: bool = False,
    ) -> str:
        """Save a checkpoint of the job; return its id.

        A later attempt that comes here again saves another one.

        Raises:
            Suspended: the execution waits.
            LeaseLost, IllegalTransition: this attempt is over.
        """
        return self._course.save(saving.Fields(step_name, tags, pinned=pinned), state)

    def _ended(self, error: BaseException | None) -> bool:
        """End the block as its program ended; return whether the error is swallowed.

        Whatever happens, this process gives its lease up.
        """
        try:
            if error is None:
                self._complete()
            elif isinstance(error, Exception):
                self._course.fail(error)
            elif not isinstance(error, Suspended):
                self._course.interrupt()
        finally:
            self._course.close()
        return isinstance(error, Suspended)

    def _complete(self) -> None:
        try:
            self._course.complete(self.result)
        except Exception as exc:
            self._course.fail(exc)  # a result that cannot be stored
            raise

    # Operations that both twins run: each takes the number of its step at once.

    def _item(
        self, key: str, function: Callable[[Any], Any], item: Any, retry: Retry
    ) -> Operation[Any]:
        how = How(retry, is_item=True)
        return self._course.step(key, partial(function, item), how)

    def _sleep_until(self, name: str, at: datetime) -> Operation[None]:
        return self._course.sleep_until(self._course.next_key(name), at)

    def _signal(
        self, name: str, timeout: timedelta | None, default: Any, wait_up_to: float
    ) -> Operation[Any]:
        key = self._course.next_key(name)
        seconds = None if timeout is None else timeout.total_seconds()
        return self._course.signal(key, name, seconds, default, wait_up_to)

    def _approval(
        self,
        name: str,
        subject: Mapping[str, Any],
        terms: Terms,
        notify: Callable[[], object] | None,
        wait_up_to: float,
    ) -> Operation[ApprovalInfo]:
        key = self._course.next_key(name)
        notice = None
        if notify is not None:
            notice = self._course.next_key(f"{name}-notify"), notify
        return self._course.approval(key, subject, terms, wait_up_to, notice)

    def _child(
        self,
        name: str,
        run: Callable[[Surroundings, str, Mapping[str, Any], StepOrigin], Any],
        job_id: str,
        on_cancel: OnCancel,
        given: Mapping[str, Any],
    ) -> Operation[Any]:
        key = self._course.next_key(name)
        if job_id == self.job_id:
            raise InvalidArgument(f"a child needs another job than {job_id!r}")
        child = Child(ids.check_job_id(job_id), on_cancel)
        begin = partial(run, self._course.around, job_id, given)
        return self._course.child(key, child, begin)

    # What they work with.

    def _at(self, seconds: float, hours: float, days: float) -> datetime:
        span = timedelta(seconds=seconds, hours=hours, days=days)
        return self._course.around.clock() + span

    def _terms(
        self,
        approvers: Sequence[str],
        required: int,
        allow_self: bool,
        deadline: timedelta | None,
        remind_before: timedelta | None,
    ) -> Terms:
        at = None if deadline is None else self._course.around.clock() + deadline
        remind = None
        if at is not None and remind_before is not None:
            remind = at - remind_before
        return Terms(approvers, required, allow_self, at, remind, "reject", "continue")

    def _keys(
        self, name: str, items: Sequence[Any], key: Callable[[Any], object] | None
    ) -> list[str]:
        base = self._course.next_key(name)
        return [
            self._course.keys.item(base, place if key is None else key(item))
            for place, item in enumerate(items)
        ]


class Run(Block):
    """One attempt of an execution, as the program of a workflow sees it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return self._ended(error)

    @overload
    def step(
        self,
        name: str,
        *,
        retry: Retry = ...,
        once: bool = ...,
        reconcile: Callable[[], Any] | None = ...,
    ) -> Callable[[Callable[[], _R]], _R]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., _R],
        *args: Any,
        retry: Retry = ...,
        once: bool = ...,
        reconcile: Callable[[], Any] | None = ...,
        **kwargs: Any,
    ) -> _R: ...

    def step(
        self,
        name: str,
        function: Callable[..., Any] | None = None,
        *args: Any,
        retry: Retry = ONCE,
        once: bool = False,
        reconcile: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run ``function(*args, **kwargs)``, unless it has a result; return that.

        Without `function`, it decorates one that takes no arguments, runs it now, and
        replaces it by the result.

        Args:
            name: of the step, 1 to 512 bytes; the second of one name is ``name#2``.
            function: what is run.
            args: its arguments.
            retry: how often it is tried; once, by default.
            once: never run it again if it may have run: its start is recorded first.
            reconcile: called instead, for `once`: returns the result, or raises
                `NotRun`.
            kwargs: its arguments.

        Raises:
            StepUncertain: `once`, it may have run, and there is no `reconcile`.
            StepFailed: the last try failed; the cause is its error.  After a single
                try, that error itself.
            StepsChanged: `name` was something else in an earlier attempt, or
                `strict_order` is broken.
            InvalidState: the result would not come back equal; see `Types`.
            Suspended: the execution waits; no `Exception`, so let it pass.
            LeaseLost, IllegalTransition: this attempt is over.
        """
        key = self._course.next_key(name)
        how = How(retry, once, reconcile)
        if function is None:
            return lambda decorated: self._do(self._course.step(key, decorated, how))
        call = partial(function, *args, **kwargs)
        return self._do(self._course.step(key, call, how))

    def map(
        self,
        name: str,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        key: Callable[[Any], object] | None = None,
        workers: int = 1,
        tolerate: int = 0,
        retry: Retry = ONCE,
    ) -> list[MapItem]:
        """Run a step for each item; return the outcomes in the order of the items.

        Args:
            name: the steps are ``name[<key>]``; steps inside them have scopes.
            function: called with an item.
            items: what is mapped.
            key: names an item; by default its place does.
            workers: the number of threads.
            tolerate: how many items may fail; they are tried again by a later attempt.
            retry: of each item.

        Raises:
            InvalidArgument: two items have one key.
            StepFailed: more items failed than are tolerated.
            Exception: as `step`.
        """
        listed = [*items]
        keys = self._keys(name, listed, key)

        def one(step: str, item: Any) -> MapItem:
            try:
                return MapItem(step, self._do(self._item(step, function, item, retry)))
            except Exception as exc:  # noqa: BLE001 - whatever the step raises
                return failed(step, exc)

        if workers == 1:
            return tolerated(name, [*map(one, keys, listed)], tolerate)
        from concurrent.futures import ThreadPoolExecutor  # imported late: it is slow

        # Each thread knows the scope that it was started in.
        contexts = [copy_context() for _ in listed]
        with ThreadPoolExecutor(workers, f"milepost-{name}") as pool:
            calls = zip(contexts, keys, listed, strict=True)
            futures = [pool.submit(context.run, one, *c) for context, *c in calls]
            try:
                found = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return tolerated(name, found, tolerate)

    def sleep(
        self, name: str, seconds: float = 0.0, *, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Wait; after a crash, only for what is left.  A long wait needs no process.

        Raises:
            Suspended: more than 30 seconds are left.
            Exception: as `step`.
        """
        self.sleep_until(name, self._at(seconds, hours, days))

    def sleep_until(self, name: str, at: datetime) -> None:
        """Wait until a time, that of the first call.  A long wait needs no process.

        Raises:
            Suspended: more than 30 seconds are left.
            Exception: as `step`.
        """
        self._do(self._sleep_until(name, at))

    def signal(
        self,
        name: str,
        *,
        timeout: timedelta | None = None,
        default: Any = None,
        wait_up_to: float = 0.0,
    ) -> Any:
        """Return the payload of the next signal of a name; early ones are kept.

        Args:
            name: of the signal, and of the step.
            timeout: the time after which `default` is returned.
            default: see `timeout`.
            wait_up_to: seconds to wait in this process before the block ends.

        Raises:
            Suspended: there is none yet.
            Exception: as `step`.
        """
        return self._do(self._signal(name, timeout, default, wait_up_to))

    def approval(
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
    ) -> ApprovalInfo:
        """Return the approval of `subject`; wait for it without a process.

        Args:
            name: of the step.
            subject: what is decided on.
            approvers: the actors who may decide; anybody if empty.
            required: how many distinct actors have to approve.
            allow_self: the actor who started the execution may decide too.
            deadline: it expires after this time.
            remind_before: so long before the deadline a reminder is recorded.
            notify: run as a step, ``<name>-notify``, before it waits.
            wait_up_to: seconds to wait in this process before the block ends.

        Raises:
            Rejected, Expired: it was not given.
            Suspended: it is not decided yet.
            Exception: as `step`.
        """
        terms = self._terms(approvers, required, allow_self, deadline, remind_before)
        return self._do(self._approval(name, subject, terms, notify, wait_up_to))

    def child(
        self,
        name: str,
        workflow: WorkflowFunction,
        *,
        job_id: str,
        on_cancel: OnCancel = "cancel",
        **input: Any,  # noqa: A002 - what it is
    ) -> Any:
        """Return the result of an execution of another workflow, in another job.

        It runs in this process as far as it goes; while it waits, so does this one.

        Args:
            name: of the step.
            workflow: made by `CheckpointManager.workflow`.
            job_id: of the child, another job than this one.
            on_cancel: what happens to the child if this execution is cancelled.
            input: the initial data of the child.

        Raises:
            StepFailed: the child failed, or was cancelled.
            Suspended: the child waits.
            Exception: as `step`.
        """
        return self._do(self._child(name, workflow.run, job_id, on_cancel, input))

    def _do(self, operation: Operation[_T]) -> _T:
        try:
            act = next(operation)
            while True:
                try:
                    found = self._perform(act)
                except Exception as exc:  # noqa: BLE001 - the operation decides
                    act = operation.throw(exc)
                else:
                    act = operation.send(found)
        except StopIteration as end:
            answer: _T = end.value
            return answer

    def _perform(self, act: Act) -> Any:
        match act.kind:
            case "journal":
                return act.function()
            case "pause":
                return self._course.around.pause(act.function())
        with self._course.keys.within(act.key):
            return act.function()


def failed(key: str, error: Exception) -> MapItem:
    """Return the outcome of a failed item; an error of the journal is raised."""
    if isinstance(error, MilepostError) and not isinstance(error, StepFailed):
        raise error
    return MapItem(key, error=error)


def tolerated(name: str, found: list[MapItem], tolerate: int) -> list[MapItem]:
    """Return the outcomes of a map; raise `StepFailed` if too many failed."""
    bad = [item for item in found if item.error is not None]
    if len(bad) > tolerate:
        raise StepFailed(
            f"{len(bad)} of {len(found)} items of {name!r} failed, {tolerate} are "
            f"tolerated; the first is {bad[0].key!r}: {bad[0].error}"
        ) from bad[0].error
    return found
