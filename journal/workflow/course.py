"""The course of one attempt: what durable steps ask, and what they record.

Each operation is a generator.  It yields what may take time, as an `Act`, and its
driver, which is synchronous or asynchronous, sends the outcome back.  So both twins of
`Run` have the same rules.
"""

from __future__ import annotations

import hashlib
import logging
import traceback
from datetime import timedelta
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar
from weakref import finalize

from milepost.journal import ids
from milepost.journal.clock import moment
from milepost.journal.commands import durable, executions, saving
from milepost.journal.commands.approvals import Terms
from milepost.journal.commands.durable import Failure, Mine
from milepost.journal.commands.executions import End, Workflow, execution_of
from milepost.journal.commands.requests import NO_KEY
from milepost.journal.errors import (
    Expired,
    IllegalTransition,
    InvalidArgument,
    InvalidState,
    LeaseLive,
    MilepostError,
    Rejected,
    StepFailed,
    StepsChanged,
    StepUncertain,
    UnknownExecution,
)
from milepost.journal.events.workflow_events import StepOrigin
from milepost.journal.ids import EXECUTION
from milepost.journal.reading import executions as queries
from milepost.journal.workflow.engine import USUAL
from milepost.journal.workflow.keys import Keys
from milepost.journal.workflow.retries import ONCE, OVER, NotRun, Retry, Suspended

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from datetime import datetime

    from milepost.journal.batch import Batch
    from milepost.journal.commands.executions import Payload
    from milepost.journal.execution_models import ApprovalInfo, Outcome
    from milepost.journal.index.durable import Child
    from milepost.journal.index.executions import Execution, Workflows
    from milepost.journal.states.types import Types
    from milepost.journal.workflow.calls import Calls

_T = TypeVar("_T")
OnCancel = Literal["cancel", "abandon"]
Exhausted = Literal["fail", "pause"]

# Waits up to this long stay in the process; longer ones end the block.
SHORT_SECONDS = 30.0
# How often a wait in the process looks at the journal.
_LOOK_SECONDS = 0.05
_MAX_ERROR = 500

_log = logging.getLogger("milepost.workflow")


class Act(NamedTuple):
    """What an operation needs before it goes on.

    Attributes:
        kind: ``journal``: it reads or writes the journal; ``program``: it calls the
            program, which may return an awaitable; ``pause``: it takes seconds.
        function: called; for a pause it returns the seconds.
        key: of the step that the program runs; steps that it asks for are inside that.
    """

    kind: Literal["journal", "program", "pause"]
    function: Callable[[], Any]
    key: str = ""


if TYPE_CHECKING:
    Operation = Generator[Act, Any, _T]


def _journal(function: Callable[..., Any], *args: Any) -> Act:
    return Act("journal", partial(function, *args) if args else function)


def _pause(seconds: float) -> Act:
    return Act("pause", lambda: seconds)


class Options(NamedTuple):
    """How an execution runs.

    Attributes:
        name: of the workflow.
        version: of the workflow, recorded.
        on_exhausted: whether a step whose tries are used up fails the execution, or
            pauses it until a person resumes it.
        strict_order: refuse other steps than were recorded.
    """

    name: str
    version: str | None = None
    on_exhausted: Exhausted = "fail"
    strict_order: bool = False

    @classmethod
    def of(
        cls, name: str, version: str | None, on_exhausted: Exhausted, strict_order: bool
    ) -> Self:
        """Return checked options.

        Raises:
            InvalidArgument: a name is out of bounds, or `on_exhausted` is unknown.
        """
        ids.check_label("the name of a workflow", name)
        if version is not None:
            ids.check_label("version", version)
        if on_exhausted not in ("fail", "pause"):
            raise InvalidArgument(
                f"on_exhausted must be fail or pause, got {on_exhausted!r:.60}"
            )
        return cls(name, version, on_exhausted, strict_order)


class How(NamedTuple):
    """How a step runs; see `Run.step`.

    `is_item`: of a map, whose failures do not pause the execution.
    """

    retry: Retry = ONCE
    once: bool = False
    reconcile: Callable[[], Any] | None = None
    is_item: bool = False


class Surroundings(NamedTuple):
    """What the executions that a manager runs have in common.

    Attributes:
        calls: the workflows of its store.
        types: of inputs and results.
        clock: the current time.
        pause: waits for seconds.
        actor: who runs them.
    """

    calls: Calls
    types: Types
    clock: Callable[[], datetime]
    pause: Callable[[float], None]
    actor: str


