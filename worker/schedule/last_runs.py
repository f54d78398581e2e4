"""The outcome of each task's last run, in the record ``last-runs`` of the store.

A new leader uses it to detect missed runs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.clock import stamp
from milepost.worker.schedule.report import Outcome
from milepost.worker.schedule.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping


class LastRun(NamedTuple):
    """How a task's last run ended.

    Attributes:
        at: the start of the run.
        outcome: ``partly``: some jobs were left out; ``failed``: it raised;
            ``stopped``: it was asked to stop; ``waiting``: the clock is not trusted.
        line: a summary for people; `counts` is the same for programs.
        error: the first problem.
    """

    at: datetime
    outcome: Outcome
    duration_seconds: float = 0.0
    line: str = ""
    counts: Mapping[str, int] = {}
    error: str | None = None


class TaskRecord(NamedTuple):
    """The stored record of one task.

    Attributes:
        due_after: runs due up to this time are done.
        resume_after: the last job visited by a bounded run; the next run starts after
            it.  None after a full run.
        failures: the number of consecutive runs that raised.
    """

    due_after: datetime
    last: LastRun | None = None
    resume_after: str | None = None
    failures: int = 0


class UnreadableLastRuns(ValueError):
    """The record is damaged, so missed runs are unknown."""


class LastRuns(Table[TaskRecord]):
    """The last runs of a store, by task."""

    name = "last-runs"
    key = "tasks"
    format = 2
    unreadable = UnreadableLastRuns

    @staticmethod
    def fields(entry: TaskRecord) -> dict[str, Any]:
        """See `Table.fields`."""
        last = entry.last
        return {
            "due_after": stamp(entry.due_after),
            "last": last and last._asdict() | {"at": stamp(last.at)},
            "resume_after": entry.resume_after,
            "failures": entry.failures,
        }

    @staticmethod
    def entry(fields: Mapping[str, Any]) -> TaskRecord:
        """See `Table.entry`."""
        last = fields["last"]
        return TaskRecord(
            due_after=_moment(fields["due_after"]),
            last=LastRun(**{**last, "at": _moment(last["at"])}) if last else None,
            resume_after=fields["resume_after"],
            failures=fields["failures"],
        )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
