"""Bad input and faults at the three doors: library, a real server, commands.

docs/bad-input.md is the table of what comes out; other tests go deeper door by door.
"""

from __future__ import annotations

import os
import signal
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pytest

from milepost import CheckpointManager
from milepost.journal import errors
from tests.support.cli import BIN, call, damage, ids_of, run
from tests.support.client import Answer, read_answer
from tests.support.eventually import eventually
from tests.support.namespaces import namespace, needs_namespaces
from tests.support.servers import SERVING, staying, staying_as

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.support.servers import Server

JOB = "etl-daily"
API = "/api/checkpoints"
SAVE = {"job_id": JOB, "step_name": "s", "state": {"n": 1}}
DEEP = b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"


class Large(NamedTuple):
    """A row whose bytes are made when its test runs, not when it is collected."""

    before: bytes
    count: int
    after: bytes = b""

    def made(self) -> bytes:
        return self.before + b"x" * self.count + self.after


def made(body: bytes | Large) -> bytes:
    return body.made() if isinstance(body, Large) else body


LARGE = Large(b'{"x":"', 100_000_000, b'"}')


class Door(NamedTuple):
    """A server on a store, and the store."""

    port: int
    store: Path

    def send(self, request_line: str, body: bytes = b"", **headers: str) -> Answer:
        """Send one request as a program would, unless `headers` say otherwise."""
        given = {"Host": f"127.0.0.1:{self.port}", "Content_Length": str(len(body))}
        if body:
            given["Content_Type"] = "application/json"
        given |= headers
        lines = [f"{k.replace('_', '-')}: {v}" for k, v in given.items()]
        head = "\r\n".join([f"{request_line} HTTP/1.1", *lines, "", ""])
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as wire:
            wire.sendall(head.encode() + body)
            return read_answer(wire)

    def save(self, state: bytes = b"{}", job_id: str = JOB) -> Answer:
        body = b'{"job_id":%b,"step_name":"s","state":%b}' % (
            orjson.dumps(job_id),
            state,
        )
        return self.send(f"POST {API}", body)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    store = tmp_path_factory.mktemp("bad") / "store"
    with CheckpointManager(store) as manager:
        for step in ("extract", "load", "report"):
            manager.save(JOB, step, {"step": step})
    before = ids_of(store)
    with staying("--store", str(store), "serve", "--port", "0") as server:
        yield Door(int(server.wait_for(SERVING)[2]), store)
        assert server.stop(signal.SIGTERM) == 0
    assert ids_of(store) == before  # nothing lost, nothing half-written
    assert run("--store", str(store), "verify").code == 0


def on(door: Door, *words: str, stdin: bytes = b"") -> tuple[int, str]:
    """Run a command on the same store; return its exit code and its one line."""
    done = call("--store", str(door.store), *words, stdin=stdin)
    assert done.err.count("\n") <= 1, done.err
    return done.code, done.err


# -- names -----------------------------------------------------------------------------


def test_an_unknown_job_is_empty_over_http_and_in_python_and_not_found_by_a_command(
    door: Door,
) -> None:
    assert door.send(f"GET {API}?job_id=nope").json["total"] == 0
    assert on(door, "list", "nope")[0] == 4
    with CheckpointManager(door.store) as manager:
        assert manager.list("nope") == []
        assert manager.cleanup("nope") == 0


@pytest.mark.parametrize(
    "request_line",
    [f"GET {API}/nope", f"POST {API}/nope/restore", f"DELETE {API}/nope"],
)
def test_an_unknown_checkpoint_is_404(request_line: str, door: Door) -> None:
    answer = door.send(request_line)
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert "not found" in answer.json["detail"]


@pytest.mark.parametrize("verb", ["show", "restore", "delete"])
def test_an_unknown_checkpoint_is_exit_4(verb: str, door: Door) -> None:
    code, line = on(door, verb, f"{JOB}@nope_1_00000000")
    assert code == 4
    assert "nope_1_00000000" in line
    with CheckpointManager(door.store) as manager, pytest.raises(FileNotFoundError):
        manager.restore(JOB, "nope_1_00000000")


