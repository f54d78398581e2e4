"""The durable steps of one execution, folded from its events.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from milepost.journal.events.workflow_events import (
        DurableStepChanged,
        ExecutionChangedData,
        SignalData,
    )


class Recorded(NamedTuple):
    """The result of a durable step: the event with its state, and what it is of."""

    seq: int
    kind: str


class Child(NamedTuple):
    """The job of an execution that a step started, and what cancelling does to it."""

    job_id: str
    on_cancel: str


class Durable:
    """The durable steps of an execution, by key.

    Attributes:
        recorded: results.
        begun: steps that may have run and must not run twice: in which attempt.
        tries: how often a step failed since it was last tried from the start.
        timers: when waits end.
        asked: ids of approvals.
        children: executions that steps started.
    """

    __slots__ = ("asked", "begun", "children", "recorded", "timers", "tries")

    def __init__(self) -> None:
        self.recorded: dict[str, Recorded] = {}
        self.begun: dict[str, int] = {}
        self.tries: dict[str, int] = {}
        self.timers: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        self.children: dict[str, Child] = {}

    def apply(self, event: DurableStepChanged) -> None:
        """Apply an event of a step."""
        data = event["data"]
        key = data["key"]
        match event["type"]:
            case "step.started" if "child_job" in data:
                child = Child(data["child_job"], data.get("on_cancel", "abandon"))
                self.children[key] = child
            case "step.started":
                self.begun[key] = data["attempt"]
            case "step.completed":
                self.recorded[key] = Recorded(event["seq"], data.get("kind", "step"))
                self.begun.pop(key, None)
                self.tries.pop(key, None)
            case "step.failed":
                self.tries[key] = data["tries"]
                if "retry_at" in data:  # else it may have had its effect
                    self.begun.pop(key, None)

    def wait(self, data: ExecutionChangedData) -> None:
        """Remember when a wait ends, as it was the first time."""
        if "key" in data and "until" in data:
            self.timers.setdefault(data["key"], data["until"])

    def consume(self, data: SignalData) -> None:
        """Record the signal that a step consumed as its result."""
        if "key" in data:
            self.recorded[data["key"]] = Recorded(data["received"], "signal")
