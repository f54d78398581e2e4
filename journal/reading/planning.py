"""Retention plans: what policies or a cleanup would remove, without removing it.

Retention modules are imported on use: most programs plan nothing, and `list` must start
fast.
"""

from __future__ import annotations

import fnmatch
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.arguments import id_of
from milepost.journal.errors import InvalidArgument, MilepostError
from milepost.journal.models import ErrorInfo
from milepost.journal.process import gc_pause
from milepost.journal.reading.context import Inquiry
from milepost.journal.reading.reader import check_limit, entry_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.index.job_view import JobView
    from milepost.journal.models import CheckpointInfo
    from milepost.journal.retention.decisions import Decision, Ruling
    from milepost.journal.retention.keep_rules import Candidate
    from milepost.journal.retention.plans import JobPlan, Plan
    from milepost.journal.retention.policy import Policy


def _quietly(done: int, total: int) -> None:
    """Ignore progress."""


class _Decided(NamedTuple):
    """The decision about one job, and its input."""

    view: JobView
    decision: Decision
    policy: Policy
    idle_rules: tuple[str, ...]


def cleanup_policy(keep_last: object) -> Policy:
    """Return a caller's cleanup as a policy, for plans and events.

    Raises:
        InvalidArgument: `keep_last` is not a whole number of at least 1.
    """
    from milepost.journal.retention.policy import Policy, check_keep_last

    return Policy(name="cleanup", keep_last=check_keep_last(keep_last))