@pytest.mark.parametrize("job_id", ["", "a\nb", "\x00", "x" * 600], ids=ascii)
def test_a_job_id_that_cannot_be_is_refused_at_every_door(
    job_id: str, door: Door
) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in job_id.encode())
    for answer in (door.send(f"GET {API}?job_id={quoted}"), door.save(job_id=job_id)):
        assert (answer.status, answer.json["code"]) == (422, "invalid_argument")
    if "\0" not in job_id:  # no command line can hold one
        assert on(door, "save", job_id, "--step", "s", stdin=b"{}")[0] == 2
    with (
        CheckpointManager(door.store) as manager,
        pytest.raises(errors.InvalidArgument),
    ):
        manager.save(job_id, "s", {})


ODD_IDS = ["a/b", "..", "../../x", "%00", "%2e%2e", "Twin", "twin", "tomé-🛰️", "x" * 512]


@pytest.mark.parametrize(
    "through",
    ["library", "http", pytest.param("command", marks=pytest.mark.slow)],
)
def test_an_odd_job_id_is_a_job_of_its_own_inside_the_folder(
    through: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    match through:
        case "library":
            with CheckpointManager(store) as manager:
                for job_id in ODD_IDS:
                    manager.save(job_id, "s", {"id": job_id})
        case "http":
            with staying("--store", str(store), "serve", "--port", "0") as server:
                door = Door(int(server.wait_for(SERVING)[2]), store)
                for job_id in ODD_IDS:
                    assert door.save(orjson.dumps({"id": job_id}), job_id).status == 201
        case "command":
            for job_id in ODD_IDS:
                words = ("save", "--step", "s", "--", job_id)
                state = orjson.dumps({"id": job_id})
                assert run("--store", str(store), *words, stdin=state).code == 0
    with CheckpointManager(store) as manager:
        for job_id in ODD_IDS:
            (only,) = manager.list(job_id)
            assert manager.get(job_id, only.checkpoint_id).state == {"id": job_id}
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


# -- states ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status", "code", "says"),
    [
        (b'{"plan":{"x":NaN}}', 422, "invalid_state", "$.plan.x"),
        (b'{"plan":[1e999]}', 422, "invalid_state", "$.plan[0]"),
        (b'{"n":18446744073709551616}', 422, "invalid_state", "$.n"),
        (b"[1]", 422, "invalid_argument", "state"),
        (DEEP, 422, "too_deep", "levels"),
        (LARGE, 413, "body_too_large", "max_body"),
    ],
    ids=["NaN", "infinity", "2**64", "a list", "depth 10,000", "100 MB"],
)
def test_a_state_that_would_not_come_back_is_refused_over_http(
    state: bytes | Large, status: int, code: str, says: str, door: Door
) -> None:
    answer = door.save(made(state))
    assert (answer.status, answer.json["code"]) == (status, code)
    assert says in answer.json["detail"]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (b'{"plan":{"x":NaN}}', "$.plan.x"),
        (b'{"n":18446744073709551616}', "$.n"),
        (b"[1]", "object"),
        (b'{"x":', "JSON"),
        (DEEP, "max_depth"),
        (LARGE, "max_state"),
    ],
    ids=["NaN", "2**64", "a list", "malformed", "depth 10,000", "100 MB"],
)
def test_a_state_that_would_not_come_back_is_refused_by_the_command(
    state: bytes | Large, says: str, door: Door
) -> None:
    code, line = on(door, "save", JOB, "--step", "s", stdin=made(state))
    assert code == 1
    assert says in line


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "nan has no JSON form"),
        (2**64, "64 bits"),
        (datetime(2026, 11, 23, tzinfo=UTC), "isoformat"),
        (b"raw", "base64"),
        ((1, 2), "list(value)"),
        ({1, 2}, "sorted"),
        (orjson.loads(b"[" * 250 + b"]" * 250), "deeper"),
        (LARGE, "100000"),
    ],
    ids=["NaN", "2**64", "datetime", "bytes", "tuple", "set", "deep", "100 MB"],
)
def test_a_state_that_would_not_come_back_is_refused_by_the_library(
    value: object, says: str, door: Door
) -> None:
    given = value.made().decode() if isinstance(value, Large) else value
    with (
        CheckpointManager(door.store) as manager,
        pytest.raises(errors.InvalidState, match=r"\$(\.plan\.x)?") as caught,
    ):
        manager.save(JOB, "s", {"plan": {"x": given}})
    assert isinstance(caught.value, ValueError)
    assert says in f"{caught.value} {caught.value.hint}"
    assert len(str(caught.value)) < 300


