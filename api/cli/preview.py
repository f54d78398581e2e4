"""Previews of a cleanup: the plan for the selected jobs, with all reasons."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from milepost.api.cli.exits import Problem
from milepost.api.cli.idle import shown_idle
from milepost.api.cli.progress import Progress
from milepost.api.cli.results import Answer, Table
from milepost.api.cli.selectors import resolve
from milepost.api.cli.targets import Target, parse_target, require_job
from milepost.api.fields.plans import plan_fields, policy_fields, verdict_fields
from milepost.journal.errors import StalePlan
from milepost.journal.quantities import size_text
from milepost.journal.retention.duration import how_long
from milepost.journal.retention.plans import glob_only
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from milepost.journal.manager import CheckpointManager
    from milepost.journal.retention.decisions import Ruling, Verdict
    from milepost.journal.retention.plans import JobPlan, Plan

_COLUMNS = ("checkpoint_id", "seq", "verdict", "reasons", "age", "size")
_SHOWN_WAITS = 3


class Asked(NamedTuple):
    """The jobs, the rule and the time of a cleanup."""

    job: str | None
    match: str | None
    is_all: bool
    keep_last: int | None
    limit: int | None
    now: datetime
    budget: int | None = None

    def plan(self, manager: CheckpointManager) -> Plan:
        """Plan for these jobs.

        Raises:
            Failure: the job does not exist.
        """
        if self.job is not None:
            require_job(manager, Target(self.job, None))
            if self.keep_last is not None:
                return manager.plan_cleanup(self.job, self.keep_last, limit=self.limit)
            return manager.plan(self.job, now=self.now, limit=self.limit)
        with Progress() as progress:
            progress.begin("planning")
            return manager.plan(
                glob_only(self.match or "*", manager.job),
                now=self.now,
                limit=self.limit,
                max_bytes=None if self.match else self.budget,
                on_progress=progress.reach,
            )

    def means(self, job_id: str) -> bool:
        """Return whether a job is selected; all are if no selection was given."""
        if self.job is not None:
            return job_id == self.job
        return self.match is None or fnmatchcase(job_id, self.match)

    @property
    def words(self) -> str:
        """The selection as command-line arguments, quoted for a shell."""
        if self.job is not None:
            rule = "" if self.keep_last is None else f" --keep-last {self.keep_last}"
            found = f"{quote(self.job)}{rule}"
        else:
            found = "--all" if self.match is None else f"--match {quote(self.match)}"
        return found if self.limit is None else f"{found} --limit {self.limit}"


def previewed(asked: Asked, plan: Plan) -> Answer:
    """Return the decisions of `plan`, with all reasons per checkpoint."""
    is_one = asked.job is not None
    rows = [
        (*(() if is_one else (job.job_id,)), *row)
        for job in plan.jobs
        for row in _rows(job, asked.now)
    ]
    columns = _COLUMNS if is_one else ("job_id", *_COLUMNS)
    data = plan_fields(plan)
    if asked.keep_last is not None:
        (job,) = data["jobs"]
        data = {
            "job_id": job["job_id"],
            "plan_id": plan.plan_id,
            "would_delete": job["remove"],
            "would_keep": job["keep"],
        }
    return Answer(
        data,
        Table(columns, rows, frozenset({"checkpoint_id"})),
        _problems_of(plan),
        _partly(plan),
        (
            _summary(asked, plan),
            *nothing_goes(asked, plan),
            *idle_lines(plan),
            *_next_step(asked, plan),
        ),
    )


def _rows(job: JobPlan, now: datetime) -> list[tuple[object, ...]]:
    """Return a job's checkpoints, newest first, with the decision on each."""
    verdicts = [("would delete", verdict) for verdict in job.remove]
    verdicts += [("would keep", verdict) for verdict in job.keep]
    verdicts.sort(key=lambda found: found[1].seq, reverse=True)
    return [
        (
            verdict.checkpoint_id,
            verdict.seq,
            word,
            "; ".join(verdict.reasons),
            how_long(now - verdict.at),
            size_text(verdict.stored_bytes),
        )
        for word, verdict in verdicts
    ]