class Planning(Inquiry):
    """Reports planned removals with reasons; removes nothing."""

    def plan(
        self,
        jobs: str,
        policy: Policy | None = None,
        *,
        now: datetime | None = None,
        limit: int | None = None,
        max_bytes: int | None = None,
        on_progress: Callable[[int, int], None] = _quietly,
    ) -> Plan:
        """Return what policies would keep and remove, with reasons; change nothing.

        Args:
            jobs: a job's id, or else a glob such as ``"etl-*"``.  The plan of one job
                includes all kept checkpoints; that of many jobs, only jobs with
                removals.  Without a match the plan is empty.
            policy: for all of them; by default, each job's own of `policies`.
            now: the time that ages are counted from, by default the manager's clock.
            limit: remove at most this many per job, the oldest.
            max_bytes: bound on the total size of these jobs, not counting those that
                could not be planned.
            on_progress: called with the number of jobs done, and of all jobs.

        Raises:
            InvalidArgument: `jobs` is neither a job id nor a glob, or a number is
                negative.
            DamagedJournal: the one job is quarantined; of many, see `Plan.problems`.
        """
        from milepost.journal.retention import candidates, decisions
        from milepost.journal.retention.plans import plan_of

        check_limit(limit)
        if max_bytes is not None and max_bytes < 0:
            raise InvalidArgument(f"max_bytes must not be negative, got {max_bytes}")
        now = now or self._clock()

        def decide() -> tuple[list[tuple[str, _Decided]], list[tuple[str, ErrorInfo]]]:
            if self._reader.view(jobs).seq:
                return [(jobs, self._decided(jobs, policy, now))], []
            return self._decide_all(
                jobs, policy, now, on_progress, wants_all=max_bytes is not None
            )

        found, problems = gc_pause.at_rest(decide)
        if max_bytes is not None:
            shrunk = decisions.shrink(
                {job: decided.decision for job, decided in found}, max_bytes
            )
            found = [(job, d._replace(decision=shrunk[job])) for job, d in found]
        planned = []
        for job, (view, decision, own, idle) in found:
            plan = candidates.job_plan(
                view,
                decision,
                own,
                limit,
                is_confirmed=self._store.is_confirmed,
            )._replace(idle_rules=idle)
            if plan.remove or job == jobs:
                planned.append(plan)
                limit = None if limit is None else limit - len(plan.remove)
        return plan_of(planned, problems)

    def plan_cleanup(
        self, job_id: str, keep_last: int = 10, *, limit: int | None = None
    ) -> Plan:
        """Return what `cleanup` would remove, with reasons; change nothing.

        `apply` accepts the plan, and refuses it if the job has changed too much.

        Args:
            job_id: the job; an unknown job has an empty plan.
            keep_last: as for `cleanup`.
            limit: remove at most this many, the oldest.

        Raises:
            InvalidArgument: `keep_last` is not a whole number of at least 1, or `limit`
                is negative.
            DamagedJournal: the job is quarantined.
        """
        from milepost.journal.retention.plans import plan_of

        check_limit(limit)
        policy = cleanup_policy(keep_last)
        view = self._reader.view(job_id)
        return plan_of([self._cleanup_plan(view, policy, limit)] if view.seq else [])

    def _cleanup_plan(
        self, view: JobView, policy: Policy, limit: int | None = None
    ) -> JobPlan:
        from milepost.journal.retention import candidates

        found = self._candidates(view, policy)
        decision = self._decision(found, policy, self._clock(), is_callers=True)
        plan = candidates.job_plan(view, decision, policy, limit)
        # The caller gave the number, so no confirmation is required.
        return plan._replace(is_callers=True, waits=())

    def _decide_all(
        self,
        glob: str,
        policy: Policy | None,
        now: datetime,
        on_progress: Callable[[int, int], None],
        *,
        wants_all: bool,
    ) -> tuple[list[tuple[str, _Decided]], list[tuple[str, ErrorInfo]]]:
        """Decide about all jobs that match `glob`; also return the failures.

        Args:
            glob: pattern of job ids.
            policy: for all of them, or None for each job's own.
            now: the time that ages are counted from.
            on_progress: called with the number of jobs done, and of all jobs.
            wants_all: also return jobs without removals.
        """
        from milepost.journal.retention import decisions

        found, problems = [], []
        jobs = self._reader.job_ids()
        for number, job in enumerate(jobs, start=1):
            on_progress(number, len(jobs))
            if not fnmatch.fnmatchcase(job, glob):
                continue
            try:
                view = self._reader.view(job)
                own = policy or self._policy_of(view)
                if wants_all or decisions.may_let_go(own, len(view.checkpoints)):
                    decided = self._decided(job, own, now)
                    if wants_all or decided.decision.remove:
                        found.append((job, decided))
            except MilepostError as exc:
                problems.append((job, ErrorInfo.of(exc)))
        return found, problems

    def _decided(self, job_id: str, policy: Policy | None, now: datetime) -> _Decided:
        view = self._reader.view(job_id)
        policy = policy or self._policy_of(view)
        from milepost.journal.retention.idle_rules import idle_rules

        found = self._candidates(view, policy)
        decision = self._decision(found, policy, now)
        return _Decided(view, decision, policy, idle_rules(found, policy))

    def idle_rules(self, job_id: str) -> tuple[str, ...]:
        """Return a line for each rule of the job's policy that matches no checkpoint.

        Such a rule keeps nothing: a `keep_best` by a metric that is text, a `keep_tags`
        with a tag that no checkpoint has.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        from milepost.journal.retention.idle_rules import idle_rules

        view = self._reader.view(job_id)
        policy = self._policy_of(view)
        return idle_rules(self._candidates(view, policy), policy)

    @staticmethod
    def _decision(
        found: list[Candidate],
        policy: Policy,
        now: datetime,
        *,
        is_callers: bool = False,
    ) -> Decision:
        """Return the decision of a policy, or of a caller's cleanup, about a job."""
        from milepost.journal.retention import decisions

        if not is_callers:
            return decisions.decide(found, policy, now)
        assert isinstance(policy.keep_last, int)
        return decisions.newest(found, policy.keep_last)

    def _policy_of(self, view: JobView) -> Policy:
        is_completed = view.completion is not None
        return self.policies.policy_of(view.job_id, is_completed=is_completed)

    def _candidates(self, view: JobView, policy: Policy) -> list[Candidate]:
        from milepost.journal.retention import candidates

        live = self._store.live(view)
        return candidates.candidates(view, live, policy, self._reader.metadata)

    def explain(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        policy: Policy | None = None,
        *,
        now: datetime | None = None,
    ) -> tuple[Ruling, ...]:
        """Return the result of every rule for one checkpoint.

        Args:
            job_id: the job.
            checkpoint_id: the checkpoint.
            policy: by default, the job's own of `policies`.
            now: the time that ages are counted from, by default the manager's clock.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            DamagedJournal: the job is quarantined.
        """
        from milepost.journal.retention import decisions

        checkpoint_id = id_of(checkpoint_id)
        view = self._reader.view(job_id)
        entry_of(view, checkpoint_id)
        policy = policy or self._policy_of(view)
        return decisions.explain(
            self._candidates(view, policy),
            policy,
            now or self._clock(),
            checkpoint_id,
        )
