"""Triggers: checkpoints that are saved by themselves after certain events.

A trigger fires in the process that wrote the event, once it is durable, outside every
lock.  What goes wrong is an event and a count, and never fails the call that fired it.
"""

from __future__ import annotations

import logging
import traceback
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal import ids
from milepost.journal.arguments import checked
from milepost.journal.commands import automatic, saving
from milepost.journal.commands.automatic import Keep
from milepost.journal.commands.executions import execution_of
from milepost.journal.errors import InvalidArgument
from milepost.journal.process.calls import Calls
from milepost.journal.reading import executions as queries

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from signal import Signals

    from milepost.journal.reading.executions import Directory
    from milepost.journal.reading.reader import Reader
    from milepost.journal.states.packer import Packer
    from milepost.journal.workflow.attempts import Attempts

# The name by which each event of the journal fires triggers.
_NAME_OF = {
    "checkpoint.saved": "step.completed",  # with an execution: it completes a step
    "checkpoint.failed": "step.failed",
} | {
    name: name
    for name in (
        *("step.completed", "step.failed"),
        *("approval.requested", "approval.approved", "approval.rejected"),
        *("approval.expired", "execution.started", "execution.waiting"),
        *("execution.ready", "execution.interrupted", "execution.resumed"),
        *("execution.completed", "execution.failed", "execution.cancelled"),
        "signal.received",
    )
}
NAMES = (*dict.fromkeys(_NAME_OF.values()), "process.sigterm", "process.sigint")
# A checkpoint that fires a trigger would never end; the others are about the store.
_NEVER = frozenset({"*", "checkpoint", "checkpoints", "job", "lease", "trigger"})
_MAX_ERROR = 1000

_log = logging.getLogger("milepost.workflow")


class TriggerEvent(NamedTuple):
    """What fired a trigger.

    Attributes:
        name: such as ``step.completed``.
        job_id: the job.
        execution_id: the execution.
        seq: of the event in the journal; None for ``process.*``.
        attempt: the attempt by which this process runs the execution; None if it does
            not run it.
    """

    name: str
    job_id: str
    execution_id: str
    seq: int | None
    attempt: int | None


class CheckpointTrigger:
    """A rule that saves a checkpoint after certain events; see `add_trigger`.

    Args:
        on: the names of the events, such as ``step.completed``.
        keep_last: how many of its checkpoints stay in a job; older ones are removed,
            except pinned, held and needed ones and the current one.
        state: returns the state to save.  By default it is a snapshot of the
            execution: ``execution_id``, ``workflow_name``, ``data`` (the initial data)
            and ``outputs`` (of each completed step, the last one; None if purged).
        name: the step name of its checkpoints, by which `keep_last` finds them; the
            events by default.

    Raises:
        InvalidArgument: no or an unknown event, or `keep_last` is not positive.
    """

    @checked
    def __init__(
        self,
        on: Collection[str],
        *,
        keep_last: int = 20,
        state: Callable[[TriggerEvent], Mapping[str, Any]] | None = None,
        name: str | None = None,
    ) -> None:
        if not on:
            raise InvalidArgument(f"on must name an event: {', '.join(NAMES)}")
        for event in on:
            _check_event(event)
        if keep_last < 1:
            raise InvalidArgument(f"keep_last must be at least 1, got {keep_last}")
        if state is not None and not callable(state):
            raise InvalidArgument(f"state must be a function, got {state!r:.60}")
        self.on = tuple(event for event in NAMES if event in on)
        self.keep_last = keep_last
        self.state = state
        self.name = ids.check_step_name("+".join(self.on) if name is None else name)

    def __repr__(self) -> str:
        return f"CheckpointTrigger({self.name!r}, keep_last={self.keep_last})"


def _check_event(event: str) -> None:
    if event in NAMES:
        return
    what, hint = "is no event of a trigger", f"events: {', '.join(NAMES)}"
    near = get_close_matches(event, NAMES, n=1, cutoff=0.0)
    if event.partition(".")[0] in _NEVER:
        what, near = "cannot fire a trigger", [_NAME_OF.get(event, "")]
    meant = f"; did you mean {near[0]}?" if any(near) else ""
    raise InvalidArgument(f"{event!r:.60} {what}{meant}", hint=hint)


class Rule(NamedTuple):
    """A trigger, the actor that saves, and how long a removed checkpoint is trash."""

    trigger: CheckpointTrigger
    actor: str
    trash: timedelta


