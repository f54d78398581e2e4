"""The JSON form of plans and policies, for HTTP and for ``--json``."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from milepost.api.fields.checkpoints import problem_fields
from milepost.journal.clock import stamp
from milepost.journal.retention.duration import Span
from milepost.journal.retention.policy import FLOORS, describe, policy_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost.journal.retention.decisions import Verdict
    from milepost.journal.retention.plans import Plan
    from milepost.journal.retention.policies import InForce
    from milepost.journal.retention.policy import Policy
    from milepost.worker.config.settings import Settings


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
        "as_of": None if plan.as_of is None else stamp(plan.as_of),
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


def in_force_fields(found: InForce, settings: Settings) -> dict[str, Any]:
    """Return a policy with the origin of each value: its rule and its file."""
    values = describe(found.policy)
    name = values.pop("name")
    for key in FLOORS:
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
                "origin": settings.source_of(found.origins.get(key, "default"), key),
            }
            for key, value in values.items()
        },
    }


def _counts(keep: Sequence[Verdict], remove: Sequence[Verdict]) -> dict[str, int]:
    return {
        "keep_count": len(keep),
        "keep_bytes": sum(verdict.stored_bytes for verdict in keep),
        "remove_count": len(remove),
        "remove_bytes": sum(verdict.stored_bytes for verdict in remove),
    }
