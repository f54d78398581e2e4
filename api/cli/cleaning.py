"""The verb that lets checkpoints go by a rule: cleanup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from api.cli.answers import Answer, Table, or_nothing
from api.cli.exits import Failure, Problem
from api.cli.fields import size_text
from api.cli.frame import Frame, expect_seq_option, fail_if_empty_option, verb
from api.cli.progress import Progress
from api.cli.selectors import resolve
from api.cli.targets import Target, complete_job, parse_target, require_job
from api.previews import glob_of, plan_fields, policy_fields, verdict_fields
from journal.clock import utc_now
from journal.errors import ApprovalNeeded, MilepostError, StalePlan
from journal.keep_rules import how_long
from journal.plans import plan_of
from journal.policy import Policy, check_keep_last

if TYPE_CHECKING:
    from datetime import datetime

    from journal import CheckpointManager, JobPlan, Plan, Verdict

_COLUMNS = ("checkpoint_id", "seq", "verdict", "reasons", "age", "size")
_SHOWN_WAITS = 3
_HOW_TO_APPROVE = "look with --dry-run, then add --approve"


class _Asked(NamedTuple):
    """Which jobs, and by which rule."""

    job: str | None
    match: str | None
    is_all: bool
    keep_last: int | None
    limit: int | None
    budget: int | None = None

    @property
    def policy(self) -> Policy | None:
        """The caller's own rule; None for each job's policy."""
        if self.keep_last is None:
            return None
        keep_last = check_keep_last(self.keep_last)
        # Whoever names a number has said yes to it.
        return Policy(name="cleanup", keep_last=keep_last, max_remove_fraction=1.0)

    def plan(self, manager: CheckpointManager, now: datetime) -> Plan:
        """Plan for these jobs.

        Raises:
            Failure: there is no such job.
        """
        if self.job is not None:
            require_job(manager, Target(self.job, None))
            return manager.plan(self.job, self.policy, now=now, limit=self.limit)
        with Progress() as progress:
            progress.begin("planning")
            return manager.plan(
                glob_of(manager, self.match or "*"),
                now=now,
                limit=self.limit,
                max_bytes=None if self.match else self.budget,
                on_progress=progress.reach,
            )

    @property
    def words(self) -> str:
        """How these jobs are called on a command line."""
        if self.job is not None:
            rule = "" if self.keep_last is None else f" --keep-last {self.keep_last}"
            found = f"{self.job}{rule}"
        else:
            found = "--all" if self.match is None else f"--match '{self.match}'"
        return found if self.limit is None else f"{found} --limit {self.limit}"


@verb(
    "cleanup",
    example="milepost cleanup etl-daily --dry-run\n"
    "milepost cleanup etl-daily --keep-last 2\n"
    "milepost cleanup --all --dry-run\n"
    "milepost cleanup --explain etl-daily@first",
)
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--match", metavar="GLOB", help="Every job whose id matches.")
@click.option("--all", "is_all", is_flag=True, help="Every job.")
@click.option(
    "--keep-last",
    type=int,
    metavar="N",
    help="Keep the N newest of JOB, whatever its policy says.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go and why.")
@click.option(
    "--explain",
    metavar="JOB@SELECTOR",
    help="Say what every rule means for one checkpoint.",
)
@click.option(
    "--plan", "plan_id", metavar="ID", help="Do just what that dry run showed."
)
@click.option("--approve", is_flag=True, help="Even if it waits for approval.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Delete at most N, of each job the oldest.",
)
@expect_seq_option
@fail_if_empty_option
def cleanup_verb(
    frame: Frame,
    *,
    job: str | None,
    match: str | None,
    keep_last: int | None,
    explain: str | None,
    plan_id: str | None,
    limit: int | None,
    expect_seq: int | None,
    is_all: bool,
    dry_run: bool,
    approve: bool,
    fail_if_empty: bool,
) -> Answer:
    """Delete the checkpoints that the policy of JOB lets go.

    The policy is the one that config.toml has for the job, which the worker applies on
    schedule; `milepost policy show` prints it.  Where none is set, everything stays.
    With --keep-last N all but the N newest go instead, at once.

    Held and pinned ones, the current one and the newest always stay.  What went can
    come back with `undelete` until its trash period ends.

    A policy that would remove much of a job waits for --approve (exit 6).  --plan ID
    does just what the dry run with that plan showed, or nothing (exit 5).
    """
    asked = _Asked(job, match, is_all, keep_last, limit)
    _check(asked, is_safe=dry_run or bool(plan_id or explain), expect_seq=expect_seq)
    manager, settings = frame.open_with_settings()
    if settings is not None:
        asked = asked._replace(budget=settings.retention.max_store_bytes)
    with manager:
        if explain is not None:
            return _explained(manager, asked, explain)
        if keep_last is not None and not (dry_run or plan_id or limit):
            answer, removed = _keep_last(manager, asked, expect_seq)
        else:
            now = utc_now()
            plan = asked.plan(manager, now)
            _refuse_other(plan, plan_id, expect_seq)
            if dry_run:
                answer, removed = _preview(asked, plan, now), len(plan.remove)
            else:
                is_exact = plan_id is not None
                answer, removed = _apply(
                    manager, asked, plan, approve=approve, is_exact=is_exact
                )
    if removed or answer.problem is not None:
        return answer
    return or_nothing(
        answer,
        if_empty="nothing to delete" if fail_if_empty else None,
        is_failure=fail_if_empty,
    )


def _check(asked: _Asked, *, is_safe: bool, expect_seq: int | None) -> None:
    """Refuse what does not go together.

    Raises:
        Failure: usage.
    """
    named = [asked.job is not None, asked.match is not None, asked.is_all]
    if sum(named) > 1:
        raise Failure("usage", "JOB, --match and --all exclude each other")
    if not any(named) and not is_safe:
        hint = "JOB, --match GLOB or --all; --dry-run shows what would go"
        raise Failure("usage", "clean up which jobs?", hint)
    for option, value in (
        ("--keep-last", asked.keep_last),
        ("--expect-seq", expect_seq),
    ):
        if value is not None and asked.job is None:
            raise Failure("usage", f"{option} goes with one JOB")


def _keep_last(
    manager: CheckpointManager, asked: _Asked, expect_seq: int | None
) -> tuple[Answer, int]:
    assert asked.job is not None
    assert asked.keep_last is not None
    job = asked.job
    require_job(manager, Target(job, None))
    removed = manager.cleanup(job, asked.keep_last, expected_seq=expect_seq)
    found = manager.job(job)
    kept = found.checkpoints if found else 0
    data = {"job_id": job, "deleted_count": removed, "kept_count": kept}
    note = f"deleted {removed} checkpoints of job {job}, kept {kept}"
    return Answer(data, None, (note,)), removed


def _refuse_other(plan: Plan, plan_id: str | None, expect_seq: int | None) -> None:
    """Refuse a plan that is not the one that was seen.

    Raises:
        StalePlan: so it is.
    """
    if plan_id not in {None, plan.plan_id}:
        raise StalePlan(
            f"plan {plan_id!r:.60} is stale, nothing was deleted: by now it would be "
            f"{plan.plan_id}"
        )
    seqs = {job.head_seq for job in plan.jobs}
    if expect_seq is not None and seqs != {expect_seq}:
        raise StalePlan(f"expected seq {expect_seq}, the job is at {max(seqs)}")


# -- dry runs --------------------------------------------------------------------------


def _preview(asked: _Asked, plan: Plan, now: datetime) -> Answer:
    is_one = asked.job is not None
    rows = [
        (*(() if is_one else (job.job_id,)), *row)
        for job in plan.jobs
        for row in _rows(job, now)
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
        (_summary(asked, plan), *_nothing_goes(asked, plan), *_next_step(asked, plan)),
    )


def _rows(job: JobPlan, now: datetime) -> list[tuple[object, ...]]:
    """Return a job's checkpoints, newest first, with what would become of each."""
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


