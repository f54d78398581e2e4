"""`milepost cleanup`: delete checkpoints by a retention policy or by count."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli import shown_plans
from milepost.api.cli.context import (
    Frame,
    command,
    expect_seq_option,
    fail_if_empty_option,
    trust_clock_option,
)
from milepost.api.cli.exits import Failure, Problem
from milepost.api.cli.preview import (
    Asked,
    explained,
    idle_lines,
    nothing_goes,
    previewed,
)
from milepost.api.cli.progress import Progress
from milepost.api.cli.results import Answer, Table, or_nothing
from milepost.api.cli.targets import Target, complete_job, require_job
from milepost.api.fields.checkpoints import problem_fields
from milepost.journal.clock import utc_now
from milepost.journal.errors import (
    ClockJumped,
    ConfirmationRequired,
    MilepostError,
    StalePlan,
)
from milepost.journal.models import ErrorInfo
from milepost.journal.retention.plans import apply_or_plan_again, plan_of
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.manager import CheckpointManager
    from milepost.journal.retention.plans import Applied, JobPlan, Plan

_HOW_TO_CONFIRM = "check with --dry-run, then add --confirm"


@command(
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
    help="Keep the N newest of JOB instead of applying its policy.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the plan with reasons; delete nothing."
)
@click.option(
    "--explain",
    metavar="JOB@SELECTOR",
    help="Show the decision of every rule on one checkpoint.",
)
@click.option(
    "--plan",
    "plan_id",
    metavar="ID",
    help="Apply exactly the plan shown by that dry run.",
)
@click.option(
    "--confirm", is_flag=True, help="Confirm a plan that removes much of a job."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Delete at most N, the oldest of each job.",
)
@trust_clock_option
@expect_seq_option
@fail_if_empty_option
def cleanup_command(
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
    confirm: bool,
    trust_clock: bool,
    fail_if_empty: bool,
) -> Answer:
    """Delete checkpoints that JOB's retention policy does not keep.

    The policy is set in config.toml; the worker applies it on schedule, and `milepost
    policy show` prints it.  Without a policy everything is kept.  With --keep-last N
    all but the N newest are deleted instead.

    A policy never removes the current or the newest checkpoint.  --keep-last N may
    remove the current one; then its nearest live ancestor becomes current, or else the
    newest.  Held and pinned checkpoints are always kept.  Deleted checkpoints can be
    undeleted until the trash period ends.

    A plan that would remove much of a job requires --confirm (exit 6).  --plan ID
    applies exactly the plan of that dry run.  A job whose plan is stale is skipped
    (exit 3; exit 5 if all are).
    """
    asked = Asked(job, match, is_all, keep_last, limit, utc_now())
    if explain is None:
        _check(asked, is_safe=dry_run or plan_id is not None, expect_seq=expect_seq)
    elif job or match or is_all or plan_id or keep_last is not None:
        msg = "--explain takes one checkpoint and none of the options of a cleanup"
        raise Failure("usage", msg)
    manager, settings = frame.open_with_settings()
    if settings is not None:
        asked = asked._replace(budget=settings.retention.max_store_bytes)
    with manager:
        if explain is not None:
            return explained(manager, asked, explain)
        if keep_last is not None and not (dry_run or plan_id or limit):
            answer, removed = _keep_last(manager, asked, expect_seq)
        else:
            _refuse_moved(manager, asked, expect_seq)
            plan = _planned(manager, asked, plan_id)
            if dry_run:
                answer, removed = previewed(asked, plan), len(plan.remove)
                if manager.root is not None:
                    shown_plans.remember(manager.root, plan)
            else:
                is_exact = plan_id is not None
                do = partial(manager.apply, confirm=confirm, trust_clock=trust_clock)
                answer, removed = _apply(manager, asked, plan, do, is_exact=is_exact)
    if removed or answer.problem is not None:
        return answer
    return or_nothing(
        answer,
        if_empty="nothing to delete" if fail_if_empty else None,
        is_failure=fail_if_empty,
    )


def _check(asked: Asked, *, is_safe: bool, expect_seq: int | None) -> None:
    """Refuse options that exclude each other.

    Raises:
        Failure: usage.
    """
    named = [asked.job is not None, asked.match is not None, asked.is_all]
    if sum(named) > 1:
        raise Failure("usage", "JOB, --match and --all exclude each other")
    if not any(named) and not is_safe:
        hint = "JOB, --match GLOB or --all; --dry-run only shows the plan"
        raise Failure("usage", "no job is named", hint)
    for option, value in (
        ("--keep-last", asked.keep_last),
        ("--expect-seq", expect_seq),
    ):
        if value is not None and asked.job is None:
            raise Failure("usage", f"{option} needs one JOB")


def _keep_last(
    manager: CheckpointManager, asked: Asked, expect_seq: int | None
) -> tuple[Answer, int]:
    assert asked.job is not None
    assert asked.keep_last is not None
    job = asked.job
    require_job(manager, Target(job, None))
    removed = manager.cleanup(job, asked.keep_last, expected_seq=expect_seq)
    found = manager.job(job)
    kept = found.checkpoints if found else 0
    data = {"job_id": job, "deleted_count": removed, "kept_count": kept}
    note = f"deleted {counted(removed, 'checkpoint')} of job {job}, kept {kept}"
    return Answer(data, None, (note,)), removed


def _refuse_moved(
    manager: CheckpointManager, asked: Asked, expect_seq: int | None
) -> None:
    if expect_seq is not None and asked.job is not None:
        require_job(manager, Target(asked.job, None))
        if (seq := manager.seq(asked.job)) != expect_seq:
            raise StalePlan(f"job {asked.job!r}: expected seq {expect_seq}, got {seq}")


def _planned(manager: CheckpointManager, asked: Asked, plan_id: str | None) -> Plan:
    """Return the plan that was shown under this id; without an id, plan now.

    Raises:
        StalePlan: the plan is not kept, and a new one differs.
    """
    if plan_id is not None:
        shown = shown_plans.recall(manager, plan_id, asked.keep_last)
        if shown is not None and all(asked.means(job.job_id) for job in shown.jobs):
            return shown
    plan = asked.plan(manager)
    if plan_id not in {None, plan.plan_id}:
        raise StalePlan(
            f"plan {plan_id!r:.60} is stale, nothing was deleted: the plan is now "
            f"{plan.plan_id}"
        )
    return plan


def _apply(
    manager: CheckpointManager,
    asked: Asked,
    plan: Plan,
    do: Callable[[Plan], Applied],
    *,
    is_exact: bool,
) -> tuple[Answer, int]:
    """Apply a plan: exactly, or job by job as far as possible.

    Raises:
        Failure: confirmation_required.
        MilepostError: the one job, or the exact plan, failed.
    """
    problems = [*plan.problems]
    done: list[tuple[JobPlan, int]] = []
    if is_exact or asked.job is not None:
        try:
            applied = do(plan)
        except ConfirmationRequired as exc:
            raise Failure(exc.code, str(exc), _HOW_TO_CONFIRM) from exc
        skipped = dict(applied.skipped)
        problems += applied.skipped
        done = [(j, len(j.remove)) for j in plan.jobs if j.job_id not in skipped]
    else:
        with Progress() as progress:
            progress.begin("cleaning up", len(plan.jobs))
            for job in plan.jobs:
                try:
                    done.append((job, _clean(manager, job, do)))
                except ClockJumped:
                    raise
                except MilepostError as exc:
                    # I10: an error of one job must not stop the others.
                    problems.append((job.job_id, ErrorInfo.of(exc)))
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
            {"job_id": job_id, **problem_fields(problem)}
            for job_id, problem in problems
        ],
    }
    return Answer(
        data,
        None if asked.job is not None else _by_job(jobs),
        (
            _done_note(asked, plan, jobs, removed),
            *nothing_goes(asked, plan),
            *idle_lines(plan),
        ),
        _why_not_all(problems, removed),
        tuple(str(problem) for _, problem in problems),
    ), removed


def _clean(
    manager: CheckpointManager, job: JobPlan, do: Callable[[Plan], Applied]
) -> int:
    """Clean up one of several jobs."""
    again = partial(manager.plan, job.job_id, job.policy, limit=len(job.remove))
    return apply_or_plan_again(plan_of([job]), do, again)


def _done_note(
    asked: Asked, plan: Plan, jobs: list[dict[str, Any]], removed: int
) -> str:
    deleted = f"deleted {counted(removed, 'checkpoint')}"
    if asked.job is not None:
        return f"{deleted} of job {asked.job}, kept {len(plan.keep)}"
    return f"{deleted} of {counted(len(jobs), 'job')}"


def _by_job(jobs: list[dict[str, Any]]) -> Table:
    columns = ("job_id", "deleted_count", "kept_count")
    return Table(columns, [tuple(job[name] for name in columns) for job in jobs])


def _why_not_all(problems: list[tuple[str, ErrorInfo]], removed: int) -> Problem | None:
    if not problems:
        return None
    waiting = sum(problem.code == ConfirmationRequired.code for _, problem in problems)
    if waiting == len(problems) and not removed:
        return Problem(
            "confirmation_required",
            f"jobs that require confirmation: {waiting}",
            _HOW_TO_CONFIRM,
        )
    return Problem("partly_done", f"jobs that were left out: {len(problems)}")
