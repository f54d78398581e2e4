"""The application as a whole: what it makes, closes, describes and shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from milepost import CheckpointManager
from milepost.api import create_app
from milepost.api.http.security.tokens import hash_token
from milepost.journal.errors import InvalidArgument
from milepost.worker.config.settings import (
    ApiSettings,
    ExecutorSettings,
    Settings,
    StoreSettings,
    TokenSettings,
)
from milepost.worker.executors import ExecutorUnusable
from tests.support.client import ask, client_of, saved, serving

if TYPE_CHECKING:
    from milepost.journal.execution_models import ApprovalInfo
    from tests.support.client import TestClient

SAVE = {"job_id": "etl", "step_name": "s", "state": {"n": 1}}


# What it makes, and closes


def test_without_a_manager_one_is_made_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = client_of(create_app())
    assert client.get("/healthz").status_code == 200
    assert list(tmp_path.iterdir()) == []
    assert client.post("/api/checkpoints", json=SAVE).status_code == 201
    assert (tmp_path / "checkpoints" / "journals" / "etl.jsonl").exists()


def test_settings_say_where_the_store_is(tmp_path: Path) -> None:
    settings = Settings(store=StoreSettings(root=tmp_path / "here"))
    with client_of(create_app(settings=settings)) as client:
        client.post("/api/checkpoints", json=SAVE)
    assert (tmp_path / "here" / "journals" / "etl.jsonl").exists()
    with CheckpointManager(tmp_path / "here") as manager:
        assert len(manager.list("etl")) == 1


def open_files(folder: Path) -> set[Path]:
    """Return what this process holds open below `folder`."""
    targets = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            targets.add(link.readlink())
    return {target for target in targets if target.is_relative_to(folder)}


def test_a_manager_made_here_is_closed_with_the_server(tmp_path: Path) -> None:
    app = create_app(settings=Settings(store=StoreSettings(root=tmp_path)))
    with client_of(app) as client:
        client.post("/api/checkpoints", json=SAVE)
        assert open_files(tmp_path)
        held = app.state.services.manager  # so that no collector closes it for us
    assert not open_files(tmp_path)
    assert app.state.services.manager is not held


def test_a_manager_passed_in_stays_open(manager: CheckpointManager) -> None:
    with client_of(create_app(manager)) as client:
        client.post("/api/checkpoints", json=SAVE)
    assert manager.root is not None
    assert open_files(manager.root)
    assert len(manager.list("etl")) == 1


def test_a_job_started_by_our_own_executor_ends_with_the_server(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    script = f"exec 30>{alive}; echo up >&30; exec sleep 600"
    settings = Settings(
        store=StoreSettings(root=tmp_path / "store"),
        executor=ExecutorSettings(command=["bash", "-c", script]),
    )
    with client_of(create_app(settings=settings)) as client:
        saved_as = client.post("/api/checkpoints", json=SAVE).json()["checkpoint_id"]
        target, body = f"/api/checkpoints/{saved_as}/restore", {"resume": True}
        assert client.post(target, json=body).json()["job_status"] == "resumed"
        reading = os.open(alive, os.O_RDONLY)
        assert os.read(reading, 3) == b"up\n"
        assert client.post(target, json=body).json()["code"] == "job_running"
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert (tmp_path / "store" / "logs" / "etl.log").exists()


def test_settings_may_name_an_executor_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue_of_mine.py").write_text(
        "class Queue:\n"
        "    asked = []\n"
        "    def resume_job(self, job_id):\n"
        "        self.asked.append(job_id)\n"
        "queue = Queue()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = Settings(
        store=StoreSettings(root=tmp_path / "store"),
        executor=ExecutorSettings(python="queue_of_mine:queue"),
    )
    client = client_of(create_app(settings=settings))
    saved_as = client.post("/api/checkpoints", json=SAVE).json()["checkpoint_id"]
    client.post(f"/api/checkpoints/{saved_as}/restore", json={"resume": True})
    assert sys.modules["queue_of_mine"].queue.asked == ["etl"]


def test_an_executor_that_cannot_be_loaded_stops_the_start() -> None:
    settings = Settings(executor=ExecutorSettings(python="no_such_thing:x"))
    with pytest.raises(ExecutorUnusable, match="no_such_thing"):
        create_app(settings=settings)


def test_two_servers_on_one_folder_see_each_other_and_lose_nothing(
    tmp_path: Path,
) -> None:
    settings = Settings(store=StoreSettings(root=tmp_path))
    clients = [client_of(create_app(settings=settings)) for _ in range(2)]
    ids = []
    for i in range(10):
        answer = clients[i % 2].post("/api/checkpoints", json=SAVE)
        ids.append(answer.json()["checkpoint_id"])
        other = clients[(i + 1) % 2]
        listed = other.get("/api/checkpoints", params={"job_id": "etl"}).json()
        assert [item["checkpoint_id"] for item in listed["checkpoints"]] == ids
    events = clients[0].get("/api/events", params={"job_id": "etl"}).json()["events"]
    assert [event["seq"] for event in events] == list(range(1, 12))


def test_importing_the_package_loads_no_server() -> None:
    code = (
        "import sys; from milepost import api;"
        "print('fastapi' in sys.modules, api.create_app.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "create_app"]


# Tokens, through the whole application


def test_the_name_of_the_token_is_the_actor_in_the_journal(
    manager: CheckpointManager,
) -> None:
    token = TokenSettings(name="ci", sha256=hash_token("s3cret"), scopes=["write"])
    settings = Settings(api=ApiSettings(tokens=[token]))
    app = create_app(manager, settings=settings)
    assert client_of(app).get("/api/jobs").status_code == 401
    client = client_of(app, Authorization="Bearer s3cret")
    saved_as = client.post("/api/checkpoints", json=SAVE).json()["checkpoint_id"]
    client.post(f"/api/checkpoints/{saved_as}/restore")
    client.post("/api/checkpoints", json=SAVE)
    client.post("/api/checkpoints/cleanup", json={"job_id": "etl", "keep_last": 1})
    client.delete(f"/api/checkpoints/{saved_as}")
    actors = {e["actor"] for e in manager.history("etl") if e["type"] != "job.opened"}
    assert actors == {"token:ci"}


# Settings that reach the gate


def test_the_hosts_in_the_settings_are_answered_to(manager: CheckpointManager) -> None:
    api = ApiSettings(host="milepost.lan", allowed_hosts=["jobs.example"])
    client = client_of(create_app(manager, settings=Settings(api=api)))
    for host, status in (("milepost.lan", 200), ("jobs.example", 200), ("x.lan", 400)):
        assert client.get("/api/jobs", headers={"Host": host}).status_code == status


def test_every_host_may_be_allowed_where_a_token_is_asked_for(
    manager: CheckpointManager,
) -> None:
    token = TokenSettings(name="ops", sha256="0" * 64, scopes=["read"])
    for tokens, is_allowed in (([], False), ([token], True)):
        api = ApiSettings(allowed_hosts=["*"], tokens=tokens)
        with nullcontext() if is_allowed else pytest.raises(InvalidArgument):
            create_app(manager, settings=Settings(api=api))


def test_a_body_may_not_be_much_deeper_than_the_states_in_the_settings(
    tmp_path: Path,
) -> None:
    settings = Settings(store=StoreSettings(root=tmp_path, max_depth=10))
    client = client_of(create_app(settings=settings))
    codes = []
    for levels in (9, 16, 17):
        state: dict[str, Any] = {}
        for _ in range(levels):
            state = {"a": state}
        body = {"job_id": "etl", "step_name": "s", "state": state}
        codes.append(client.post("/api/checkpoints", json=body).json().get("code"))
    assert codes == [None, "state_too_large", "too_deep"]


def test_the_time_that_a_body_may_take_reaches_the_gate(
    manager: CheckpointManager,
) -> None:
    with serving(create_app(manager, body_timeout_seconds=0.05)) as port:
        answer = ask(
            port, "POST /api/checkpoints/cleanup", Content_Length="9", Expect="none"
        )
    assert answer.status == 408
    assert "within 0.05 seconds" in answer.json["detail"]


# What it describes and shows


MARKS = ("pin", "unpin", "hold", "release", "undelete")
VERBS: dict[str, dict[str, Any]] = {  # with a body that each accepts
    "pause": {},
    "resume": {"retry": True},
    "cancel": {},
    "fail": {"error": "no disk"},
    "signals": {"name": "go"},
    "lease": {},
    "heartbeat": {"attempt": 1},
    "checkpoints": {"checkpoint_name": "b", "agent_id": "x"},
    "checkpoints/complete": {"checkpoint_name": "a"},
    "complete": {},
    "approvals": {"subject": {"n": 1}},
}
CREATING = {"checkpoints", "approvals"}


def test_openapi_describes_every_answer(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = {
        (method, path): operation["responses"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert set(described) == {
        ("get", "/api/checkpoints"),
        ("post", "/api/checkpoints"),
        ("get", "/api/checkpoints/{checkpoint_id}"),
        ("delete", "/api/checkpoints/{checkpoint_id}"),
        ("post", "/api/checkpoints/{checkpoint_id}/restore"),
        *(("post", f"/api/checkpoints/{{checkpoint_id}}/{verb}") for verb in MARKS),
        ("post", "/api/checkpoints/cleanup"),
        ("get", "/api/jobs"),
        ("post", "/api/jobs/complete"),
        ("get", "/api/retention/preview"),
        ("post", "/api/retention/preview"),
        ("post", "/api/retention/apply"),
        ("get", "/api/retention/policies"),
        ("get", "/api/worker"),
        ("get", "/api/events"),
        ("get", "/api/executions"),
        ("post", "/api/executions"),
        ("get", "/api/executions/{execution_id}"),
        ("get", "/api/executions/{execution_id}/checkpoints"),
        *(("post", f"/api/executions/{{execution_id}}/{verb}") for verb in VERBS),
        ("get", "/api/approvals"),
        ("get", "/api/approvals/{approval_id}"),
        ("post", "/api/approvals/{approval_id}/decide"),
        ("get", "/healthz"),
        ("get", "/readyz"),
    }
    for responses in described.values():
        for status, response in responses.items():
            if status != "204":
                schema = response["content"]["application/json"]["schema"]
                assert "$ref" in schema


class Shape(NamedTuple):
    method: str
    path: str
    status: str
    body: dict[str, Any] | None = None


SHAPES = [
    Shape("post", "/api/checkpoints", "201", SAVE),
    Shape("get", "/api/checkpoints", "200"),
    Shape("get", "/api/checkpoints/{checkpoint_id}", "200"),
    Shape("post", "/api/checkpoints/{checkpoint_id}/restore", "200", {}),
    *(Shape("post", f"/api/checkpoints/{{checkpoint_id}}/{v}", "200") for v in MARKS),
    Shape("get", "/api/jobs", "200"),
    Shape("get", "/api/events", "200"),
    Shape("post", "/api/checkpoints/cleanup", "200", {"job_id": "etl"}),
    Shape("post", "/api/jobs/complete", "200", {"job_id": "etl"}),
    Shape("get", "/api/retention/preview", "200"),
    Shape("post", "/api/retention/preview", "200", {"match": "*"}),
    Shape("get", "/api/retention/policies", "200"),
    Shape("get", "/api/executions", "200"),
    Shape(
        "post",
        "/api/executions",
        "201",
        {"correlation_id": "new", "workflow_name": "ingest"},
    ),
    Shape("get", "/api/executions/{execution_id}", "200"),
    Shape("get", "/api/executions/{execution_id}/checkpoints", "200"),
    *(
        Shape(
            "post",
            f"/api/executions/{{execution_id}}/{verb}",
            "201" if verb in CREATING else "200",
            body,
        )
        for verb, body in VERBS.items()
    ),
    Shape("get", "/api/approvals", "200"),
    Shape("get", "/api/approvals/{approval_id}", "200"),
    Shape(
        "post",
        "/api/approvals/{approval_id}/decide",
        "200",
        {"decision": "approve", "subject_digest": ""},
    ),
    Shape("get", "/readyz", "200"),
]


@cache
def described() -> dict[str, Any]:
    return create_app().openapi()


def properties(document: dict[str, Any], ref: str) -> dict[str, Any]:
    schema = document["components"]["schemas"][ref.rpartition("/")[2]]
    found: dict[str, Any] = schema["properties"]
    return found


def running(manager: CheckpointManager, path: str) -> str:
    """Start an execution on which every request has an effect; return its id."""
    job_id = "etl" if "executions" in path else "other"  # its lease refuses a restore
    run = manager.start_workflow_execution(job_id, "ingest", pending=True).execution_id
    if path.endswith("/lease"):
        return run
    lease = manager.acquire_lease(run, "api", auto_renew=False)
    manager.create_checkpoint(run, "a", "x", {}, attempt=lease.attempt)
    if path.endswith("/resume"):
        manager.pause_execution(run)
    return run


def asked(manager: CheckpointManager) -> ApprovalInfo:
    """Return an approval that waits for a decision."""
    run = manager.start_workflow_execution("asking", "ingest").execution_id
    return manager.request_approval(run, {"n": 1}, actor="ann")


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.path)
def test_answers_have_the_fields_that_openapi_says(
    shape: Shape, client: TestClient, manager: CheckpointManager
) -> None:
    checkpoint_id, _ = saved(manager, 2)
    execution_id, approval = running(manager, shape.path), asked(manager)
    if shape.body is not None and "subject_digest" in shape.body:
        shape.body["subject_digest"] = approval.subject_digest
    document = described()
    operation = document["paths"][shape.path][shape.method]
    schema = operation["responses"][shape.status]["content"]["application/json"][
        "schema"
    ]
    known = {each["name"] for each in operation.get("parameters", ())}
    answer = client.request(
        shape.method,
        shape.path.format(
            checkpoint_id=checkpoint_id,
            execution_id=execution_id,
            approval_id=approval.approval_id,
        ),
        params={"job_id": "etl"} if "job_id" in known else {},
        json=shape.body,
    )
    assert str(answer.status_code) == shape.status
    said = properties(document, schema["$ref"])
    optional = {"next_cursor"} if shape.path == "/api/checkpoints" else set()
    optional.add("metadata_problem")
    if shape.path.endswith("/restore"):
        optional |= {"execution_id", "mode"}  # of a checkpoint of an execution
    assert set(said) - optional == set(answer.json())
    for name, value in answer.json().items():
        if isinstance(value, list) and value and "items" in said[name]:
            inner = set(properties(document, said[name]["items"]["$ref"]))
            left_out = {"span", "metadata_problem"}
            assert set(value[0]) | left_out == inner | left_out


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/api", "/api/", "/api/checkpoints/"]
)
def test_there_is_nothing_else(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "not found" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/api/jobs", "GET, HEAD, OPTIONS"),
        ("/api/checkpoints", "GET, HEAD, POST, OPTIONS"),
        ("/api/checkpoints/x", "GET, HEAD, DELETE, OPTIONS"),
        ("/api/checkpoints/x/pin", "POST, OPTIONS"),
        ("/api/retention/preview", "GET, HEAD, POST, OPTIONS"),
    ],
)
def test_the_methods_of_a_path_are_told_whichever_routes_it_has(
    path: str, methods: str, client: TestClient
) -> None:
    answer = client.put(path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == methods
    answer = client.options(path)
    assert (answer.status_code, answer.headers["allow"]) == (204, methods)
    assert answer.content == b""


def test_head_is_get_without_the_body_on_every_path(
    client: TestClient, manager: CheckpointManager
) -> None:
    (checkpoint_id,) = saved(manager)
    approval = asked(manager)
    ids = {
        "checkpoint_id": checkpoint_id,
        "execution_id": approval.execution_id,
        "approval_id": approval.approval_id,
    }
    document = client.get("/openapi.json").json()
    paths = [path for path, known in document["paths"].items() if "get" in known]
    for path in ("/", "/openapi.json", *paths):
        known = document["paths"].get(path, {}).get("get", {}).get("parameters", ())
        query = (
            {"job_id": "etl"} if "job_id" in {each["name"] for each in known} else {}
        )
        at = path.format(**ids)
        got, head = client.get(at, params=query), client.head(at, params=query)
        assert (head.status_code, head.headers) == (200, got.headers)
        assert head.content == b""
    assert client.head("/api/checkpoints/x").status_code == 404
    assert client.head("/api/jobs/complete").status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "query", "said"),
    [
        ("GET", "/api/checkpoints", {"job_id": "q", "tag": "a"}, "tag"),
        ("GET", "/api/checkpoints", {"job_id": "q", "limt": 1}, "did you mean limit?"),
        ("GET", "/api/checkpoints", {"job_id": ["q", "q"]}, "given once"),
        ("GET", "/api/jobs", {"mtach": "nope*"}, "did you mean match?"),
        ("GET", "/api/events", {"job_id": "q", "types": "x"}, "did you mean type?"),
        ("GET", "/api/worker", {"x": 1}, "there are none"),
        ("GET", "/api/checkpoints/x", {"state": "no"}, "state"),
        ("DELETE", "/api/checkpoints/x", {"forced": "true"}, "did you mean force?"),
        ("POST", "/api/checkpoints/x/restore", {"resume": "true"}, "resume"),
        ("POST", "/api/checkpoints/cleanup", {"keep_last": 3}, "keep_last"),
        ("POST", "/api/retention/preview", {"limi": 3}, "did you mean limit?"),
    ],
)
def test_a_query_parameter_that_is_not_known_is_refused(
    method: str, path: str, query: dict[str, Any], said: str, client: TestClient
) -> None:
    answer = client.request(method, path, params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_argument")
    assert said in answer.json()["detail"]


def test_a_parameter_that_takes_several_values_takes_several(
    client: TestClient,
) -> None:
    query = {"job_id": "etl", "type": ["job.opened", "checkpoint.saved"]}
    assert client.get("/api/events", params=query).status_code == 200


def test_probes_do_not_mind_a_query(client: TestClient) -> None:
    for path in ("/healthz", "/readyz"):
        assert client.get(path, params={"from": "monitor"}).status_code == 200


@pytest.mark.parametrize("address", ["http://127.0.0.1:8097", "http://jobs.lan"])
def test_the_page_names_the_address_that_it_was_asked_under(
    address: str, manager: CheckpointManager
) -> None:
    api = ApiSettings(allowed_hosts=["jobs.lan"])
    client = client_of(create_app(manager, settings=Settings(api=api)))
    text = client.get(f"{address}/").text
    assert {*re.findall(r"http://[^/ ]+", text)} == {address}


def test_the_page_loads_nothing_from_anywhere(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(", answer.text)
    assert re.findall(r'(?:src|href)="([^"]*)"', answer.text) == ["/openapi.json"]
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_names_every_endpoint(client: TestClient) -> None:
    page = client.get("/").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert re.sub(r"\{\w+\}", "{id}", path) in page


def test_it_serves_over_a_socket_and_refuses_strangers(
    manager: CheckpointManager,
) -> None:
    saved(manager)
    with serving(create_app(manager)) as port:
        assert ask(port, "GET /api/checkpoints?job_id=etl").json["total"] == 1
        foreign = ask(port, "GET /api/checkpoints?job_id=etl", host="evil.example")
        assert foreign.status == 400
        crossing = ask(
            port, "POST /api/checkpoints/x/restore", Origin="https://evil.example"
        )
        assert crossing.status == 403
        assert ask(port, "GET /api/checkpoints?job_id=%ff").status == 422
