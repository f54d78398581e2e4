"""Retention plans: what policies or a cleanup would remove, without removing it.

Retention modules are imported on use: most programs plan nothing, and `list` must start
fast.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import InvalidArgument, MilepostError
from milepost.journal.models import ErrorInfo
from milepost.journal.process import gc_pause
from milepost.journal.reading.reader import check_limit, entry_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from milepost.journal.index.job_view import JobView
    from milepost.journal.reading.reader import Reader
    from milepost.journal.retention.decisions import Decision, Ruling
    from milepost.journal.retention.keep_rules import Candidate
    from milepost.journal.retention.plans import JobPlan, Plan
    from milepost.journal.retention.policies import Policies
    from milepost.journal.retention.policy import Policy

    OnProgress = Callable[[int, int], None]


class Rules(NamedTuple):
    """The policies that a plan follows.

    Attributes:
        own: the policies of jobs.
        given: replaces them for every job, unless it is None.
    """

    own: Policies
    given: Policy | None = None

    def of(self, view: JobView) -> Policy:
        """Return the policy of a job."""
        is_completed = view.completion is not None
        return self.given or self.own.policy_of(view.job_id, is_completed=is_completed)


class _Decided(NamedTuple):
    """The decision about one job, and its input."""

    view: JobView
    decision: Decision
    policy: Policy
    idle_rules: tuple[str, ...]


def no_progress(done: int, total: int) -> None:
    """Ignore progress."""


def cleanup_policy(keep_last: object) -> Policy:
    """Return a caller's cleanup as a policy, for plans and events.

    Raises:
        InvalidArgument: `keep_last` is not a whole number of at least 1.
    """
    from milepost.journal.retention.policy import Policy, check_keep_last

    return Policy(name="cleanup", keep_last=check_keep_last(keep_last))


def plan(
    reader: Reader,
    jobs: str,
    rules: Rules,
    now: datetime,
    *,
    limit: int | None,
    max_bytes: int | None,
    on_progress: OnProgress,
) -> Plan:
    """Return what `rules` would keep and remove, with reasons; change nothing.

    Raises:
        InvalidArgument: `jobs` is neither a job id nor a glob, or a number is negative.
        DamagedJournal: the one job is quarantined.
    """
    from milepost.journal.retention import candidates, decisions
    from milepost.journal.retention.plans import plan_of

    check_limit(limit)
    if max_bytes is not None and max_bytes < 0:
        raise InvalidArgument(f"max_bytes must not be negative, got {max_bytes}")

    def look() -> tuple[list[tuple[str, _Decided]], list[tuple[str, ErrorInfo]]]:
        if (view := reader.view(jobs)).seq:
            return [(jobs, _decided(reader, view, rules.of(view), now))], []
        return _decide_all(
            reader, jobs, rules, now, on_progress, wants_all=max_bytes is not None
        )

    found, problems = gc_pause.at_rest(look)
    if max_bytes is not None:
        shrunk = decisions.shrink(
            {job: decided.decision for job, decided in found}, max_bytes
        )
        found = [(job, d._replace(decision=shrunk[job])) for job, d in found]
    planned = []
    for job, (view, decision, own, idle) in found:
        one = candidates.job_plan(
            view,
            decision,
            own,
            limit,
            is_confirmed=reader.store.is_confirmed,
        )._replace(idle_rules=idle, as_of=now)
        if one.remove or job == jobs:
            planned.append(one)
            limit = None if limit is None else limit - len(one.remove)
    return plan_of(planned, problems, now)


def plan_cleanup(
    reader: Reader, job_id: str, keep_last: int, now: datetime, *, limit: int | None
) -> Plan:
    """Return what a caller's cleanup would remove, with reasons; change nothing.

    Raises:
        InvalidArgument: `keep_last` is not a whole number of at least 1, or `limit` is
            negative.
    """
    from milepost.journal.retention.plans import plan_of

    check_limit(limit)
    policy = cleanup_policy(keep_last)
    view = reader.view(job_id)
    planned = [cleanup_plan(reader, policy, view, limit)] if view.seq else []
    return plan_of(planned, as_of=now)


def cleanup_plan(
    reader: Reader, policy: Policy, view: JobView, limit: int | None = None
) -> JobPlan:
    """Return the plan of a caller's cleanup of one job; see `cleanup_policy`."""
    from milepost.journal.retention import candidates

    decision = decide(reader, view, policy, None)
    found = candidates.job_plan(view, decision, policy, limit)
    # The caller gave the number, so no confirmation is required.
    return found._replace(is_callers=True, waits=())