# -- requests --------------------------------------------------------------------------


@pytest.mark.parametrize("keep_last", [b"0", b"-1", b"101", b'"x"', b"2.5", b"true"])
def test_a_keep_last_out_of_bounds_is_422(keep_last: bytes, door: Door) -> None:
    body = b'{"job_id":"etl-daily","keep_last":%b}' % keep_last
    answer = door.send(f"POST {API}/cleanup", body)
    assert (answer.status, answer.json["code"]) == (422, "invalid_argument")
    assert "keep_last" in answer.json["detail"]


@pytest.mark.parametrize("keep_last", ["0", "-1", "three", "2.5"])
def test_a_keep_last_out_of_bounds_is_exit_2(keep_last: str, door: Door) -> None:
    code, line = on(door, "cleanup", JOB, f"--keep-last={keep_last}")
    assert code == 2
    assert keep_last in line


@pytest.mark.parametrize("keep_last", [0, -1, "3", 2.5, True, None])
def test_a_keep_last_out_of_bounds_is_refused_in_python(
    keep_last: Any, door: Door
) -> None:
    with (
        CheckpointManager(door.store) as manager,
        pytest.raises(errors.InvalidArgument, match="keep_last"),
    ):
        manager.cleanup(JOB, keep_last)


@pytest.mark.parametrize(
    ("request_line", "body", "headers", "status", "code"),
    [
        (f"GET {API}", b"", {}, 422, "invalid_argument"),
        (f"POST {API}", b'{"job_id":', {}, 422, "invalid_argument"),
        (f"POST {API}", b"[]", {}, 422, "invalid_argument"),
        (f"POST {API}", b"\xff", {}, 422, "invalid_json"),
        (f"POST {API}", b"{}", {"Content_Type": "text/plain"}, 415, "*"),
        (f"GET {API}?job_id=x", b"", {"Host": "evil.example"}, 400, "bad_host"),
        (f"POST {API}/x/restore", b"", {"Origin": "http://evil.example"}, 403, "*"),
        (f"POST {API}/x/restore", b"", {"Sec_Fetch_Site": "cross-site"}, 403, "*"),
        (f"POST {API}", Large(b"", 50_000_000), {}, 413, "body_too_large"),
    ],
    ids=[
        *("no job", "malformed", "a list", "no UTF-8", "text", "foreign host"),
        *("cross-site without a body", "cross-site by fetch", "50 MB"),
    ],
)
def test_a_bad_request_has_its_status_and_code(
    request_line: str,
    body: bytes | Large,
    headers: dict[str, str],
    status: int,
    code: str,
    door: Door,
) -> None:
    answer = door.send(request_line, made(body), **headers)
    assert answer.status == status
    assert code in {"*", answer.json["code"]}
    assert answer.json["detail"]


# -- the disk --------------------------------------------------------------------------


SERVE = '&& exec "$2" --store "$1/store" serve --port 0'
FULL = f'mount -t tmpfs -o size=192k none "$1" {SERVE}'
READ_ONLY = f'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" {SERVE}'


