"""`serve` and `worker`: started, asked, and told to stop."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import JOB, call, ids_of, run
from tests.support.eventually import DEADLINE_SECONDS
from tests.support.servers import RULE, SERVING, ask, staying

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVE = ("serve", "--port", "0")


def test_the_example_of_serve_serves_until_it_is_told_to_stop(store: Path) -> None:
    example = call("serve", "--help").out.splitlines()[-1].split()
    assert example[:2] == ["milepost", "serve"]
    with staying(*example[1:]) as server:
        port = int(server.wait_for(SERVING)[2])

        status, answer = ask(port, "GET", f"/api/checkpoints?job_id={JOB}")
        saved, _ = ask(
            port,
            "POST",
            "/api/checkpoints",
            {"job_id": JOB, "step_name": "x", "state": {}},
        )

        assert (status, answer["total"], saved) == (200, 3, 201)
        assert server.stop(signal.SIGTERM) == 0
        assert server.said.endswith("stopped\n")
        assert "Traceback" not in server.said
    assert len(ids_of(store)) == 4


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        pytest.param(SERVE, signal.SIGTERM, 0, marks=pytest.mark.slow),
        (("worker",), signal.SIGINT, 130),
        pytest.param(SERVE, signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(("worker",), signal.SIGTERM, 0, marks=pytest.mark.slow),
    ],
)
def test_sigterm_is_obeyed_and_ctrl_c_is_an_interruption(
    words: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    with staying(*words) as server:
        server.wait_for(r"Ctrl-C ends it")

        assert server.stop(number) == code
        assert "Traceback" not in server.said


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_server_that_stops_finishes_the_request_it_is_at() -> None:
    body = json.dumps({"job_id": JOB, "step_name": "x", "state": {}}).encode()
    with staying("serve", "--port", "0") as server:
        port = int(server.wait_for(SERVING)[2])
        with half_a_request(port, body) as client:
            server.child.send_signal(signal.SIGTERM)
            wait_until_refused(port)
            client.sendall(body[-1:])
            assert client.recv(65536).startswith(b"HTTP/1.1 201 ")

        assert server.wait() == 0


@pytest.mark.usefixtures("store")
def test_a_second_ctrl_c_does_not_wait_for_a_slow_request() -> None:
    body = json.dumps({"job_id": JOB, "step_name": "x", "state": {}}).encode()
    with staying("serve", "--port", "0") as server:
        port = int(server.wait_for(SERVING)[2])
        with half_a_request(port, body):
            server.child.send_signal(signal.SIGINT)
            wait_until_refused(port)
            assert server.stop(signal.SIGINT) == 130

        assert "Traceback" not in server.said


@contextmanager
def half_a_request(port: int, body: bytes) -> Iterator[socket.socket]:
    """Send a save but for its last byte, once the server has begun to read it."""
    head = (
        "POST /api/checkpoints HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: application/json\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as client:
        client.sendall(head.encode())
        # The application has asked for the body, so it is in the request by now.
        assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
        client.sendall(body[:-1])
        yield client


def wait_until_refused(port: int) -> None:
    """Wait until the server listens no more."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS).close()
        except OSError:
            return


@pytest.mark.usefixtures("store")
def test_a_port_that_is_taken_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call("serve", "--port", str(port))

    assert done.code == 1
    assert done.err == (
        f"milepost: can't listen on 127.0.0.1 port {port}: Address already in use "
        "(--port 0 chooses a free port)\n"
    )


@pytest.mark.usefixtures("folder")
def test_an_open_address_without_a_token_is_refused() -> None:
    done = call("serve", "--host", "0.0.0.0", "--port", "0")

    assert done.code == 2
    assert "without a token" in done.err


def test_a_misspelt_setting_keeps_the_server_down(folder: Path) -> None:
    (folder / "config.toml").write_text("[api]\nprot = 80\n")

    for verb in ("serve", "worker"):
        done = call(verb)
        assert done.code == 1
        assert "did you mean api.port?" in done.err


@pytest.mark.slow
def test_the_server_runs_the_worker_unless_it_is_told_not_to(folder: Path) -> None:
    (folder / "config.toml").write_text('[worker]\ncleanup = "every 1h"\n')
    save = {"job_id": "j", "step_name": "s", "state": {}}
    for enabled in ("true", "false"):
        with staying("serve", "--port=0", MILEPOST_WORKER_ENABLED=enabled) as server:
            port = int(server.wait_for(SERVING)[2])
            assert ask(port, "POST", "/api/checkpoints", save)[0] == 201
            _, answer = ask(port, "GET", "/readyz")

            assert (answer["worker"] is not None) == (enabled == "true")
            assert server.stop(signal.SIGTERM) == 0


def test_a_resumed_job_is_the_command_of_the_settings(
    store: Path, folder: Path
) -> None:
    fifo = folder / "told"
    (folder / "config.toml").write_text(
        f'[executor]\ncommand = ["sh", "-c", "echo $0 > {fifo}", "{{job_id}}"]\n'
    )
    os.mkfifo(fifo)
    with staying("serve", "--port", "0") as server:
        port = int(server.wait_for(SERVING)[2])
        path = f"/api/checkpoints/{ids_of(store)[0]}/restore"

        _, answer = ask(port, "POST", path, {"resume": True})

        assert answer["job_status"] == "resumed"
        assert fifo.read_text() == f"{JOB}\n"


@pytest.mark.slow
@pytest.mark.parametrize("is_forced", [False, True])
def test_a_server_that_stops_ends_the_jobs_it_started(
    store: Path, folder: Path, *, is_forced: bool
) -> None:
    fifo = folder / "told"
    os.mkfifo(fifo)
    (folder / "config.toml").write_text(
        f'[executor]\ncommand = ["sh", "-c", "echo $$ > {fifo}; exec sleep 600"]\n'
    )
    with staying("serve", "--port", "0") as server:
        port = int(server.wait_for(SERVING)[2])
        path = f"/api/checkpoints/{ids_of(store)[0]}/restore"
        ask(port, "POST", path, {"resume": True})
        job = int(fifo.read_text())
        with half_a_request(port, b"{}") if is_forced else nullcontext():
            server.child.send_signal(signal.SIGTERM)
            wait_until_refused(port)
            if is_forced:
                server.child.send_signal(signal.SIGTERM)
            assert server.wait() == 0

        with pytest.raises(ProcessLookupError):
            os.kill(job, signal.SIGKILL)


# -- worker --once ---------------------------------------------------------------------


def test_one_pass_removes_by_policy_and_reports_what(store: Path, folder: Path) -> None:
    (folder / "config.toml").write_text(RULE)

    first = call("worker", "--once")
    again = call("worker", "--once", "--json")

    assert [row[:2] for row in first.rows][:2] == [
        ["cleanup", "ok"],
        ["compact", "ok"],
    ]
    assert first.rows[0][3] == "2 removed, 1 job"
    assert again.json["data"]["runs"][0]["counts"]["removed"] == 0
    assert len(ids_of(store)) == 1


def test_a_pass_that_left_a_damaged_job_out_is_partly_done(
    store: Path, folder: Path
) -> None:
    (folder / "config.toml").write_text(RULE)
    call("fork", JOB, "other")
    call("save", "other", "--step", "s", stdin="{}")
    journal = store / "journals" / f"{JOB}.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"load", b"loaD"))

    done = run("worker", "--once")

    assert done.code == 3  # I10
    assert [row[1] for row in done.rows] == ["partly"] * 4
    assert done.rows[0][3].startswith("1 removed, 2 jobs; 0 failed, 1 damaged")
    assert "1 damaged" in done.err
