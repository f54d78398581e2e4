"""What the tests of the API share: a client without a socket, and a real server."""

from __future__ import annotations

import http.client
import socket
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import uvicorn

from milepost import CheckpointManager
from tests.support.clock import NOW

with warnings.catch_warnings():
    # Starlette prefers a successor of httpx that is not among our dependencies.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

AT = NOW.isoformat()


class Executor:
    """A user's own executor, with no more than the one method that is asked for."""

    def __init__(self, manager: CheckpointManager) -> None:
        self.resumed: list[tuple[str, str]] = []
        self._manager = manager

    def resume_job(self, job_id: str) -> Any:  # a subclass may be asynchronous
        current = self._manager.current(job_id)
        assert current is not None
        self.resumed.append((job_id, current.checkpoint_id))


class Slow(Executor):
    """An executor whose start takes as long as the test wants."""

    def __init__(self, manager: CheckpointManager) -> None:
        super().__init__(manager)
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def resume_job(self, job_id: str) -> Any:
        super().resume_job(job_id)
        self.has_begun.set()
        assert self.may_end.wait(30)


def saved(manager: CheckpointManager, count: int = 1, job_id: str = "etl") -> list[str]:
    """Save a few checkpoints and return their ids, oldest first."""
    return [manager.save(job_id, f"s{i}", {"i": i}) for i in range(count)]


def events_of(manager: CheckpointManager, job_id: str = "etl") -> list[str]:
    """Return the types of all events of a job."""
    return [event["type"] for event in manager.history(job_id)]


class Answer(NamedTuple):
    """What came back over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # whatever the server said
        return orjson.loads(self.body)


def client_of(app: ASGIApp, **headers: str) -> TestClient:
    """Return a client that calls `app` in this process, by a name it answers to."""
    return TestClient(
        app,
        base_url="http://127.0.0.1:8080",
        headers=headers,
        raise_server_exceptions=False,
    )


@contextmanager
def serving(app: ASGIApp) -> Iterator[int]:
    """Run `app` in a real server on a free port of this machine, and give the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    # Head and body are two writes; without this the second waits 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", ws="none", lifespan="on")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        # Connections queue up at the socket until the server takes them.
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def read_answer(connection: socket.socket) -> Answer:
    """Return the next answer on `connection`."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def send_raw(port: int, *pieces: bytes) -> Answer:
    """Send exactly these bytes to the server and return its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return read_answer(connection)


def ask(
    port: int, request_line: str, *, body: bytes = b"", host: str = "", **headers: str
) -> Answer:
    """Send one request with the headers given and no other."""
    lines = [f"{request_line} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return send_raw(port, head + body)