def _summary(asked: _Asked, plan: Plan) -> str:
    gone, kept = len(plan.remove), len(plan.keep)
    size = size_text(sum(verdict.stored_bytes for verdict in plan.remove))
    if asked.job is not None:
        where = f"of job {asked.job}"
    else:
        where = f"of {len(plan.jobs)} jobs"
    return (
        f"would delete {gone} checkpoints ({size}) {where}, keep {kept}; "
        f"plan {plan.plan_id}"
    )


def _nothing_goes(asked: _Asked, plan: Plan) -> tuple[str, ...]:
    """Say so where no policy can let anything go."""
    if asked.job is None or any(job.policy.removes for job in plan.jobs):
        return ()
    name = plan.jobs[0].policy.name
    line = (
        f"the policy of job {asked.job} ({name}) keeps everything: set one in "
        "[retention] of config.toml, or give --keep-last N"
    )
    return (line,)


def _next_step(asked: _Asked, plan: Plan) -> tuple[str, ...]:
    waits = [f"waits for approval: {why}" for why in plan.waits[:_SHOWN_WAITS]]
    if len(plan.waits) > _SHOWN_WAITS:
        waits.append(f"and {len(plan.waits) - _SHOWN_WAITS} jobs more wait")
    if not plan.remove:
        return tuple(waits)
    approve = " --approve" if plan.waits else ""
    line = f"milepost cleanup {asked.words} --plan {plan.plan_id}{approve}"
    return (*waits, f"to do just this: {line}")


def _problems_of(plan: Plan) -> tuple[str, ...]:
    return tuple(str(problem) for _, problem in plan.problems)


