"""When each task last ran, kept in the store so that a missed run can be made up.

`<root>/worker/last-runs.json`.  Written to a side file and renamed: whoever reads sees
the old content or the new, also after a crash.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from journal.clock import stamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1

Outcome = Literal["ok", "partly", "failed", "stopped"]


class LastRun(NamedTuple):
    """How a task's last run ended.

    Attributes:
        outcome: ``partly`` left out some jobs, ``failed`` raised, ``stopped`` was
            asked to end before it was through.
        jobs: how many jobs it looked at.
    """

    at: datetime
    outcome: Outcome
    removed: int = 0
    jobs: int = 0
    error: str | None = None


class TaskRecord(NamedTuple):
    """What is remembered of one task.

    Attributes:
        due_after: runs that were due up to here need no making up.
        resume_after: where the next run begins, if this one had to leave jobs out.
    """

    due_after: datetime
    last: LastRun | None = None
    resume_after: str | None = None


class UnreadableLastRuns(ValueError):
    """The file is there and makes no sense; nobody knows what was missed."""


class LastRuns:
    """The file of last runs; without a folder, the same in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._in_memory: dict[str, TaskRecord] = {}

    def read(self) -> dict[str, TaskRecord]:
        """Return what is known of each task; nothing in a new store.

        Raises:
            UnreadableLastRuns: the file is damaged.
            OSError: it can't be read.
        """
        if self._folder is None:
            return dict(self._in_memory)
        path = self._folder / "last-runs.json"
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return _decoded(orjson.loads(raw))
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            OverflowError,
        ) as exc:
            raise UnreadableLastRuns(f"{path}: cannot be understood: {exc}") from exc

    def write(self, task: str, record: TaskRecord) -> None:
        """Remember `record` durably.

        Raises:
            OSError: it can't be written; what was remembered before still is.
        """
        if self._folder is None:
            self._in_memory[task] = record
            return
        try:
            records = self.read()
        except UnreadableLastRuns:
            records = {}
        records[task] = record
        raw = orjson.dumps(_encoded(records), option=orjson.OPT_INDENT_2)
        _replace(self._folder / "last-runs.json", raw)


def _encoded(records: Mapping[str, TaskRecord]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "tasks": {task: _encoded_record(each) for task, each in records.items()},
    }


def _encoded_record(record: TaskRecord) -> dict[str, Any]:
    last = record.last
    return {
        "due_after": stamp(record.due_after),
        "last": last and last._asdict() | {"at": stamp(last.at)},
        "resume_after": record.resume_after,
    }


def _decoded(document: Mapping[str, Any]) -> dict[str, TaskRecord]:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}, not {FORMAT}")
    return {task: _decoded_record(each) for task, each in document["tasks"].items()}


def _decoded_record(record: Mapping[str, Any]) -> TaskRecord:
    last = record["last"]
    return TaskRecord(
        due_after=_moment(record["due_after"]),
        last=last and LastRun(**{**last, "at": _moment(last["at"])}),
        resume_after=record["resume_after"],
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _replace(path: Path, raw: bytes) -> None:
    # The process id keeps two writers (a worker, and a pass by hand) off each other's
    # side file; the rename decides who is last.
    side = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(exist_ok=True)
    try:
        with side.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        side.replace(path)
    finally:
        side.unlink(missing_ok=True)
    # The new name lives in the folder: without this a crash may bring the old one back.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