@needs_namespaces
def test_a_full_disk_is_507_and_all_that_was_acknowledged_is_still_listed(
    tmp_path: Path,
) -> None:
    with mounted_server(tmp_path, FULL) as server:
        door = Door(int(server.wait_for(SERVING)[2]), tmp_path / "store")
        saved, status = [], 201
        while status == 201:
            answer = door.save(orjson.dumps({"x": os.urandom(4000).hex()}))
            status = answer.status
            saved += [answer.json["checkpoint_id"]] if status == 201 else []
        assert (status, answer.json["code"]) == (507, "no_space")
        listed = door.send(f"GET {API}?job_id={JOB}").json["checkpoints"]
        assert [item["checkpoint_id"] for item in listed] == saved
        assert len(saved) > 3
        assert server.stop(signal.SIGTERM) == 0


@needs_namespaces
def test_a_read_only_folder_is_served_and_refuses_writes(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path / "store") as manager:
        checkpoint_id = manager.save(JOB, "one", {"n": 1})
    with mounted_server(tmp_path, READ_ONLY) as server:
        door = Door(int(server.wait_for(SERVING)[2]), tmp_path / "store")
        assert door.send(f"GET {API}/{checkpoint_id}").json["state_snapshot"] == {
            "n": 1
        }
        for answer in (
            door.save(),
            door.send(f"POST {API}/{checkpoint_id}/restore"),
            door.send(f"DELETE {API}/{checkpoint_id}"),
        ):
            assert (answer.status, answer.json["code"]) == (503, "read_only")
        assert server.stop(signal.SIGTERM) == 0


def mounted_server(folder: Path, script: str) -> AbstractContextManager[Server]:
    """Serve a store in a mount namespace of its own."""
    shell = [*namespace(), "sh", "-c", script, "sh"]
    return staying_as([*shell, str(folder), str(BIN / "milepost")])


# -- faults ----------------------------------------------------------------------------


def test_a_flipped_byte_is_named_at_every_door_and_stops_no_other_job(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    with CheckpointManager(store) as manager:
        for job_id in (JOB, "other"):
            for step in ("extract", "load", "report"):
                manager.save(job_id, step, {})
    damage(store)
    with staying("--store", str(store), "serve", "--port", "0") as server:
        door = Door(int(server.wait_for(SERVING)[2]), store)
        answer = door.send(f"GET {API}?job_id={JOB}")
        assert (answer.status, answer.json["code"]) == (500, "damaged")
        assert "line 5, byte" in answer.json["detail"]
        assert door.save().status == 500
        assert door.save(job_id="other").status == 201  # I10
    done = run("--store", str(store), "list", JOB)
    assert done.code == 7
    assert "line 5, byte" in done.err
    with CheckpointManager(store) as manager, pytest.raises(errors.DamagedJournal):
        manager.latest(JOB)


def leads(door: Door) -> bool:
    return bool(door.send("GET /readyz").json["worker"]["leader"])


@pytest.mark.slow
def test_two_servers_on_one_folder_share_it_and_one_alone_leads(
    tmp_path: Path,
) -> None:
    with CheckpointManager(tmp_path) as manager:
        saved = [manager.save(JOB, "first", {})]
    words = ("--store", str(tmp_path), "serve", "--port", "0")
    with staying(*words) as first, staying(*words) as second:
        ports = [int(server.wait_for(SERVING)[2]) for server in (first, second)]
        doors = [Door(port, tmp_path) for port in ports]
        saved += [doors[n % 2].save().json["checkpoint_id"] for n in range(20)]
        for door in doors:
            listed = door.send(f"GET {API}?job_id={JOB}").json["checkpoints"]
            assert [item["checkpoint_id"] for item in listed] == saved
        eventually(lambda: any(map(leads, doors)))
        assert sum(map(leads, doors)) == 1  # I8
        assert [s.stop(signal.SIGTERM) for s in (first, second)] == [0, 0]


@pytest.mark.parametrize(
    "verb",
    [
        "list",
        pytest.param("serve", marks=pytest.mark.slow),
        pytest.param("worker", marks=pytest.mark.slow),
    ],
)
def test_a_typo_in_config_toml_names_the_nearest_key(verb: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[store]\nrooot = "x"\n')
    done = run("--config", str(config), verb)
    assert done.code == 1
    assert done.err == (
        f"milepost: {config}: unknown key store.rooot; did you mean store.root?\n"
    )
