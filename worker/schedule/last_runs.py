"""The record of each task's last run, in `<root>/worker/last-runs.json`.

A new leader uses it to detect missed runs.  The file is replaced atomically.  Format 1,
from when retention was the only task, is still read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.clock import stamp
from milepost.journal.disk import whole_file
from milepost.journal.disk.disk import PosixDisk
from milepost.worker.leader import make_folder
from milepost.worker.schedule.report import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT = 2
_MAX_BYTES = 1024 * 1024


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
    """The file is damaged, so missed runs are unknown."""


class LastRuns:
    """The file of last runs; kept in memory if `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._disk = PosixDisk()
        self._in_memory: dict[str, TaskRecord] = {}

    def read(self) -> dict[str, TaskRecord]:
        """Return the record of each task; empty in a new store.

        Raises:
            UnreadableLastRuns: the file is damaged.
            OSError: it can't be read.
        """
        return dict(self._read())

    def write(self, task: str, record: TaskRecord) -> None:
        """Store `record` durably.

        Raises:
            OSError: it can't be written; the previous content is unchanged.
        """
        with self._changing() as tasks:
            tasks[task] = record
            self._write(tasks)

    def _read(self) -> dict[str, TaskRecord]:
        if self._folder is None:
            return self._in_memory
        path = self._folder / "last-runs.json"
        try:
            raw = whole_file.read(self._disk, path, _MAX_BYTES)
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
            raise UnreadableLastRuns(f"{path}: invalid content: {exc}") from exc

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, TaskRecord]]:
        """Lock the file, yield its records for an update.

        Several tasks may end at once, also in different processes.
        """
        if self._folder is None:
            yield self._in_memory
            return
        make_folder(self._folder)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                tasks = self._read()
            except UnreadableLastRuns:
                tasks = {}
            yield tasks
        finally:
            os.close(descriptor)

    def _write(self, tasks: Mapping[str, TaskRecord]) -> None:
        if self._folder is None:
            self._in_memory = dict(tasks)
            return
        raw = orjson.dumps(_encoded(tasks), option=orjson.OPT_INDENT_2)
        path = self._folder / "last-runs.json"
        temporary = path.with_name(f"{path.name}.tmp")  # writers have the lock
        whole_file.replace(self._disk, temporary, path, [raw])


def _encoded(tasks: Mapping[str, TaskRecord]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "tasks": {task: _encoded_record(each) for task, each in tasks.items()},
    }


def _encoded_record(record: TaskRecord) -> dict[str, Any]:
    last = record.last
    return {
        "due_after": stamp(record.due_after),
        "last": last and last._asdict() | {"at": stamp(last.at)},
        "resume_after": record.resume_after,
        "failures": record.failures,
    }


def _decoded(document: Mapping[str, Any]) -> dict[str, TaskRecord]:
    match document["format"]:
        case 1:
            last_of = _last_of_format_1
        case 2:
            last_of = _last
        case other:
            raise ValueError(f"format {other!r}, not 1 or {FORMAT}")
    return {
        task: TaskRecord(
            due_after=_moment(record["due_after"]),
            last=last_of(record["last"]) if record["last"] else None,
            resume_after=record["resume_after"],
            failures=record.get("failures", 0),
        )
        for task, record in document["tasks"].items()
    }


def _last(last: Mapping[str, Any]) -> LastRun:
    return LastRun(**{**last, "at": _moment(last["at"])})


def _last_of_format_1(last: Mapping[str, Any]) -> LastRun:
    removed, jobs = last["removed"], last["jobs"]
    return LastRun(
        _moment(last["at"]),
        last["outcome"],
        line=f"{removed} removed, {jobs} jobs",
        counts={"removed": removed},
        error=last["error"],
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
