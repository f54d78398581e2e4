"""The JSON form of plans and policies, for HTTP and for ``--json``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.api.fields.checkpoints import problem_fields
from milepost.journal.clock import stamp
from milepost.journal.retention.duration import Span
from milepost.journal.retention.policy import describe, policy_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from milepost.journal.retention.decisions import Verdict
    from milepost.journal.retention.plans import Plan
    from milepost.journal.retention.policies import Policies
    from milepost.journal.retention.policy import Policy
    from milepost.worker.config.settings import Settings

# Set by default, not by config.toml.
_ALWAYS_SHOWN = ("min_keep", "min_age", "max_remove_fraction", "timezone")


class InForce(NamedTuple):
    """A policy, the jobs that it applies to, and the origin of each value.

    Attributes:
        match: the glob of its jobs; ``*`` for the default.
        is_completed: it applies to completed jobs.
        is_dry: scheduled runs only report what they would remove.
        origins: by field of the policy.
    """

    match: str
    is_completed: bool
    is_dry: bool
    policy: Policy
    origins: Mapping[str, str]


def plan_fields(
    plan: Plan, *, jobs: int | None = None, verdicts: int | None = None
) -> dict[str, Any]:
    """Return a plan with its counts.

    Args:
        plan: the plan to show.
        jobs: list at most this many; the counts cover all.
        verdicts: list at most this many kept and this many removed checkpoints,
            over all jobs.
    """
    keep, remove = islice(plan.keep, verdicts), islice(plan.remove, verdicts)
    listed = [
        {
            "job_id": job.job_id,
            "policy": policy_fields(job.policy),
            "head_seq": job.head_seq,
            "head_hash": job.head_hash,
            **_counts(job.keep, job.remove),
            "waits": list(job.waits),
            "idle_rules": list(job.idle_rules),
            "remove": [verdict_fields(v) for v in islice(remove, len(job.remove))],
            "keep": [verdict_fields(v) for v in islice(keep, len(job.keep))],
        }
        for job in plan.jobs[:jobs]
    ]
    return {
        "plan_id": plan.plan_id,
        "job_count": len(plan.jobs),
        **_counts(plan.keep, plan.remove),
        "waits": list(plan.waits[:jobs]),
        "jobs": listed,
        "problem_count": len(plan.problems),
        "problems": [
            {"job_id": job_id, **problem_fields(problem)}
            for job_id, problem in plan.problems[:jobs]
        ],
    }


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """Return the decision on one checkpoint of a plan."""
    return {
        "checkpoint_id": verdict.checkpoint_id,
        "seq": verdict.seq,
        "timestamp": stamp(verdict.at),
        "stored_bytes": verdict.stored_bytes,
        "reasons": list(verdict.reasons),
    }


def policy_fields(policy: Policy) -> dict[str, Any]:
    """Return a policy as in events: its name, its hash and the values that are set."""
    return {**describe(policy), "hash": policy_hash(policy)}


def in_force_fields(found: InForce) -> dict[str, Any]:
    """Return a policy with the origin of each value."""
    values = describe(found.policy)
    name = values.pop("name")
    for key in _ALWAYS_SHOWN:
        values.setdefault(key, getattr(found.policy, key))
    return {
        "match": found.match,
        "completed": found.is_completed,
        "dry_run": found.is_dry,
        "name": name,
        "hash": policy_hash(found.policy),
        "values": {
            key: {
                "value": str(value) if isinstance(value, Span) else value,
                "origin": found.origins.get(key, "default"),
            }
            for key, value in values.items()
        },
    }


def policies_in_force(policies: Policies, settings: Settings) -> list[InForce]:
    """Return every policy, in the order of precedence.

    Policies that were not made from `settings` have no known origins.
    """
    if policies == settings.retention.policies:
        return list(_configured(settings))
    return [
        InForce(match.pattern, is_completed, is_dry=False, policy=policy, origins={})
        for match in (*policies.matches, policies.default)
        for is_completed, policy in ((False, match.policy), (True, match.completed))
        if policy is not None
    ]


def policy_in_force(
    found: Sequence[InForce], job_id: str, *, is_completed: bool
) -> InForce:
    """Return the policy of a job."""
    *matches, default = _by_match(found)
    mine = next((m for m in matches if fnmatchcase(job_id, m[0].match)), default)
    return mine[-1] if is_completed else mine[0]


def _by_match(found: Iterable[InForce]) -> list[list[InForce]]:
    groups: list[list[InForce]] = []
    for each in found:
        if not each.is_completed:
            groups.append([])
        groups[-1].append(each)
    return groups


def _configured(settings: Settings) -> Iterable[InForce]:
    for cascade in settings.retention.cascades:
        both = ((False, cascade.running), (True, cascade.completed))
        for is_completed, found in both:
            if found is not None:
                origins = {
                    key: settings.source_of(place, key)
                    for key, place in found.origins.items()
                }
                yield InForce(
                    cascade.pattern, is_completed, found.is_dry, found.policy, origins
                )


def _counts(keep: Sequence[Verdict], remove: Sequence[Verdict]) -> dict[str, int]:
    return {
        "keep_count": len(keep),
        "keep_bytes": sum(verdict.stored_bytes for verdict in keep),
        "remove_count": len(remove),
        "remove_bytes": sum(verdict.stored_bytes for verdict in remove),
    }