def _partly(plan: Plan) -> Problem | None:
    if not plan.problems:
        return None
    return Problem("partly_done", f"jobs that can't be read: {len(plan.problems)}")


def _explained(manager: CheckpointManager, asked: _Asked, word: str) -> Answer:
    info = resolve(manager, parse_target(word))
    now = utc_now()
    plan = manager.plan(info.job_id, asked.policy, now=now)
    rulings = manager.explain(info.job_id, info.checkpoint_id, asked.policy, now=now)
    (job,) = plan.jobs
    is_kept, verdict = _verdict_on(job, info.checkpoint_id)
    says = [("keeps it" if each.keeps else "does not", each.text) for each in rulings]
    data = {
        "job_id": info.job_id,
        "verdict": "keep" if is_kept else "remove",
        **verdict_fields(verdict),
        "policy": policy_fields(job.policy),
        "rules": [{"keeps": each.keeps, "text": each.text} for each in rulings],
    }
    would = "keep" if is_kept else "delete"
    line = (
        f"policy {job.policy.name} would {would} {info.checkpoint_id} of job "
        f"{info.job_id}: {'; '.join(verdict.reasons)}"
    )
    return Answer(data, Table(("rule", "why"), says), (), None, (line,))


def _verdict_on(job: JobPlan, checkpoint_id: str) -> tuple[bool, Verdict]:
    for is_kept, verdicts in ((True, job.keep), (False, job.remove)):
        for verdict in verdicts:
            if verdict.checkpoint_id == checkpoint_id:
                return is_kept, verdict
    raise StalePlan(f"{checkpoint_id!r} was deleted just now")


# -- doing it --------------------------------------------------------------------------


def _apply(
    manager: CheckpointManager,
    asked: _Asked,
    plan: Plan,
    *,
    approve: bool,
    is_exact: bool,
) -> tuple[Answer, int]:
    """Carry a plan out: exactly as it is, or else job by job, as far as it goes.

    Raises:
        Failure: approval_needed.
        MilepostError: why the one job, or the exact plan, could not be cleaned.
    """
    problems = [*plan.problems]
    done: list[tuple[JobPlan, int]] = []
    if is_exact or asked.job is not None:
        try:
            manager.apply(plan, approve=approve)
        except ApprovalNeeded as exc:
            raise Failure(exc.code, str(exc), _HOW_TO_APPROVE) from exc
        done = [(job, len(job.remove)) for job in plan.jobs]
    else:
        with Progress() as progress:
            progress.begin("cleaning up", len(plan.jobs))
            for job in plan.jobs:
                try:
                    done.append((job, _clean(manager, job, approve=approve)))
                except MilepostError as exc:
                    # I10: what holds one job up must not hold up the others.
                    problems.append((job.job_id, exc))
                progress.job()
    removed = sum(count for _, count in done)
    jobs = [
        {"job_id": job.job_id, "deleted_count": count, "kept_count": len(job.keep)}
        for job, count in done
    ]
    data = {
        "plan_id": plan.plan_id,
        "deleted_count": removed,
        "jobs": jobs,
        "problems": [
            {"job_id": job_id, "code": problem.code, "detail": str(problem)}
            for job_id, problem in problems
        ],
    }
    return Answer(
        data,
        None if asked.job is not None else _by_job(jobs),
        (_done_note(asked, plan, jobs, removed), *_nothing_goes(asked, plan)),
        _why_not_all(problems, removed),
        tuple(str(problem) for _, problem in problems),
    ), removed


def _clean(manager: CheckpointManager, job: JobPlan, *, approve: bool) -> int:
    """Clean up one of many jobs; one that moved on meanwhile is planned once more."""
    try:
        return manager.apply(plan_of([job]), approve=approve)
    except StalePlan:
        again = manager.plan(job.job_id, job.policy, limit=len(job.remove))
        return manager.apply(again, approve=approve)


def _done_note(
    asked: _Asked, plan: Plan, jobs: list[dict[str, Any]], removed: int
) -> str:
    if asked.job is not None:
        kept = len(plan.keep)
        return f"deleted {removed} checkpoints of job {asked.job}, kept {kept}"
    return f"deleted {removed} checkpoints of {len(jobs)} jobs"


def _by_job(jobs: list[dict[str, Any]]) -> Table:
    columns = ("job_id", "deleted_count", "kept_count")
    return Table(columns, [tuple(job[name] for name in columns) for job in jobs])


def _why_not_all(
    problems: list[tuple[str, MilepostError]], removed: int
) -> Problem | None:
    if not problems:
        return None
    waiting = sum(isinstance(problem, ApprovalNeeded) for _, problem in problems)
    if waiting == len(problems) and not removed:
        return Problem(
            "approval_needed",
            f"jobs that wait for approval: {waiting}",
            _HOW_TO_APPROVE,
        )
    return Problem("partly_done", f"jobs that were left out: {len(problems)}")
