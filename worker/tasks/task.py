"""What a task is, and what one run of it is given."""

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
    from milepost.worker.schedule.report import RunReport


class Progress(Protocol):
    """Who wants to know how far a run is."""

    def begin(self, task: str, jobs: int) -> None:
        """So many jobs are to be looked at."""

    def piece(self, size_bytes: int) -> None:
        """So many bytes were read since the last call."""

    def job(self) -> None:
        """One more job is done."""


class Silent:
    """Nobody wants to know."""

    def begin(self, task: str, jobs: int) -> None:
        """See `Progress`."""

    def piece(self, size_bytes: int) -> None:
        """See `Progress`."""

    def job(self) -> None:
        """See `Progress`."""


class StopRequested(Exception):
    """The run was asked to stop while it was in the middle of a job."""


@dataclass(frozen=True)
class Run:
    """What one run of a task is given.

    Attributes:
        now: what ages are counted from.
        resume_after: the job before the one to begin with, if the last run had to leave
            jobs out.
        stop: ends the run between two jobs, and between two pieces of one.
        ends_at: of `steady`; ends the run between two jobs.
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
        """Whether it has run for as long as one run may."""
        return self.steady() >= self.ends_at

    def on_piece(self, size_bytes: int) -> None:
        """Be called between two pieces of a long job.

        Raises:
            StopRequested: so it is.
        """
        self.progress.piece(size_bytes)
        if self.stop.is_set():
            raise StopRequested


class Task(NamedTuple):
    """One kind of background work.

    Attributes:
        name: as typed, and the key of `[worker]` that holds its schedule.
        run: does it; what it raises is recorded and retried.
        counts_ages: it removes what is old, so it must not run by a wrong clock.
    """

    name: str
    run: Callable[[Run], RunReport]
    counts_ages: bool
