"""When each task last ran, kept in the store so that a missed run can be made up.

`<root>/worker/last-runs.json`.  Written to a temporary file and renamed: a reader sees
the old content or the new, also after a crash.  Format 1, of the time when retention
was the only task, is still read.
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
        at: when it began.
        outcome: ``partly`` left out some jobs, ``failed`` raised, ``stopped`` was
            asked to end before it was through, ``waiting`` needs confirmation.
        line: what it did, for a person; `counts` is the same for programs.
        error: the first problem.
    """

    at: datetime
    outcome: Outcome
    duration_seconds: float = 0.0
    line: str = ""
    counts: Mapping[str, int] = {}
    error: str | None = None


class TaskRecord(NamedTuple):
    """What is remembered of one task.

    Attributes:
        due_after: runs that were due up to here need no making up.
        resume_after: where the next run begins, if this one had to leave jobs out.
        failures: how many runs in a row have raised.
    """

    due_after: datetime
    last: LastRun | None = None
    resume_after: str | None = None
    failures: int = 0


class UnreadableLastRuns(ValueError):
    """The file is there and makes no sense; nobody knows what was missed."""


class LastRuns:
    """The file of last runs; without a folder, the same in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._disk = PosixDisk()
        self._in_memory: dict[str, TaskRecord] = {}

    def read(self) -> dict[str, TaskRecord]:
        """Return what is known of each task; nothing in a new store.

        Raises:
            UnreadableLastRuns: the file is damaged.
            OSError: it can't be read.
        """
        return dict(self._read())

    def write(self, task: str, record: TaskRecord) -> None:
        """Remember `record` durably.

        Raises:
            OSError: it can't be written; what was remembered before still is.
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
            raise UnreadableLastRuns(f"{path}: cannot be understood: {exc}") from exc

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, TaskRecord]]:
        """Keep everybody else from changing the file between a read and a write.

        Several tasks may end at once, and a run by hand beside the worker's.
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
        temporary = path.with_name(f"{path.name}.tmp")  # whoever writes has the lock
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
