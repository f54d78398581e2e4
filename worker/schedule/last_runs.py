"""The outcome of each task's last run, in the record ``last-runs`` of the store.

A new leader uses it to detect missed runs.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.clock import stamp
from milepost.journal.storage.records import change
from milepost.worker.schedule.report import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.journal.storage.contract import Storage

FORMAT = 2


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


class LastRuns:
    """The last runs of a store."""

    def __init__(self, storage: Storage) -> None:
        self._record = storage.record("last-runs")

    def read(self) -> dict[str, TaskRecord]:
        """Return the record of each task; empty in a new store.

        Raises:
            UnreadableLastRuns: the record is damaged.
            OSError: it can't be read.
        """
        found = self._record.get()
        return {} if found is None else _decoded(found.value)

    def write(self, task: str, record: TaskRecord) -> None:
        """Store `record` durably.

        Several tasks may end at once, also in different processes.

        Raises:
            OSError: it can't be written; the previous content is unchanged.
        """

        def added(raw: bytes | None) -> bytes:
            tasks = {}
            with suppress(UnreadableLastRuns):
                tasks = {} if raw is None else _decoded(raw)
            return _encoded({**tasks, task: record})

        change(self._record, added)


def _encoded(tasks: Mapping[str, TaskRecord]) -> bytes:
    records = {task: _encoded_record(each) for task, each in tasks.items()}
    document = {"format": FORMAT, "tasks": records}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def _encoded_record(record: TaskRecord) -> dict[str, Any]:
    last = record.last
    return {
        "due_after": stamp(record.due_after),
        "last": last and last._asdict() | {"at": stamp(last.at)},
        "resume_after": record.resume_after,
        "failures": record.failures,
    }


def _decoded(raw: bytes) -> dict[str, TaskRecord]:
    try:
        document = orjson.loads(raw)
        format_ = document["format"]
        tasks = document["tasks"] if format_ == FORMAT else {}
        found = {task: _record(each) for task, each in tasks.items()}
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as exc:
        raise UnreadableLastRuns(f"last-runs: invalid content: {exc}") from exc
    if format_ != FORMAT:
        raise UnreadableLastRuns(f"last-runs: format {format_!r}, not {FORMAT}")
    return found


def _record(record: Mapping[str, Any]) -> TaskRecord:
    last = record["last"]
    return TaskRecord(
        due_after=_moment(record["due_after"]),
        last=LastRun(**{**last, "at": _moment(last["at"])}) if last else None,
        resume_after=record["resume_after"],
        failures=record["failures"],
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
