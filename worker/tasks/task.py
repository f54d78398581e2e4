"""The interface of a task, and the context of one run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.settings import Settings
    from milepost.worker.schedule.report import TaskReport


class Progress(Protocol):
    """A receiver of the progress of a run."""

    def begin(self, task: str, jobs: int) -> None:
        """Report that `task` starts and will visit `jobs` jobs."""

    def piece(self, size_bytes: int) -> None:
        """Report the bytes read since the last call."""

    def job(self) -> None:
        """Report that one more job is done."""


class Silent:
    """A `Progress` that ignores all reports."""

    def begin(self, task: str, jobs: int) -> None:
        """See `Progress`."""

    def piece(self, size_bytes: int) -> None:
        """See `Progress`."""

    def job(self) -> None:
        """See `Progress`."""


class StopRequested(Exception):
    """The run was asked to stop in the middle of a job."""


@dataclass(frozen=True)
class TaskContext:
    """The context of one run of a task.

    Attributes:
        now: the reference time for ages.
        resume_after: the last job visited by a bounded run; this run starts after it.
        stop: ends the run between two jobs, or between two pieces of one.
        ends_at: the time, by `steady`, after which the run ends between two jobs.
    """

    manager: CheckpointManager
    settings: Settings
    now: datetime
    resume_after: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Silent)
    steady: Callable[[], float] = time.monotonic
    ends_at: float = float("inf")

    @property
    def is_over_time(self) -> bool:
        """Whether `ends_at` is reached."""
        return self.steady() >= self.ends_at

    def on_piece(self, size_bytes: int) -> None:
        """Report progress between two pieces of a long job.

        Raises:
            StopRequested: the run was asked to stop.
        """
        self.progress.piece(size_bytes)
        if self.stop.is_set():
            raise StopRequested


class Task(NamedTuple):
    """One kind of background work.

    Attributes:
        name: as typed, and the key of its schedule in `[worker]`.
        run: does the work; a run that raises is recorded and retried.
        counts_ages: whether it removes data by age, and needs a trusted clock.
    """

    name: str
    run: Callable[[TaskContext], TaskReport]
    counts_ages: bool
