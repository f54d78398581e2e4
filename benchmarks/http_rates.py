"""Requests per second of the API, beside bare FastAPI routes with the same answers."""

from __future__ import annotations

import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import orjson

from benchmarks import stores
from benchmarks.running import PROJECT, Figure, Subject, Target
from benchmarks.states import states
from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.running import Run

_BARE = "bare FastAPI routes"
_PATIENCE_SECONDS = 60
_MANY = 32
_TICKS = os.sysconf("SC_CLK_TCK")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)\r\n")


class _Server:
    """A server in a process of its own, and a way to ask it."""

    def __init__(self, module: str, *arguments: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._address, descriptor = listening.getsockname(), listening.fileno()
            command = [sys.executable, "-m", f"benchmarks.{module}", str(descriptor)]
            self._process = subprocess.Popen(
                [*command, *(str(path.resolve()) for path in arguments)],
                pass_fds=[descriptor],
                cwd=PROJECT,
            )

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(_PATIENCE_SECONDS)

    def computed_seconds(self) -> float:
        """Return the processor time that its process has used."""
        path = Path(f"/proc/{self._process.pid}/stat")
        fields = path.read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @contextmanager
    def connected(self, clients: int) -> Iterator[list[socket.socket]]:
        """Open connections, which are kept alive."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    socket.create_connection(self._address, _PATIENCE_SECONDS)
                )
                for _ in range(clients)
            ]


class _Question(NamedTuple):
    """A request; each client repeats its own.

    `bound`: for the rate, as a part of that of the bare routes; or None.
    """

    name: str
    clients: int
    requests: Sequence[bytes]
    bound: float | None


class _Turn(NamedTuple):
    """What one server did in one turn."""

    rate: float
    computed_seconds: float


def measure(run: Run) -> Subject:
    """Ask both servers in turns."""
    folder = run.new_folder("http")
    figures: list[Figure] = []
    counts = (10, run.pick(1_000, 100))
    for count in counts:
        root = folder / f"list-{count}"
        stores.fill(root / "store", ({"done": n} for n in range(count)))
        with ExitStack() as stack:
            ours = _Server("api_server", root / "store")
            stack.callback(ours.stop)
            with CheckpointManager(root / "store") as manager:
                newest = manager.list(stores.JOB)[-1].checkpoint_id
            questions = _questions(count, newest)
            _record(ours, root, questions)
            bare = _Server("bare_server", root / "bare", root)
            stack.callback(bare.stop)
            for question in questions:
                figures += _figures(run, question, ours, bare)
    return Subject(
        "HTTP",
        "Requests over loopback to one server process; the client, which takes part of "
        "the processors, keeps its connections alive.  The bare server has FastAPI's "
        "`def` routes without anything behind them: the same bytes each time, and for "
        "a save one append and sync of the state.  Both are served by uvicorn alike.",
        tuple(figures),
    )


def _questions(count: int, newest: str) -> list[_Question]:
    path = "/api/checkpoints"
    listing = _request("GET", f"{path}?job_id={stores.JOB}")
    if count > 10:
        return [_Question(f"GET list of {count:,}", 1, [listing], None)]
    saves = [
        _request(
            "POST",
            path,
            {"job_id": f"job-{number}", "step_name": stores.STEP, "state": state},
        )
        for number, state in enumerate(states(1024, count=_MANY))
    ]
    return [
        _Question("GET list of 10", 1, [listing], 0.6),
        _Question("GET one", 1, [_request("GET", f"{path}/{newest}")], 0.6),
        _Question("POST save of 1 KB", 1, saves[:1], None),
        _Question(f"POST save of 1 KB, {_MANY} clients", _MANY, saves, 0.6),
    ]


def _request(method: str, path: str, body: object = None) -> bytes:
    content = b"" if body is None else orjson.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}\r\n".encode() + content


def _record(server: _Server, root: Path, questions: list[_Question]) -> None:
    """Keep one answer of each kind, for the bare server."""
    for name in ("list", "one", "saved"):
        (root / name).write_bytes(b"{}")
    for question, name in zip(questions, ("list", "one", "saved"), strict=False):
        with server.connected(1) as (connection,):
            connection.sendall(question.requests[0])
            (root / name).write_bytes(_answer(connection, b""))


def _answer(connection: socket.socket, got: bytes) -> bytes:
    """Return the body of an answer, of which `got` has arrived."""
    while (missing := _missing(got)) != 0:
        part = connection.recv(1 << 20)
        assert part, (missing, got)
        got += part
    assert got.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")), got[:300]
    return got.partition(b"\r\n\r\n")[2]


def _missing(got: bytes) -> int | None:
    """Return how many bytes of an answer are missing; None if that is not known."""
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(got, 0, end + 2)
    assert length is not None, got[:300]
    return end + 4 + int(length[1]) - len(got)


def _figures(
    run: Run, question: _Question, ours: _Server, bare: _Server
) -> Iterator[Figure]:
    seconds = run.pick(8, 2) / 10
    turns: dict[str, list[_Turn]] = {"ours": [], "bare": []}
    for _ in range(run.pick(5, 2)):
        turns["ours"].append(_turn(ours, question, seconds))
        turns["bare"].append(_turn(bare, question, seconds))
    median = statistics.median
    rates, theirs = ([t.rate for t in found] for found in turns.values())
    spent, least = ([t.computed_seconds for t in found] for found in turns.values())
    bound = question.bound and Target(question.bound, of="ratio", is_floor=True)
    yield Figure(
        question.name,
        median(rates),
        "requests/s",
        peer=_BARE,
        peer_value=median(theirs),
        ratio=median(a / b for a, b in zip(rates, theirs, strict=True)),
        target=bound or None,
        why=f"server time {median(spent) * 1e6:,.0f} µs, {_BARE}"
        f" {median(least) * 1e6:,.0f} µs",
    )
    yield Figure(
        f"{question.name}, server time",
        median(spent) * 1e3,
        "ms",
        peer=_BARE,
        peer_value=median(least) * 1e3,
        ratio=median(a / b for a, b in zip(spent, least, strict=True)),
        target=None if bound or "list" not in question.name else Target(2),
    )


def _turn(server: _Server, question: _Question, seconds: float) -> _Turn:
    """Let every client repeat its request for some time."""
    with (
        server.connected(question.clients) as connections,
        selectors.DefaultSelector() as waiting,
    ):
        for connection, request in zip(connections, question.requests, strict=True):
            connection.sendall(request)
            _answer(connection, b"")  # does not count: it may open a job
        computed, start = server.computed_seconds(), perf_counter()
        for connection, request in zip(connections, question.requests, strict=True):
            waiting.register(connection, selectors.EVENT_READ, request)
            connection.sendall(request)
        answered = 0
        while waiting.get_map():
            for key, _ in waiting.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                _answer(connection, b"")
                answered += 1
                if perf_counter() - start < seconds:
                    connection.sendall(key.data)
                else:
                    waiting.unregister(connection)
        took = perf_counter() - start
        spent = server.computed_seconds() - computed
    return _Turn(answered / took, spent / answered)
