"""What one run of a task did: counted while it runs, told when it is over."""

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

MAX_PROBLEMS = 100
_DAMAGE = frozenset(
    e.code for e in (DamagedJournal, UnreadableState, MissingKey, PlaintextRefused)
)

Outcome = Literal["ok", "partly", "failed", "stopped", "waiting"]


class JobProblem(NamedTuple):
    """A job that a run had to leave out, and why."""

    job_id: str
    code: str
    message: str


class RunReport(NamedTuple):
    """What one run of a task did.

    Attributes:
        started_at: the run's "now"; every age was counted from here.
        jobs: how many jobs it looked at.
        counts: what it did, each under the word for it; all of it, done or not.
        removed_by_job: how many checkpoints it removed of which jobs.
        failed: how many jobs raised; damaged ones are counted in `damaged` instead.
        problems: the first hundred of both.
        resume_after: where the next run begins, if this one had to leave jobs out: the
            job before.
        is_complete: False if it was asked to stop before it was through.
        waits_for: why it did nothing, if it needs confirmation first.
    """

    task: str
    started_at: datetime
    jobs: int = 0
    counts: dict[str, int] = {}  # noqa: RUF012 - never changed, as the tuple around it
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
        """The report in one word."""
        if self.waits_for is not None:
            return "waiting"
        if not self.is_complete:
            return "stopped"
        return "partly" if self.failed or self.damaged else "ok"

    @property
    def line(self) -> str:
        """The report in one line, without the name of the task."""
        if self.waits_for is not None:
            return self.waits_for
        did = [f"{count} {word.replace('_', ' ')}" for word, count in self._told()]
        text = ", ".join([*did, f"{self.jobs} jobs"])
        if self.resume_after is not None:
            text += ", more next time"
        if self.problems:
            first = self.problems[0]
            text += (
                f"; {self.failed} failed, {self.damaged} damaged,"
                f" first {first.job_id!r}: {first.message}"
            )
        return text

    def _told(self) -> list[tuple[str, int]]:
        """Return the counts worth a word: the first, and what is not nothing."""
        return [
            (word, count)
            for place, (word, count) in enumerate(self.counts.items())
            if count or place == 0
        ]


class Tally:
    """Counts of a run that is under way; `words` are those of `RunReport.counts`."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.jobs = self.failed = self.damaged = 0
        self.counts = dict.fromkeys(words, 0)
        self.removed_by_job: dict[str, int] = {}
        self.problems: list[JobProblem] = []

    def add(self, **counts: int) -> None:
        """Count what was done."""
        for word, count in counts.items():
            self.counts[word] += count

    def leave_out(self, job_id: str, error: Exception | ErrorInfo) -> None:
        """Count a job that the run could not do its work on."""
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
    ) -> RunReport:
        """Return what was counted, as a run that is over."""
        return RunReport(
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
