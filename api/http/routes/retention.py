"""Endpoints that preview retention plans, apply them, and show policies."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response

from milepost.api.fields.checkpoints import problem_fields
from milepost.api.fields.plans import in_force_fields, plan_fields
from milepost.api.http.resource import Resource
from milepost.api.http.responses import JsonAnswer, etag
from milepost.api.http.routes.idempotent import UseRepeatable, latest
from milepost.api.http.routes.parameters import JobIdQuery, Limit, failing, page_size
from milepost.api.http.security.tokens import Forbidden
from milepost.api.http.services import Caller, Services, UseServices
from milepost.api.http.wire.answers import ApplyAnswer, PlanAnswer, PoliciesAnswer
from milepost.api.http.wire.requests import ApplyRequest, PreviewRequest
from milepost.journal.retention.plans import Applied, Plan, glob_only, shown_id
from milepost.journal.retention.policy import Policy

router = APIRouter(prefix="/api/retention", tags=["retention"], route_class=Resource)

_PAGE = 100


@router.get("/preview", response_model=PlanAnswer, responses=failing())
def preview_job(
    services: UseServices, job_id: JobIdQuery, limit: Limit = None
) -> Response:
    """Preview what the policy of a job would remove, with reasons.

    `limit` bounds the listed checkpoints, kept and removed ones separately; the counts
    cover all.
    """
    return _shown(services, _planned(services, PreviewRequest(job_id=job_id)), limit)


@router.post("/preview", response_model=PlanAnswer, responses=failing())
def preview_policy(
    services: UseServices, body: PreviewRequest, limit: Limit = None
) -> Response:
    """Preview retention for one job or for all that `match`.

    `policy` tries a policy; it has the keys of config.toml's `[[retention.rule]]`.
    Without it each job's own policy applies, and for the match `*` also the budget of
    the whole store.  `keep_last` previews `/api/checkpoints/cleanup`.
    """
    return _shown(services, _planned(services, body), limit)


@router.post("/apply", response_model=ApplyAnswer, responses=failing(403, 409))
def apply_plan(
    services: UseServices,
    repeatable: UseRepeatable,
    caller: Caller,
    body: ApplyRequest,
) -> Response:
    """Apply exactly the plan that a preview showed, on this or another server.

    The request repeats the preview's `job_id` or `match`, its `policy` or `keep_last`,
    and what it answered as `plan_id` and `as_of`.  The plan is made again as of that
    time; a job for which it would remove other checkpoints is skipped.  `skipped` lists
    these jobs with reasons.  409 `stale_plan`: the plan differs for every job, or is
    more than an hour old; preview again.  422: `as_of` is in the future.  409
    `confirmation_required`: it removes much of a job, so the request must set
    `confirm`, which needs the scope admin.
    """
    if body.confirm and not caller.may("admin"):
        raise Forbidden(f"{caller.actor} has no admin scope, which confirming needs")
    applied = services.manager.apply(
        _planned(services, body, body.as_of),
        plan_id=body.plan_id,
        actor=repeatable.actor,
        confirm=body.confirm,
        idempotency_key=repeatable.key,
    )
    done = [repeatable.recorded(job.job_id) for job in applied.jobs]
    is_one = len(done) == 1 and not applied.skipped
    content = _applied(services, body.plan_id, applied)
    content["timestamp"] = latest(services, done)
    return JsonAnswer(content, headers=done[0].headers if is_one else None)


@router.get("/policies", response_model=PoliciesAnswer, responses=failing())
def list_policies(services: UseServices, job_id: JobIdQuery | None = None) -> Response:
    """List every policy in the order of precedence, or only the policy of a job.

    Includes the origin of each value if the server was started from settings.
    """
    manager, settings = services.manager, services.settings_in_force
    found = [*manager.policies.all_in_force()]
    if job_id is not None:
        job = manager.job(job_id)
        is_completed = job is not None and job.completed_at is not None
        found = [manager.policies.in_force(job_id, is_completed=is_completed)]
    content = {
        "job_id": job_id,
        "policies": [in_force_fields(each, settings) for each in found],
        "timestamp": services.now(),
    }
    return JsonAnswer(content)


def _planned(
    services: Services, asked: PreviewRequest, as_of: datetime | None = None
) -> Plan:
    """Plan as of a time, by default now."""
    manager, retention = services.manager, services.settings_in_force.retention
    policy: Policy | None = None
    if asked.policy is not None:
        policy = retention.trial(asked.policy)
    if asked.job_id is None:
        assert asked.match is not None
        has_budget = asked.match == "*" and policy is None
        return manager.plan(
            glob_only(asked.match, manager.job),
            policy,
            now=as_of,
            max_bytes=retention.max_store_bytes if has_budget else None,
        )
    if asked.keep_last is not None or not manager.seq(asked.job_id):
        # Of an unknown job it is empty, as every list is.
        plan = manager.plan_cleanup(asked.job_id, asked.keep_last or 1)
        return plan if as_of is None else plan._replace(as_of=as_of)
    return manager.plan(asked.job_id, policy, now=as_of)


def _shown(services: Services, plan: Plan, limit: int | None) -> Response:
    most = services.settings.api.max_page
    listed = page_size(limit, default=_PAGE, most=most)
    content = plan_fields(plan, jobs=most, verdicts=listed)
    content["plan_id"] = shown_id(plan)
    # Only for one job: several jobs have no common seq.
    tag = {"ETag": etag(plan.jobs[0].head_seq)} if len(plan.jobs) == 1 else {}
    return JsonAnswer({**content, "timestamp": services.now()}, headers=tag)


def _applied(services: Services, plan_id: str, applied: Applied) -> dict[str, Any]:
    most = services.settings.api.max_page
    jobs = [
        {
            "job_id": job.job_id,
            "deleted_count": job.removed,
            "kept_count": job.kept,
        }
        for job in applied.jobs[:most]
    ]
    return {
        "plan_id": plan_id,
        "deleted_count": int(applied),
        "job_count": len(applied.jobs),
        "jobs": jobs,
        "skipped_count": len(applied.skipped),
        "skipped": [
            {"job_id": job_id, **problem_fields(problem)}
            for job_id, problem in applied.skipped[:most]
        ],
    }