class Course:
    """One attempt of an execution.

    Args:
        around: of its manager.
        job_id: its job.
        execution_id: the execution.
        attempt: its number; 0: the execution waits, or has ended.
        options: how it runs.

    Attributes:
        keys: of the steps that it asks for.
    """

    def __init__(
        self,
        around: Surroundings,
        job_id: str,
        execution_id: str,
        attempt: int,
        options: Options,
    ) -> None:
        self.around = around
        self.job_id = job_id
        self.execution_id = execution_id
        self._options = options
        self._engine = around.calls.engine
        self._leave: finalize[..., Course] | None = None
        self._begin(attempt)
        self.keys = Keys()

    def _begin(self, attempt: int) -> None:
        """Run as an attempt, whose lease is given up with this object at the latest."""
        self.close()
        self.attempt = attempt
        if attempt:
            drop = self._engine.attempts.drop
            leave = finalize(self, drop, self.execution_id, attempt)
            leave.atexit = False  # the storage knows that the process has ended
            self._leave = leave

    def close(self) -> None:
        """Give the lease up, if this process still has it: the block has ended."""
        if self._leave is None:
            return
        drop, mine = self._engine.attempts.drop, (self.execution_id, self.attempt)
        try:
            drop(*mine)
        except BaseException:
            drop(*mine)  # the first may be interrupted (docs/adr/0026)
            raise
        self._leave.detach()
        self._leave = None

    # -- keys --------------------------------------------------------------------------

    def next_key(self, name: str) -> str:
        """Return the key of the next step of a name, in the current scope.

        Raises:
            InvalidArgument: the name is out of bounds.
            StepsChanged: in strict order, another step was recorded.
        """
        key = self.keys.next(name)
        if self._options.strict_order:
            recorded = self._execution().durable.recorded
            if (expected := self.keys.expected(recorded, key)) is not None:
                raise StepsChanged(
                    f"execution {self.execution_id}: step {expected!r} was recorded, "
                    f"and the program asks for {key!r}",
                    hint="run the program that began it, or start another execution",
                )
        return key

    def external_key(self, name: str) -> str:
        """Return a text that stands for the next step of a name, in every attempt."""
        text = f"{self.execution_id}:{self.keys.following(name)}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    # -- steps -------------------------------------------------------------------------

    def step(self, key: str, call: Callable[[], Any], how: How) -> Operation[Any]:
        """Return the recorded result of a step, or run it and record the result."""
        execution = yield _journal(self._execution)
        if key in execution.durable.recorded:
            return (yield _journal(self._result, execution, key, "step"))
        self._check_may_run(execution, key)
        tries = execution.durable.tries.get(key, 0)
        if how.once and key in execution.durable.begun:
            attempt = execution.durable.begun[key]
            if how.reconcile is None:
                raise StepUncertain(self.execution_id, key, attempt)
            try:
                found = yield Act("program", how.reconcile, key)
            except NotRun:
                pass
            else:
                return (yield _journal(self._record, key, found))
        while True:
            if how.once:
                yield _journal(self._write, durable.begin, key)
            try:
                value = yield Act("program", call, key)
            except Exception as exc:  # noqa: BLE001 - whatever the step raises
                tries += 1
                error = exc
            else:
                return (yield _journal(self._record, key, value))
            yield from self._failed(key, error, tries, how)

    def _failed(
        self, key: str, error: Exception, tries: int, how: How
    ) -> Operation[None]:
        """Record a failed try, and wait for the next one.

        Raises:
            Suspended: the wait is long, or for a person.
            Exception: `error`, or `StepFailed` from it, if there is no next try.
        """
        text = _text_of(error)
        if isinstance(error, OVER):
            raise error
        if how.retry.applies(error, tries):
            seconds = how.retry.pause(error, tries)
            due = self.around.clock() + timedelta(seconds=seconds)
            waits = seconds > SHORT_SECONDS
            failure = Failure(text, tries, due, waits)
            yield _journal(self._write, durable.fail, key, failure)
            if waits:
                raise Suspended
            yield _pause(seconds)
            return
        waits = self._options.on_exhausted == "pause" and not how.is_item
        failure = Failure(text, tries, None, waits)
        yield _journal(self._write, durable.fail, key, failure)
        if waits:
            raise Suspended
        if tries == 1:
            raise error
        raise StepFailed(f"step {key!r} failed {tries} times: {text}") from error

    def _check_may_run(self, execution: Execution, key: str) -> None:
        """Refuse a step that this attempt may not run.

        Raises:
            Suspended: the execution waits.
            StepsChanged: the key was something else.
            LeaseLost, IllegalTransition: this attempt is over.
        """
        if execution.status == "waiting":
            raise Suspended
        if execution.leased != self.attempt or not self.attempt:
            if execution.status in ("completed", "failed", "cancelled"):
                view = self._engine.reader.view(self.job_id)
                raise executions.refusal(view, execution, "run a step of")
            raise executions.lost(execution, self.attempt)
        if key in execution.durable.asked:
            raise self._changed(key, "approval", "step")

    def _changed(self, key: str, was: str, asked: str) -> StepsChanged:
        return StepsChanged(
            f"execution {self.execution_id}: {key!r} was recorded as {_a(was)}, and "
            f"the program asks for {_a(asked)}",
            hint="give the new one another name",
        )

    def _record(self, key: str, value: Any, kind: str = "step") -> Any:
        self._write(durable.complete, key, self._payload(value), kind)
        return value

    def _payload(self, value: Any) -> Payload:
        types = self.around.types
        try:
            return self._engine.payload({"value": value}, types)
        except InvalidState:
            types.encode(value)  # names the path in the value itself, if it can
            raise

    def _result(self, execution: Execution, key: str, kind: str) -> Any:
        """Return a recorded result.

        Raises:
            StepsChanged: it is of another kind.
        """
        seq, known = execution.durable.recorded[key]
        if known != kind:
            raise self._changed(key, known, kind)
        stored = self._engine.stored(self.job_id, seq)
        return self.around.types.decode(stored if kind == "signal" else stored["value"])

    # -- waits -------------------------------------------------------------------------

    def sleep_until(self, key: str, at: datetime) -> Operation[None]:
        """Wait until a time, as it was when this was first asked."""
        execution = yield _journal(self._execution)
        if key in execution.durable.recorded:
            yield _journal(self._result, execution, key, "sleep")
            return
        self._check_may_run(execution, key)
        if key in execution.durable.timers:
            at = moment(execution.durable.timers[key])
        left = (at - self.around.clock()).total_seconds()
        if left > SHORT_SECONDS:
            yield _journal(self._write, durable.wait, key, at)
            raise Suspended
        if left > 0:
            yield _pause(left)
        yield _journal(self._record, key, None, "sleep")

    def signal(
        self, key: str, name: str, timeout: float | None, default: Any, wait: float
    ) -> Operation[Any]:
        """Return the payload of the next signal of a name."""
        while True:
            execution = yield _journal(self._execution)
            known = execution.durable.recorded.get(key)
            if known is not None:
                kind = "step" if known.kind == "step" else "signal"  # or its default
                return (yield _journal(self._result, execution, key, kind))
            self._check_may_run(execution, key)
            until = execution.durable.timers.get(key)
            at = None if until is None else moment(until)
            if at is None and timeout is not None:
                at = self.around.clock() + timedelta(seconds=timeout)
            if (yield _journal(self._write, durable.receive, key, name, at)):
                continue
            if at is not None and self.around.clock() >= at:
                return (yield _journal(self._record, key, default))
            yield from self._turn(wait)

    def approval(
        self,
        key: str,
        subject: Mapping[str, Any],
        terms: Terms,
        wait: float,
        notify: tuple[str, Callable[[], Any]] | None = None,
    ) -> Operation[ApprovalInfo]:
        """Return the approval of a subject, once it is given.

        `notify` is a step, its key and its function, that runs before it waits.
        """
        execution = yield _journal(self._execution)
        if key in execution.durable.recorded:
            was = execution.durable.recorded[key].kind
            raise self._changed(key, was, "approval")
        if key not in execution.durable.asked:
            self._check_may_run(execution, key)
            if notify is not None:
                yield from self.step(*notify, How())
            payload = self._engine.payload(dict(subject), self.around.types)
            yield _journal(self._write, durable.ask, key, payload, terms)
            yield from self._turn(wait)
        elif execution.status == "waiting":
            yield from self._turn(wait)
        found: ApprovalInfo = yield _journal(self._approval, key)
        match found.status:
            case "approved":
                return found
            case "expired":
                raise Expired(f"approval {found.approval_id} of step {key!r} expired")
        raise Rejected(
            f"approval {found.approval_id} of step {key!r} was {found.status} by "
            f"{found.decided_by}: {found.comment or 'no comment'}"
        )

    def _approval(self, key: str) -> ApprovalInfo:
        view = self._engine.reader.view(self.job_id)
        approval_id = execution_of(view, self.execution_id).durable.asked[key]
        approval = view.workflows.approvals[approval_id]
        return queries.approval_info(view, approval)

    def _turn(self, seconds: float) -> Operation[None]:
        """Wait in the process until the execution can go on, and begin an attempt.

        Raises:
            Suspended: it cannot in time, or another process goes on.
        """
        while (yield _journal(self._execution)).status == "waiting":
            if seconds <= 0:
                raise Suspended
            yield _pause(min(_LOOK_SECONDS, seconds))
            seconds -= _LOOK_SECONDS
            yield _journal(self._wake)
        try:
            yield _journal(self._acquire)
        except LeaseLive:
            raise Suspended from None

    def _wake(self) -> None:
        self.around.calls.wake(self.execution_id, actor=self.around.actor)

    def _acquire(self) -> None:
        calls, actor = self.around.calls, self.around.actor
        self._begin(calls.acquire(self.execution_id, USUAL, actor=actor).attempt)

    # -- children ----------------------------------------------------------------------

    def child(
        self, key: str, child: Child, run: Callable[[StepOrigin], Any]
    ) -> Operation[Any]:
        """Return the result of a child execution; `run` runs it as far as it goes."""
        execution = yield _journal(self._execution)
        if key in execution.durable.recorded:
            return (yield _journal(self._result, execution, key, "child"))
        self._check_may_run(execution, key)
        if key not in execution.durable.children:
            yield _journal(self._write, durable.begin, key, child)
        origin = StepOrigin(job_id=self.job_id, execution_id=self.execution_id, key=key)
        ended = _journal(self._ended_child, child.job_id, origin)
        outcome = yield ended
        if outcome is None:
            try:
                outcome = yield Act("program", partial(run, origin))
            except Exception as exc:
                # With `LeaseLive`, a process of its own runs it, and wakes this one.
                outcome = yield ended
                if outcome is None and not isinstance(exc, LeaseLive):
                    raise
        match outcome and outcome.status:
            case "completed":
                return (yield _journal(self._record, key, outcome.result, "child"))
            case "failed" | "cancelled":
                raise StepFailed(
                    f"step {key!r}: execution {outcome.execution_id} of job "
                    f"{child.job_id!r} is {outcome.status}: {outcome.error}"
                )
        yield _journal(self._write, durable.wait, key)
        raise Suspended

    def _ended_child(self, job_id: str, origin: StepOrigin) -> Outcome | None:
        calls, types = self.around.calls, self.around.types
        found = calls.ended_child(job_id, origin)
        return (
            None if found is None else calls.outcome(job_id, found.execution_id, types)
        )

    # -- checkpoints, and the end ------------------------------------------------------

    def save(self, fields: saving.Fields, state: Mapping[str, Any]) -> str:
        """Save a checkpoint of the job; return its id."""
        reader, packer = self._engine.reader, self._engine.packer
        draft = saving.draft_of(
            reader, packer, self.job_id, fields, dict(state), None, self.around.types
        )
        decide = partial(
            durable.save, draft=draft, packer=packer, is_saved_as=reader.is_saved_as
        )
        saved = self._decide(decide)
        return saving.remember(packer, draft, saved)

    def check(self) -> None:
        """Refuse to go on if the execution waits, or this attempt is over.

        Raises:
            Suspended: it waits.
            LeaseLost, IllegalTransition: this attempt is over.
        """
        self._check_may_run(self._execution(), "")

    def complete(self, result: Any) -> None:
        """End the execution with a result; without effect while it waits."""
        unused = self.keys.unused(self._execution().durable.recorded)
        data = {"unused_steps": unused} if unused else {}
        payload = None if result is None else self._payload(result)
        try:
            self._end(End("execution.completed", "complete", 0, data, payload))
        except IllegalTransition:
            if self._execution().status != "waiting":
                raise
        self._tell_parent()

    def fail(self, error: Exception) -> None:
        """End the execution with an error, unless this attempt is over."""
        if isinstance(error, OVER):
            return
        data = {"error": _text_of(error), "reason": "error"}
        try:
            self._end(End("execution.failed", "fail", 0, data))
        except MilepostError as exc:
            _log.warning("execution %s: its failure: %s", self.execution_id, exc)
        self._tell_parent()

    def interrupt(self) -> None:
        """Give the lease back: the program was stopped."""
        try:
            self._decide(
                lambda batch, mine: executions.hand_back(
                    batch, mine.execution_id, mine.attempt, actor=mine.actor
                )
            )
        except Suspended:
            pass
        except MilepostError as exc:
            _log.warning("execution %s: its end: %s", self.execution_id, exc)

    def _end(self, how: End) -> None:
        self.around.calls.end(
            self.execution_id,
            how,
            actor=self.around.actor,
            request=NO_KEY,
            attempt=self.attempt,
        )

    def _tell_parent(self) -> None:
        """Let a parent go on that waits; the worker does, if this cannot."""
        parent = self._execution().parent
        if parent is None:
            return
        try:
            self.around.calls.wake(parent["execution_id"], actor=self.around.actor)
        except MilepostError as exc:
            _log.warning("execution %s: its parent: %s", self.execution_id, exc)

    # -- the journal -------------------------------------------------------------------

    def _execution(self) -> Execution:
        return execution_of(self._engine.reader.view(self.job_id), self.execution_id)

    @property
    def status(self) -> str:
        """The status of the execution."""
        return self._execution().status

    def input(self) -> dict[str, Any]:
        """Return the initial data."""
        raw = self._engine.stored(self.job_id, self._execution().seq)
        found: dict[str, Any] = self.around.types.decode(raw)
        return found

    def outcome(self) -> Outcome:
        """Return how far the execution came."""
        calls = self.around.calls
        return calls.outcome(self.job_id, self.execution_id, self.around.types)

    def _write(self, decide: Callable[..., _T], key: str, *args: Any) -> _T:
        return self._decide(lambda batch, mine: decide(batch, mine, key, *args))

    def _decide(self, decide: Callable[[Batch, Mine], _T]) -> _T:
        """Write as this attempt.

        Raises:
            Suspended: the execution was paused meanwhile.
            LeaseLost, IllegalTransition: this attempt is over.
        """

        def as_attempt(batch: Batch, execution_id: str, attempt: int) -> _T:
            return decide(batch, Mine(execution_id, attempt, self.around.actor))

        try:
            return self._engine.as_attempt(
                self.execution_id,
                as_attempt,
                actor=self.around.actor,
                attempt=self.attempt,
            )
        except IllegalTransition:
            if self._execution().status == "waiting":
                raise Suspended from None
            raise


