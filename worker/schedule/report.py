"""Reports of task runs, and the counters that they are made from."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from milepost.journal.errors import (
    DamagedJournal,
    MissingKey,
    PlaintextRefused,
    UnreadableState,
)
from milepost.journal.models import ErrorInfo
from milepost.journal.wording import counted

MAX_PROBLEMS = 100
_DAMAGE = frozenset(
    e.code for e in (DamagedJournal, UnreadableState, MissingKey, PlaintextRefused)
)

Outcome = Literal["ok", "partly", "failed", "stopped", "waiting"]


class JobProblem(NamedTuple):
    """A job that a run left out, and the reason."""

    job_id: str
    code: str
    message: str


class TaskReport(NamedTuple):
    """The result of one run of a task.

    Attributes:
        started_at: the start of the run, and the reference time for ages.
        jobs: the number of jobs visited.
        counts: the work done, by kind; kinds with a count of 0 are included.
        removed_by_job: the number of checkpoints removed, by job.
        failed: the number of jobs that raised, without damaged jobs.
        damaged: the number of damaged jobs.
        problems: the first `MAX_PROBLEMS` failed or damaged jobs.
        resume_after: the last job visited by a bounded run; the next run starts after
            it.  None after a full run.
        is_complete: False if it was asked to stop before its end.
        waits_for: why the run was refused, None if it was not.
    """

    task: str
    started_at: datetime
    jobs: int = 0
    counts: dict[str, int] = {}  # noqa: RUF012 - never changed, like the tuple
    removed_by_job: dict[str, int] = {}  # noqa: RUF012 - the same
    failed: int = 0
    damaged: int = 0
    problems: tuple[JobProblem, ...] = ()
    resume_after: str | None = None
    is_complete: bool = True
    waits_for: str | None = None
    duration_seconds: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """The outcome in one word."""
        if self.waits_for is not None:
            return "waiting"
        if not self.is_complete:
            return "stopped"
        return "partly" if self.failed or self.damaged else "ok"

    @property
    def line(self) -> str:
        """The summary in one line, without the name of the task."""
        if self.waits_for is not None:
            return self.waits_for
        did = [f"{count} {word.replace('_', ' ')}" for word, count in self._shown()]
        text = ", ".join([*did, counted(self.jobs, "job")])
        if self.resume_after is not None:
            text += ", more next time"
        if self.problems:
            first = self.problems[0]
            text += (
                f"; {self.failed} failed, {self.damaged} damaged,"
                f" first {first.job_id!r}: {first.message}"
            )
        return text

    def _shown(self) -> list[tuple[str, int]]:
        """Return the counts for `line`: the first, and all that are not 0."""
        return [
            (word, count)
            for place, (word, count) in enumerate(self.counts.items())
            if count or place == 0
        ]


class Tally:
    """Counters of a running task; `words` are the keys of `TaskReport.counts`."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.jobs = self.failed = self.damaged = 0
        self.counts = dict.fromkeys(words, 0)
        self.removed_by_job: dict[str, int] = {}
        self.problems: list[JobProblem] = []

    def add(self, **counts: int) -> None:
        """Add to the counts."""
        for word, count in counts.items():
            self.counts[word] += count

    def leave_out(self, job_id: str, error: Exception | ErrorInfo) -> None:
        """Count a job as failed or damaged."""
        code = getattr(error, "code", "error")
        if code in _DAMAGE:
            self.damaged += 1
        else:
            self.failed += 1
        if len(self.problems) < MAX_PROBLEMS:
            message = str(error) or type(error).__name__
            self.problems.append(JobProblem(job_id, code, message))

    def report(
        self,
        task: str,
        started_at: datetime,
        resume_after: str | None,
        *,
        is_complete: bool = True,
    ) -> TaskReport:
        """Return the report of a run with these counts."""
        return TaskReport(
            task,
            started_at,
            jobs=self.jobs,
            counts=self.counts,
            removed_by_job=self.removed_by_job,
            failed=self.failed,
            damaged=self.damaged,
            problems=tuple(self.problems),
            resume_after=resume_after,
            is_complete=is_complete,
        )