def decide(
    reader: Reader, view: JobView, policy: Policy, now: datetime | None
) -> Decision:
    """Return the decision of a policy at `now` about a job.

    Without `now`, it is that of a caller's cleanup, which counts no ages.
    """
    from milepost.journal.retention import candidates, decisions

    found = _candidates(reader, view, policy)
    if now is not None:
        decision = decisions.decide(found, policy, now)
    else:
        assert isinstance(policy.keep_last, int)
        decision = decisions.newest(found, policy.keep_last)
    return candidates.with_needed(view, decision)


def _decide_all(
    reader: Reader,
    glob: str,
    rules: Rules,
    now: datetime,
    on_progress: OnProgress,
    *,
    wants_all: bool,
) -> tuple[list[tuple[str, _Decided]], list[tuple[str, ErrorInfo]]]:
    """Decide about all jobs that match `glob`; also return the failures.

    Args:
        reader: reads the jobs.
        glob: pattern of job ids.
        rules: the policies.
        now: the time that ages are counted from.
        on_progress: called with the number of jobs done, and of all jobs.
        wants_all: also return jobs without removals.
    """
    from milepost.journal.retention import decisions

    found, problems = [], []
    jobs = reader.job_ids()
    for number, job in enumerate(jobs, start=1):
        on_progress(number, len(jobs))
        if not fnmatch.fnmatchcase(job, glob):
            continue
        try:
            view = reader.view(job)
            own = rules.of(view)
            if wants_all or decisions.may_let_go(own, len(view.checkpoints)):
                decided = _decided(reader, view, own, now)
                if wants_all or decided.decision.remove:
                    found.append((job, decided))
        except MilepostError as exc:
            problems.append((job, ErrorInfo.of(exc)))
    return found, problems


def _decided(reader: Reader, view: JobView, policy: Policy, now: datetime) -> _Decided:
    from milepost.journal.retention import decisions, idle_rules

    found = _candidates(reader, view, policy)
    decision = decisions.decide(found, policy, now)
    return _Decided(view, decision, policy, idle_rules.idle_rules(found, policy))


def idle(reader: Reader, job_id: str, rules: Rules) -> tuple[str, ...]:
    """Return a line for each rule of the job's policy that matches no checkpoint."""
    from milepost.journal.retention import idle_rules

    view = reader.view(job_id)
    policy = rules.of(view)
    return idle_rules.idle_rules(_candidates(reader, view, policy), policy)


def explain(
    reader: Reader, job_id: str, checkpoint_id: str, rules: Rules, now: datetime
) -> tuple[Ruling, ...]:
    """Return the result of every rule for one checkpoint.

    Raises:
        UnknownCheckpoint: it does not exist, or was deleted.
    """
    from milepost.journal.retention import decisions

    view = reader.view(job_id)
    entry_of(view, checkpoint_id)
    policy = rules.of(view)
    found = _candidates(reader, view, policy)
    return decisions.explain(found, policy, now, checkpoint_id)


def _candidates(reader: Reader, view: JobView, policy: Policy) -> list[Candidate]:
    from milepost.journal.retention import candidates

    live = reader.store.live(view)
    return candidates.candidates(view, live, policy, reader.metadata)
