"""Retention over HTTP: previews, plans that are carried out exactly, policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Match, Policies, Policy
from milepost.api import create_app
from milepost.api.http.security.tokens import hash_token
from milepost.worker.config.settings import (
    ApiSettings,
    RetentionSettings,
    Rule,
    Settings,
    TokenSettings,
    load,
    open_manager,
)
from milepost.worker.service import Worker
from tests.support.client import AT, client_of, events_of, saved
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.client import TestClient
    from tests.support.clock import Clock


KEEP_8 = Policies(Match("*", Policy(name="default", keep_last=8)))
CONFIG = """
[store]
root = "store"
[retention]
min_age = "0s"
[[retention.rule]]
match = "etl*"
keep_last = 4
[retention.rule.completed]
keep_last = 3
"""


@pytest.fixture(name="configured")
def configured_fixture(tmp_path: Path) -> Iterator[TestClient]:
    """A client of a server that was started from a config file; twelve saves."""
    (tmp_path / "config.toml").write_text(CONFIG)
    settings = load(tmp_path / "config.toml", environ={})
    with open_manager(settings) as manager:
        saved(manager, 12)
        yield client_of(create_app(manager, settings=settings, clock=lambda: NOW))


def preview(client: TestClient, job_id: str = "etl", **params: Any) -> dict[str, Any]:
    params = {"job_id": job_id, **params}
    found: dict[str, Any] = client.get("/api/retention/preview", params=params).json()
    return found


def apply(client: TestClient, shown: dict[str, Any], **more: Any) -> Any:
    """Apply what a preview of `etl`, or of the selection given, showed."""
    headers = more.pop("headers", {})
    chosen = {} if "match" in more else {"job_id": "etl"}
    body = {"plan_id": shown["plan_id"], "as_of": shown["as_of"], **chosen, **more}
    return client.post("/api/retention/apply", json=body, headers=headers)


# -- previews -----------------------------------------------------------------------


def test_a_preview_tells_what_would_go_and_why_and_removes_nothing(
    client: TestClient, manager: CheckpointManager
) -> None:
    ids = saved(manager, 12)
    manager.policies = KEEP_8
    answer = client.get("/api/retention/preview", params={"job_id": "etl"})
    (job,) = answer.json()["jobs"]
    assert answer.headers["etag"] == '"13"'
    assert [v["checkpoint_id"] for v in job["remove"]] == ids[3::-1]
    assert [v["checkpoint_id"] for v in job["keep"]] == ids[:3:-1]
    assert "9th newest; keep_last = 8" in job["remove"][0]["reasons"]
    assert "last #1" in job["keep"][0]["reasons"]
    assert job["remove"][0]["timestamp"] == AT
    assert (job["head_seq"], job["policy"]["name"]) == (13, "default")
    assert len(manager.list("etl")) == 12


def test_a_preview_lists_as_much_as_was_asked_for_and_counts_everything(
    client: TestClient, manager: CheckpointManager
) -> None:
    for name in ("a", "b"):
        saved(manager, 12, name)
    manager.policies = KEEP_8
    body = {"match": "*"}
    answer = client.post("/api/retention/preview?limit=5", json=body).json()
    assert (answer["job_count"], answer["keep_count"], answer["remove_count"]) == (
        *(2, 16, 8),
    )
    assert answer["remove_bytes"] > 0
    listed = [(len(job["keep"]), len(job["remove"])) for job in answer["jobs"]]
    assert listed == [(5, 4), (0, 1)]
    assert [job["keep_count"] for job in answer["jobs"]] == [8, 8]
    assert client.get("/api/retention/preview?job_id=a&limit=0").status_code == 422
    assert client.get("/api/retention/preview?job_id=a&limit=501").status_code == 422


@pytest.mark.parametrize("job_id", ["unknown", "e*"])
def test_a_preview_of_an_unknown_job_is_empty(
    job_id: str, client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 12)
    manager.policies = KEEP_8
    found = preview(client, job_id)
    assert (found["jobs"], found["remove_count"]) == ([], 0)


def test_a_policy_to_try_has_the_keys_of_config_toml(configured: TestClient) -> None:
    policy = {"keep_last": 2, "keep_tags": ["a,b"], "max_age": "1y", "min_keep": 1}
    body = {"job_id": "etl", "policy": policy}
    answer = configured.post("/api/retention/preview", json=body)
    assert answer.status_code == 200
    (job,) = answer.json()["jobs"]
    shown = {key: job["policy"][key] for key in ("name", "keep_last", "keep_tags")}
    assert shown == {"name": "trial", "keep_last": 2, "keep_tags": [["a", "b"]]}
    assert job["keep_count"] == 2
    assert answer.json()["waits"] == [
        "job 'etl': 10 of 12 checkpoints would go; max_remove_fraction = 0.5"
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give either job_id or match"),
        ({"job_id": "a", "match": "b"}, "give either job_id or match"),
        ({"job_id": "a", "policy": {"keep_lst": 1}}, "policy.keep_lst"),
        ({"job_id": "a", "policy": {"keep_last": 0}}, "at least 1"),
        ({"job_id": "a", "policy": {"keep_within": "5m"}}, '"m" could be minutes'),
        ({"job_id": "a", "policy": {"keep_tags": ["x"]}}, "may match no checkpoint"),
        ({"job_id": "a", "policy": {"max_count": 1}}, "contradicts min_keep"),
    ],
    ids=str,
)
def test_a_preview_that_cannot_be_is_422_and_says_why(
    body: dict[str, Any], said: str, configured: TestClient
) -> None:
    answer = configured.post("/api/retention/preview", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_argument")
    assert said.lower() in answer.json()["detail"].lower()


def test_a_preview_of_all_jobs_sees_the_budget_of_the_store_and_lists_a_page(
    manager: CheckpointManager,
) -> None:
    for name in ("a", "b"):
        saved(manager, 12, name)
    budget = RetentionSettings(max_store_bytes=1024)
    settings = Settings(retention=budget, api=ApiSettings(max_page=1))
    client = client_of(create_app(manager, settings=settings))
    counts = []
    for body in ({"match": "*"}, {"match": "?"}, {"match": "*", "policy": {}}):
        answer = client.post("/api/retention/preview", json=body).json()
        counts.append((answer["job_count"], len(answer["jobs"])))
    assert counts == [(2, 1), (0, 0), (0, 0)]


# -- carrying a plan out ------------------------------------------------------------


def test_a_plan_is_carried_out_exactly_and_on_the_record(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 12)
    manager.policies = KEEP_8
    shown = preview(client)
    answer = apply(client, shown)
    assert answer.status_code == 200
    assert answer.json() == {
        "plan_id": shown["plan_id"],
        "deleted_count": 4,
        "job_count": 1,
        "jobs": [{"job_id": "etl", "deleted_count": 4, "kept_count": 8}],
        "skipped_count": 0,
        "skipped": [],
        "timestamp": AT,
    }
    assert answer.headers["etag"] == '"14"'
    event: Any = [*manager.history("etl")][-1]
    assert (event["actor"], event["data"]["plan_id"]) == ("api", shown["plan_id"])
    assert event["data"]["removed"].keys() == {
        verdict["checkpoint_id"] for verdict in shown["jobs"][0]["remove"]
    }


def test_a_job_that_moved_on_is_skipped_and_said_and_the_others_are_cleaned(
    client: TestClient, manager: CheckpointManager
) -> None:
    for name in ("busy", "idle"):
        saved(manager, 12, name)
    manager.policies = KEEP_8
    shown = client.post("/api/retention/preview", json={"match": "*"}).json()
    saved(manager, 1, "busy")
    answer = apply(client, shown, match="*")
    found = answer.json()
    assert (answer.status_code, found["deleted_count"]) == (200, 4)
    assert [job["job_id"] for job in found["jobs"]] == ["idle"]
    (skipped,) = found["skipped"]
    assert (skipped["job_id"], skipped["code"]) == ("busy", "stale_plan")
    assert (found["job_count"], found["skipped_count"]) == (1, 1)
    assert len(manager.list("busy")) == 13


def test_a_stale_plan_is_409_and_removes_nothing(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 12)
    manager.policies = KEEP_8
    shown = preview(client)
    saved(manager)
    answer = apply(client, shown)
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_plan")
    assert len(manager.list("etl")) == 13
    assert apply(client, preview(client)).status_code == 200


@pytest.mark.parametrize("plan_id", ["0123456789abcdef", "x", "-", "a-b-c", "-" * 99])
def test_a_plan_that_was_not_shown_is_409_and_says_what_to_do(
    plan_id: str, client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 12)
    manager.policies = KEEP_8
    answer = apply(client, preview(client) | {"plan_id": plan_id})
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_plan")
    assert "preview again" in answer.json()["detail"]
    assert len(manager.list("etl")) == 12


def test_applying_a_plan_that_removes_much_requires_confirmation(
    configured: TestClient,
) -> None:
    shown = preview(configured)
    waiting = apply(configured, shown)
    assert (waiting.status_code, waiting.json()["code"]) == (
        409,
        "confirmation_required",
    )
    assert preview(configured)["plan_id"] == shown["plan_id"]
    assert apply(configured, shown, confirm=True).json()["deleted_count"] == 8


def test_confirming_takes_the_admin_scope_and_the_rest_does_not(
    manager: CheckpointManager,
) -> None:
    def token(scope: Any) -> TokenSettings:
        return TokenSettings(name=scope, sha256=hash_token(scope), scopes=[scope])

    tokens = [token(scope) for scope in ("read", "write", "admin")]
    settings = Settings(api=ApiSettings(tokens=tokens))
    app = create_app(manager, settings=settings)
    saved(manager, 12)
    manager.policies = Policies(Match("*", Policy(keep_last=2)))
    reader, writer, admin = (
        client_of(app, Authorization=f"Bearer {each.name}") for each in tokens
    )
    shown = preview(reader)
    assert apply(reader, shown).status_code == 403
    assert apply(writer, shown).json()["code"] == "confirmation_required"
    refused = apply(writer, shown, confirm=True)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert len(manager.list("etl")) == 12
    assert apply(admin, shown, confirm=True).json()["deleted_count"] == 10
    assert [*manager.history("etl")][-1]["actor"] == "token:admin"


def test_a_repeated_apply_with_a_key_gets_the_first_answer(
    client: TestClient, manager: CheckpointManager
) -> None:
    for name in ("a", "b"):
        saved(manager, 12, name)
    manager.policies = KEEP_8
    body = {"match": "*"}
    shown = client.post("/api/retention/preview", json=body).json()
    key = {"Idempotency-Key": "k"}
    first, again = (apply(client, shown, **body, headers=key) for _ in range(2))
    assert (first.status_code, first.content) == (200, again.content)
    assert "etag" not in first.headers
    assert apply(client, shown, **body).json()["code"] == "stale_plan"
    assert events_of(manager, "a").count("checkpoints.cleaned") == 1


# -- the same plan on any server ------------------------------------------------------


@pytest.fixture(name="other")
def other_fixture(manager: CheckpointManager, clock: Clock) -> Iterator[TestClient]:
    """A client of a second server on the same store, which has previewed nothing."""
    with CheckpointManager(manager.root, clock=clock) as second:
        second.policies = KEEP_8
        yield client_of(create_app(second, clock=clock))


@pytest.mark.parametrize("chosen", [{"job_id": "etl"}, {"match": "*"}, {"match": "e*"}])
@pytest.mark.parametrize("policy", [None, {"keep_last": 6, "min_age": "0s"}])
def test_a_plan_is_applied_by_a_server_that_did_not_show_it(
    client: TestClient,
    other: TestClient,
    manager: CheckpointManager,
    chosen: dict[str, str],
    policy: dict[str, Any] | None,
) -> None:
    for job_id in ("etl", "elt"):
        saved(manager, 12, job_id)
    manager.policies = KEEP_8
    asked = chosen | ({"policy": policy} if policy else {})
    shown = client.post("/api/retention/preview", json=asked).json()
    answer = apply(other, shown, **asked)
    assert (answer.status_code, answer.json()["plan_id"]) == (200, shown["plan_id"])
    assert answer.json()["deleted_count"] == shown["remove_count"] > 0
    removed = [v["checkpoint_id"] for job in shown["jobs"] for v in job["remove"]]
    left = {info.checkpoint_id for job in ("etl", "elt") for info in manager.list(job)}
    assert left.isdisjoint(removed)


def test_a_plan_of_many_jobs_holds_on_another_server_for_those_that_rest(
    client: TestClient, other: TestClient, manager: CheckpointManager
) -> None:
    for job_id in ("busy", "idle", "other"):
        saved(manager, 12, job_id)
    manager.policies = KEEP_8
    shown = client.post("/api/retention/preview", json={"match": "*"}).json()
    saved(manager, 1, "busy")
    saved(manager, 12, "new")
    answer = apply(other, shown, match="*").json()
    assert [job["job_id"] for job in answer["jobs"]] == ["idle", "other"]
    assert [job["job_id"] for job in answer["skipped"]] == ["busy"]
    assert len(manager.list("new")) == 12
    again = apply(other, shown, match="*")
    assert (again.status_code, again.json()["code"]) == (409, "stale_plan")


@pytest.mark.parametrize(
    "wrong",
    [{"match": "idle"}, {"match": "*", "policy": {"keep_last": 5}}, {"job_id": "idle"}],
    ids=str,
)
def test_a_plan_applied_with_another_selection_or_policy_is_stale(
    wrong: dict[str, Any], client: TestClient, manager: CheckpointManager
) -> None:
    for job_id in ("busy", "idle"):
        saved(manager, 12, job_id)
    manager.policies = KEEP_8
    shown = preview(client, "busy")
    answer = apply(client, shown, **{"job_id": None, **wrong})
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_plan")
    assert len(manager.list("busy")) == len(manager.list("idle")) == 12


@pytest.mark.parametrize(
    "edited", [{"keep_last": 7}, {"keep_last": 8, "max_count": 100}], ids=str
)
def test_a_plan_is_stale_once_the_policy_is_edited(
    edited: dict[str, int], client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 12)
    manager.policies = KEEP_8
    shown = preview(client)
    manager.policies = Policies(Match("*", Policy(name="default", **edited)))
    answer = apply(client, shown)
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_plan")
    assert len(manager.list("etl")) == 12


def test_a_plan_counts_ages_from_its_own_time_whenever_it_is_applied(
    client: TestClient, other: TestClient, manager: CheckpointManager, clock: Clock
) -> None:
    saved(manager, 2)
    clock.turn(minutes=40)
    saved(manager, 10)
    policy = {"keep_last": 1, "min_keep": 1, "min_age": "30min"}
    asked = {"job_id": "etl", "policy": policy}
    shown = client.post("/api/retention/preview", json=asked).json()
    assert shown["remove_count"] == 2
    clock.turn(minutes=45)  # the others are over the minimal age now
    answer = apply(other, shown, **asked)
    assert (answer.status_code, answer.json()["deleted_count"]) == (200, 2)


@pytest.mark.parametrize(
    ("turned", "status", "code"),
    [
        ({"minutes": 60}, 200, None),
        ({"minutes": 60, "microseconds": 1}, 409, "stale_plan"),
        ({"days": 400}, 409, "stale_plan"),
        ({"microseconds": -1}, 422, "invalid_argument"),
        ({"days": -1}, 422, "invalid_argument"),
    ],
    ids=str,
)
def test_a_plan_is_applied_within_an_hour_and_never_before_its_time(
    client: TestClient,
    manager: CheckpointManager,
    clock: Clock,
    turned: dict[str, int],
    status: int,
    code: str | None,
) -> None:
    for job_id in ("etl", "other"):
        saved(manager, 12, job_id)
    manager.policies = KEEP_8
    shown = preview(client)
    cleanup = {"job_id": "other", "keep_last": 8}
    by_count = client.post("/api/retention/preview", json=cleanup).json()
    clock.turn(**turned)
    plan = {"plan_id": by_count["plan_id"], "as_of": by_count["as_of"]}
    for answer in (
        client.post("/api/checkpoints/cleanup", json=cleanup | plan),
        apply(client, shown),
    ):
        assert (answer.status_code, answer.json().get("code")) == (status, code)
        assert code is None or "as" in answer.json()["detail"]
    for job_id in ("etl", "other"):
        assert len(manager.list(job_id)) == (12 if code else 8)


@pytest.mark.parametrize("as_of", ["yesterday", "2026-11-23T05:00:00", None, {}])
def test_a_time_that_is_none_is_422(
    as_of: Any, client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 12)
    answer = apply(client, {"plan_id": "0" * 16, "as_of": as_of})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_argument")


def test_a_cleanup_by_count_deletes_what_its_preview_showed_or_nothing(
    client: TestClient, other: TestClient, manager: CheckpointManager
) -> None:
    saved(manager, 5)
    asked = {"job_id": "etl", "keep_last": 3}
    shown = client.post("/api/retention/preview", json=asked).json()
    plan = {"plan_id": shown["plan_id"], "as_of": shown["as_of"]}
    half = other.post("/api/checkpoints/cleanup", json=asked | {"plan_id": "x"})
    assert half.status_code == 422
    saved(manager)
    stale = other.post("/api/checkpoints/cleanup", json=asked | plan)
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_plan")
    assert len(manager.list("etl")) == 6
    shown = client.post("/api/retention/preview", json=asked).json()
    plan = {"plan_id": shown["plan_id"], "as_of": shown["as_of"]}
    answer = other.post("/api/checkpoints/cleanup", json=asked | plan)
    assert (answer.status_code, answer.json()["deleted_count"]) == (200, 3)
    *_, event = manager.history("etl")
    assert event["type"] == "checkpoints.cleaned"
    assert event["data"]["plan_id"] == shown["plan_id"]


# -- policies -----------------------------------------------------------------------


def test_policies_tell_where_each_value_came_from(
    configured: TestClient, tmp_path: Path
) -> None:
    answer = configured.get("/api/retention/policies").json()
    names = [(each["name"], each["match"]) for each in answer["policies"]]
    assert names == [
        ("rule:etl*", "etl*"),
        ("rule:etl*:completed", "etl*"),
        ("default", "*"),
    ]
    values = answer["policies"][0]["values"]
    config = tmp_path / "config.toml"
    assert values["keep_last"] == {"value": 4, "origin": f"rule:etl* in {config}"}
    assert values["min_age"] == {"value": "0s", "origin": f"retention in {config}"}
    assert values["min_keep"] == {"value": 3, "origin": "default"}


def test_a_jobs_own_policy_changes_when_it_is_complete(configured: TestClient) -> None:
    def name() -> str:
        params = {"job_id": "etl"}
        answer = configured.get("/api/retention/policies", params=params).json()
        (policy,) = answer["policies"]
        return f"{answer['job_id']}: {policy['name']}"

    assert name() == "etl: rule:etl*"
    configured.post("/api/jobs/complete", json={"job_id": "etl"})
    assert name() == "etl: rule:etl*:completed"
    assert preview(configured)["keep_count"] == 3


def test_policies_of_a_bare_manager_are_told_without_origins(
    client: TestClient, manager: CheckpointManager
) -> None:
    manager.policies = Policies(
        Match("*", Policy(name="mine", keep_last=8)),
        (Match("a*", Policy(name="a"), Policy(name="done", max_count=1)),),
    )
    policies = client.get("/api/retention/policies").json()["policies"]
    assert [policy["name"] for policy in policies] == ["a", "done", "mine"]
    assert policies[2]["values"]["keep_last"] == {"value": 8, "origin": "default"}


def test_policies_are_those_that_the_worker_took_over_last(
    manager: CheckpointManager,
) -> None:
    edited = Settings(retention=RetentionSettings(default=Rule(keep_last=5)))
    worker = Worker(manager, edited)
    client = client_of(create_app(manager, settings=Settings(), worker=worker))
    (policy,) = client.get("/api/retention/policies").json()["policies"]
    assert policy["values"]["keep_last"] == {"value": 5, "origin": "retention.default"}


# -- completion, failure, and what stays as it was ------------------------------------


def test_a_completed_job_says_when_until_it_goes_on(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager)
    body = {"job_id": "etl", "failed": True, "reason": "no more input"}
    answer = client.post("/api/jobs/complete", json=body)
    assert answer.json() == {
        "job_id": "etl",
        "completed_at": AT,
        "failed": True,
        "timestamp": AT,
    }
    assert answer.headers["etag"] == '"3"'
    assert client.get("/api/jobs").json()["jobs"][0]["completed_at"] == AT
    event: Any = [*manager.history("etl")][-1]
    assert event["data"] == {"failed": True, "reason": "no more input"}
    saved(manager)
    assert client.get("/api/jobs").json()["jobs"][0]["completed_at"] is None


def test_completing_is_refused_where_it_has_to_be(
    client: TestClient, manager: CheckpointManager
) -> None:
    saved(manager)
    body = {"job_id": "etl"}
    stale = {"If-Match": '"1"'}
    url = "/api/jobs/complete"
    assert client.post(url, json=body, headers=stale).status_code == 412
    unknown = client.post(url, json={"job_id": "nope"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    key = {"Idempotency-Key": "k"}
    answers = [client.post(url, json=body, headers=key) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert events_of(manager).count("job.completed") == 1


def test_a_save_can_be_a_failed_one(
    client: TestClient, manager: CheckpointManager
) -> None:
    body = {"job_id": "etl", "step_name": "s", "state": {}, "failed": True}
    assert client.post("/api/checkpoints", json=body).status_code == 201
    (info,) = manager.list("etl")
    assert info.failed is True


def test_a_cleanup_by_number_asks_no_policy_and_answers_four_fields(
    configured: TestClient,
) -> None:
    body = {"job_id": "etl", "keep_last": 2}
    answer = configured.post("/api/checkpoints/cleanup", json=body)
    assert (answer.status_code, answer.json()) == (
        200,
        {"job_id": "etl", "deleted_count": 10, "kept_count": 2, "timestamp": AT},
    )
    refused = configured.post("/api/checkpoints/cleanup", json={})
    assert refused.status_code == 422
    for more in ({"policy": {}}, {"confirm": True}):  # unknown here, so ignored
        again = configured.post("/api/checkpoints/cleanup", json={**body, **more})
        assert (again.status_code, again.json()["deleted_count"]) == (200, 0)