def _summary(asked: Asked, plan: Plan) -> str:
    gone, kept = len(plan.remove), len(plan.keep)
    size = size_text(sum(verdict.stored_bytes for verdict in plan.remove))
    if asked.job is not None:
        where = f"of job {asked.job}"
    else:
        where = f"of {counted(len(plan.jobs), 'job')}"
    return (
        f"would delete {counted(gone, 'checkpoint')} ({size}) {where}, keep {kept}; "
        f"plan {plan.plan_id}"
    )


def nothing_goes(asked: Asked, plan: Plan) -> tuple[str, ...]:
    """Return a note if no policy can remove anything."""
    if asked.job is None or any(job.policy.removes for job in plan.jobs):
        return ()
    name = plan.jobs[0].policy.name
    line = (
        f"the policy of job {asked.job} ({name}) keeps everything: set one in "
        "[retention] of config.toml, or give --keep-last N"
    )
    return (line,)


def idle_lines(plan: Plan) -> tuple[str, ...]:
    """Return notes on rules that match nothing: they keep nothing, maybe in error."""
    lines = [
        f"policy {job.policy.name} of job {job.job_id}: {line}"
        for job in plan.jobs
        for line in job.idle_rules
    ]
    return tuple(shown_idle(lines, _SHOWN_WAITS))


def _next_step(asked: Asked, plan: Plan) -> tuple[str, ...]:
    waits = [f"requires confirmation: {why}" for why in plan.waits[:_SHOWN_WAITS]]
    if len(plan.waits) > _SHOWN_WAITS:
        more = counted(len(plan.waits) - _SHOWN_WAITS, "more job")
        waits.append(f"requires confirmation: {more}")
    if not plan.remove:
        return tuple(waits)
    confirm = " --confirm" if plan.waits else ""
    line = f"milepost cleanup {asked.words} --plan {plan.plan_id}{confirm}"
    return (*waits, f"to apply this plan: {line}")


def _problems_of(plan: Plan) -> tuple[str, ...]:
    return tuple(str(problem) for _, problem in plan.problems)


def _partly(plan: Plan) -> Problem | None:
    if not plan.problems:
        return None
    return Problem("partly_done", f"jobs that can't be read: {len(plan.problems)}")


def explained(manager: CheckpointManager, asked: Asked, word: str) -> Answer:
    """Return the decision of every rule on the checkpoint that `word` names."""
    info = resolve(manager, parse_target(word))
    plan = manager.plan(info.job_id, now=asked.now)
    rulings = manager.explain(info.job_id, info.checkpoint_id, now=asked.now)
    (job,) = plan.jobs
    is_kept, verdict = _verdict_on(job, info.checkpoint_id)
    says = [(_word_for(each), each.text) for each in rulings]
    data = {
        "job_id": info.job_id,
        "verdict": "keep" if is_kept else "remove",
        **verdict_fields(verdict),
        "policy": policy_fields(job.policy),
        "rules": [each._asdict() for each in rulings],
        "idle_rules": list(job.idle_rules),
    }
    would = "keep" if is_kept else "delete"
    where = f"{info.checkpoint_id} of job {info.job_id}"
    decision = f"policy {job.policy.name} would {would} {where}:"
    closing = (decision, f"  {'; '.join(verdict.reasons)}", *idle_lines(plan))
    return Answer(data, Table(("rule", "why"), says), (), None, closing)


def _word_for(ruling: Ruling) -> str:
    if ruling.is_cap:
        return "removes it"
    return "keeps it" if ruling.keeps else "no match"


def _verdict_on(job: JobPlan, checkpoint_id: str) -> tuple[bool, Verdict]:
    for is_kept, verdicts in ((True, job.keep), (False, job.remove)):
        for verdict in verdicts:
            if verdict.checkpoint_id == checkpoint_id:
                return is_kept, verdict
    raise StalePlan(f"checkpoint {checkpoint_id!r} was deleted concurrently")
