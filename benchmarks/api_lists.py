"""A list through the API: uvicorn in a process of its own, over loopback."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.running import PROJECT, Subject, Target
from benchmarks.timing import race
from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.running import Run

_TITLE = "List through the API"
_NOTE = (
    "One client, one connection kept alive; the answer is read whole.  `/healthz` "
    "is the cost of a request that reads no store."
)
_TARGET = Target(10)
_PATIENCE_SECONDS = 30


def measure(run: Run) -> Subject:
    """Request a list of 1,000 checkpoints, in turns with requests without content."""
    try:
        import milepost.api.http.app  # noqa: F401 - only to skip if it is missing
    except ImportError as exc:
        return Subject(_TITLE, _NOTE, skipped=f"the API cannot be imported: {exc}")
    count = run.pick(1_000, 200)
    folder = stores.checkpoints(run, count)
    path = f"/api/checkpoints?job_id={stores.JOB}"
    with _connection(folder) as connection, CheckpointManager(folder) as manager:
        assert json.loads(_get(connection, path))["total"] == count
        times = race(
            {
                "list": lambda: _get(connection, path),
                "nothing": lambda: _get(connection, "/healthz"),
                "library": lambda: manager.list(stores.JOB),
            },
            rounds=run.pick(60, 5),
            calls=5,
        )
    figures = (
        times["list"].figure(
            f"GET list of {count:,}", "ms", beside=(peer, times[name]), target=_TARGET
        )
        for name, peer in (("nothing", "GET /healthz"), ("library", "manager.list"))
    )
    return Subject(_TITLE, _NOTE, tuple(figures))


@contextmanager
def _connection(folder: Path) -> Iterator[http.client.HTTPConnection]:
    """Start a server on `folder` and connect to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, descriptor = listening.getsockname()[1], listening.fileno()
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.api_server",
                str(descriptor),
                str(folder.resolve()),
            ],
            pass_fds=[descriptor],
            cwd=PROJECT,
        )
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=_PATIENCE_SECONDS
    )
    try:
        yield connection
    finally:
        connection.close()
        server.terminate()
        server.wait(_PATIENCE_SECONDS)


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == http.HTTPStatus.OK, (answer.status, body[:200])
    return body