def open_course(
    around: Surroundings,
    job_id: str,
    options: Options,
    given: Mapping[str, Any] | None,
    parent: StepOrigin | None = None,
    *,
    may_start: bool = True,
) -> Course:
    """Start an execution of a workflow in a job, or begin the next attempt of one.

    A child goes on with the execution of its parent's step.

    Raises:
        LeaseLive: a process runs it, or this one does.
        UnknownExecution: there is none, and none may be started.
    """
    before = {*around.calls.engine.attempts.known()}
    try:
        return _open(around, job_id, options, given, parent, may_start=may_start)
    except LeaseLive:
        raise
    except BaseException:
        # Interrupted, or refused: maybe after the lease was taken.
        around.calls.engine.give_up_since(job_id, before)
        raise


def _open(
    around: Surroundings,
    job_id: str,
    options: Options,
    given: Mapping[str, Any] | None,
    parent: StepOrigin | None,
    *,
    may_start: bool,
) -> Course:
    calls = around.calls

    def unfinished(known: Workflows) -> Execution | None:
        mine = (
            execution
            for execution in known.live.values()
            if execution.workflow_name == options.name
            and parent in (None, execution.parent)
        )
        return max(mine, key=attrgetter("seq"), default=None)

    def refuse(known: Workflows) -> None:
        if unfinished(known) is not None:
            raise _Started
        calls.engine.refuse_live(known)

    view = calls.engine.reader.view(job_id)
    while (known := unfinished(view.workflows)) is None:
        if not may_start:
            raise UnknownExecution(f"{EXECUTION}{job_id}")
        try:
            started = calls.start(
                job_id,
                Workflow(options.name, options.version, parent=parent),
                around.types.encode(dict(given or {})),
                actor=around.actor,
                is_leased=True,
                request=NO_KEY,
                refuse=refuse,
            )
        except _Started:
            view = calls.engine.reader.view(job_id)
        else:
            return Course(around, job_id, started.execution_id, 1, options)
    name, attempt = known.execution_id, 0
    calls.wake(name, actor=around.actor)
    if execution_of(calls.engine.reader.view(job_id), name).status != "waiting":
        attempt = calls.acquire(name, USUAL, actor=around.actor).attempt
    return Course(around, job_id, name, attempt, options)


class _Started(Exception):
    """Another process started an execution of the workflow meanwhile."""


def _text_of(error: Exception) -> str:
    return "".join(traceback.format_exception_only(error)).strip()[:_MAX_ERROR]


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