class Triggers:
    """The triggers of one manager.

    Args:
        reader: of the store.
        packer: encodes states.
        attempts: the executions that this process runs.

    Attributes:
        failures: automatic checkpoints that could not be saved.
    """

    def __init__(self, reader: Reader, packer: Packer, attempts: Attempts) -> None:
        self._reader = reader
        self._packer = packer
        self._attempts = attempts
        self._rules: dict[str, Rule] = {}
        self._firing = Calls()
        self.failures = 0

    def add(self, rule: Rule) -> None:
        """Add a trigger; one of the same name is replaced."""
        self._rules[rule.trigger.name] = rule

    def events(
        self, job_id: str, written: Iterable[tuple[int, str, Mapping[str, Any]]]
    ) -> list[TriggerEvent]:
        """Return what a write may fire triggers with: seq, type and data of events.

        Called before the leases are given up that the write ended.
        """
        if not self._rules:
            return []
        return [
            self._event(_NAME_OF[type_], job_id, data["execution_id"], seq)
            for seq, type_, data in written
            if type_ in _NAME_OF and "execution_id" in data
        ]

    def _event(
        self, name: str, job_id: str, execution_id: str, seq: int | None
    ) -> TriggerEvent:
        attempt = self._attempts.running(execution_id)
        return TriggerEvent(name, job_id, execution_id, seq, attempt)

    def fire(self, events: Iterable[TriggerEvent]) -> None:
        """Save the checkpoints of the triggers that are for these events.

        Nothing fires inside a trigger, so its `state` may call everything.
        """
        if self._firing.is_inside:
            return
        for event in events:
            for rule in [*self._rules.values()]:
                if event.name in rule.trigger.on:
                    self._firing.alone(partial(self._try, rule, event))

    def stop(self, signal: Signals, directory: Directory) -> None:
        """Fire ``process.*`` for the executions that this process runs."""
        name = f"process.{signal.name.lower()}"
        if not any(name in rule.trigger.on for rule in self._rules.values()):
            return
        for execution_id in self._attempts.known():
            try:
                job_id, _ = directory.execution(execution_id)
                event = self._event(name, job_id, execution_id, None)
                view = self._reader.view(event.job_id)
                is_running = execution_of(view, execution_id).leased == event.attempt
            except Exception:  # noqa: BLE001 - one job's trouble stops no other
                self.failures += 1
                _log.exception("%s: execution %s is unreadable", name, execution_id)
                continue
            if is_running:
                self.fire([event])

    def _try(self, rule: Rule, event: TriggerEvent) -> None:
        try:
            self._save(rule, event)
        except Exception as exc:  # noqa: BLE001 - also of the caller's function
            self.failures += 1
            self._record(rule, event, _text(exc))

    def _save(self, rule: Rule, event: TriggerEvent) -> None:
        reader, packer, trigger = self._reader, self._packer, rule.trigger
        if trigger.state is None:
            ask = partial(queries.snapshot, reader, execution_id=event.execution_id)
            state: Mapping[str, Any] = reader.answer(event.job_id, ask)
        else:
            state = trigger.state(event)
        execution = execution_of(reader.view(event.job_id), event.execution_id)
        fields = saving.Fields(
            trigger.name,
            (automatic.TAG,),
            execution.workflow_name,
            execution.workflow_version,
        )
        metadata = {
            "event": event.name,
            "execution_id": event.execution_id,
            "seq": event.seq,
        }
        draft = saving.draft_of(reader, packer, event.job_id, fields, state, metadata)
        # A snapshot has another form than the states of the job.
        attempt = None if trigger.state is None else event.attempt
        labels = {"trigger": trigger.name} | ({"aside": True} if not attempt else {})
        draft = draft._replace(data=draft.data | labels)
        decide = partial(
            automatic.save,
            draft=draft,
            packer=packer,
            is_saved_as=reader.is_saved_as,
            keep=Keep(trigger.name, trigger.keep_last, rule.trash),
            execution_id=event.execution_id,
            attempt=attempt,
            actor=rule.actor,
        )
        saved = reader.store.write(event.job_id, decide)
        saving.remember(packer, draft, saved)

    def _record(self, rule: Rule, event: TriggerEvent, error: str) -> None:
        """Record a failure in the journal, and log it."""
        trigger = rule.trigger
        _log.warning("%r failed after %s: %s", trigger, event.name, error)
        data: dict[str, object] = {
            "execution_id": event.execution_id,
            "trigger": trigger.name,
            "event": event.name,
            "error": error,
        }
        if event.seq is not None:
            data["cause"] = event.seq
        decide = partial(automatic.failed, data=data, actor=rule.actor)
        try:
            self._reader.store.write(event.job_id, decide)
        except Exception:  # noqa: BLE001 - the call that fired it has succeeded
            _log.exception("%r failed, which could not be recorded", trigger)


def _text(exc: Exception) -> str:
    """Return the text of any exception: its `str` may raise, or be no Unicode."""
    text = "".join(traceback.format_exception_only(exc)).strip()
    return text.encode(errors="backslashreplace").decode()[:_MAX_ERROR]
