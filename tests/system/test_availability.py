"""One client, job, probe or log that hangs never stops the rest.

Each test runs a real server with as many open files as a shell usually allows.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.cli import clean_environ
from tests.support.eventually import DEADLINE_SECONDS, eventually
from tests.support.servers import SERVING, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


# Far beyond the end of any test: what hangs must not end by itself.
FOREVER = "1h"
SAVE = {"job_id": "other", "step_name": "s", "state": {}}


class Running(NamedTuple):
    """A server, and where it listens."""

    server: Server
    port: int

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, _, content = self.ask_whole(method, path, body)
        return status, content

    def ask_whole(
        self, method: str, path: str, body: object = None
    ) -> tuple[int, dict[str, str], Any]:
        client = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=DEADLINE_SECONDS
        )
        headers = {"Content-Type": "application/json"}
        with closing(client):  # also if the server is killed meanwhile
            client.request(
                method, path, None if body is None else json.dumps(body), headers
            )
            answer = client.getresponse()
            raw = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, json.loads(raw) if raw else None

    def connect(self, sent: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS)
        client.sendall(sent)
        return client

    @property
    def open_files(self) -> list[str]:
        """What the server has open; a socket is `socket:[…]`."""
        found = []
        for descriptor in Path(f"/proc/{self.server.child.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed just now
                found.append(str(descriptor.readlink()))
        return found

    @property
    def sockets(self) -> int:
        return sum(name.startswith("socket:") for name in self.open_files)

    def is_well(self) -> None:
        """Assert that health, and reads and writes of other jobs, are as ever."""
        assert self.ask("GET", "/healthz") == (200, {"status": "ok"})
        status, ready = self.ask("GET", "/readyz")
        assert (status, ready["reasons"]) == (200, [])
        assert self.ask("POST", "/api/checkpoints", SAVE)[0] == 201
        assert self.ask("GET", "/api/checkpoints?job_id=other")[0] == 200


@contextmanager
def serving(
    folder: Path,
    *,
    stderr: Any = subprocess.PIPE,
    more: str = "",
    become: Sequence[str] = (),
    milepost: Sequence[str] = ("milepost",),
    **api: object,
) -> Iterator[Running]:
    """Run a server with these settings, and the usual limit of open files."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in api.items()]
    store = ["[store]", f'lock_timeout = "{FOREVER}"']
    text = "\n".join(["[api]", "port = 0", *lines, *store, more])
    (folder / "config.toml").write_text(text)
    child = subprocess.Popen(
        [*become, "sh", "-c", 'ulimit -n 1024; exec "$@" serve', "sh", *milepost],
        stderr=stderr,
        text=True,
        env=clean_environ(),
        cwd=folder,
    )
    with child:
        try:
            server = Server(child)
            if child.stderr is not None:
                yield Running(server, int(server.wait_for(SERVING)[2]))
            else:
                yield Running(server, eventually(lambda: listening_port(child.pid)))
        finally:
            child.kill()


def listening_port(pid: int) -> int:
    """Return the port that a process listens on, 0 if none yet."""
    table = Path(f"/proc/{pid}/net/tcp").read_text()
    rows = [line.split() for line in table.splitlines()]
    ports = {row[9]: int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A"}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
            if found and found[1] in ports:
                return ports[found[1]]
    return 0


@contextmanager
def locked(folder: Path, *job_ids: str) -> Iterator[None]:
    """Hold the locks of jobs, as a writer that was stopped does."""
    with ExitStack() as held:
        for job_id in job_ids:
            path = folder / "checkpoints" / "heads" / job_id
            fcntl.flock(held.enter_context(path.open("r+")), fcntl.LOCK_EX)
        yield


def is_dropped(client: socket.socket) -> bool:
    """Wait until the server has closed a connection."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


WITHOUT_EXTRA = """
import sys
sys.modules["httptools"] = sys.modules["uvloop"] = None
from milepost.api.cli.main import main
main()
"""
# With the extra `fast` and without it, clients meet the same server.
PARSERS = pytest.mark.parametrize(
    "milepost",
    [("milepost",), (sys.executable, "-c", WITHOUT_EXTRA)],
    ids=["fast", "plain"],
)
HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
HALF_A_BODY = (
    b"POST /api/checkpoints HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
)
# Refused before its body is read.
HALF_A_REFUSED_BODY = HALF_A_BODY.replace(b"127.0.0.1", b"evil.example")
AN_ANSWERED_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SENT = pytest.mark.parametrize(
    "sent",
    [b"", HALF_A_HEAD, HALF_A_BODY, HALF_A_REFUSED_BODY, AN_ANSWERED_REQUEST],
    ids=["nothing", "half a head", "half a body", "a refused body", "a whole request"],
)


@pytest.mark.slow
@PARSERS
@SENT
def test_more_clients_that_send_too_little_than_there_are_files_stop_nobody(
    sent: bytes, milepost: Sequence[str], folder: Path
) -> None:
    long = {f"{name}_timeout": FOREVER for name in ("head", "body", "idle", "send")}
    made = serving(folder, milepost=milepost, **long)
    with made as running, ExitStack() as opened:
        clients = []
        for _ in range(1200):
            client = opened.enter_context(running.connect())
            clients.append(client)
            with suppress(ConnectionError):
                client.sendall(sent)

        running.is_well()

        assert len(running.open_files) < 1024 - 200
        assert is_dropped(clients[0])
        assert running.server.stop(signal.SIGTERM) == 0


@pytest.mark.slow
@PARSERS
@SENT
def test_a_client_that_sends_too_little_is_dropped_even_if_bytes_trickle_in(
    sent: bytes, milepost: Sequence[str], folder: Path
) -> None:
    short = dict.fromkeys(("head_timeout", "body_timeout", "idle_timeout"), "300ms")
    made = serving(folder, milepost=milepost, **short)
    with made as running, running.connect(sent) as client:
        is_over = threading.Event()

        def trickle() -> None:
            with suppress(OSError):
                while sent and not is_over.wait(0.02):
                    client.sendall(b"a")

        thread = threading.Thread(target=trickle)
        thread.start()
        assert is_dropped(client)
        is_over.set()
        thread.join()
        running.is_well()


@pytest.mark.slow
@PARSERS
def test_a_client_that_takes_no_answer_is_dropped(
    milepost: Sequence[str], folder: Path
) -> None:
    made = serving(folder, milepost=milepost, max_body="12MiB", send_timeout="300ms")
    with made as running:
        before = running.sockets
        large = {**SAVE, "job_id": "large", "state": {"x": "x" * 10_000_000}}
        _, saved = running.ask("POST", "/api/checkpoints", large)
        path = f"/api/checkpoints/{saved['checkpoint_id']}"
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        with running.connect(request) as client:
            assert client.recv(1)  # the answer has begun

            eventually(lambda: running.sockets == before)

            running.is_well()


CHUNKED = HALF_A_BODY.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked")
ENDLESS = {
    "a header": (HALF_A_HEAD, b"x" * 65536),
    "headers": (AN_ANSWERED_REQUEST[:-2], b"X-Y: z\r\n" * 9000),
    "a target": (b"GET /", b"x" * 65536),
    "trailers": (CHUNKED[:-1] + b"2\r\n{}\r\n0\r\n", b"X-Y: z\r\n" * 9000),
    "a trailer": (CHUNKED[:-1] + b"2\r\n{}\r\n0\r\nX: ", b"x" * 65536),
}


@PARSERS
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_head_without_an_end_is_not_kept(
    kind: str, milepost: Sequence[str], folder: Path
) -> None:
    begin, more = ENDLESS[kind]
    with (
        serving(folder, milepost=milepost) as running,
        running.connect(begin) as client,
        suppress(ConnectionError),
    ):
        for _ in range(200):  # 13 MB
            client.sendall(more)
        raise AssertionError("the server reads on")


@PARSERS
def test_requests_of_every_kind_have_the_same_answers(
    milepost: Sequence[str], folder: Path
) -> None:
    def answer(sent: bytes) -> tuple[bytes, bytes]:
        once = sent.replace(b"Content-Type", b"Connection: close\r\nContent-Type")
        with running.connect(once) as client:
            raw = b"".join(iter(partial(client.recv, 65536), b""))
        head, _, body = raw.partition(b"\r\n\r\n")
        return head.partition(b"\r\n")[0], body

    whole = b'{"job_id":"other","step_name":"s","state":{}}'
    chunks = b"".join(b"1\r\n%b\r\n" % bytes([byte]) for byte in whole)
    with serving(folder, milepost=milepost) as running:
        assert answer(AN_ANSWERED_REQUEST.replace(b"1.1", b"1.0")) == (
            b"HTTP/1.1 200 OK",
            b'{"status":"ok"}',
        )
        status, body = answer(CHUNKED[:-1] + chunks + b"0\r\n\r\n")
        assert status == b"HTTP/1.1 201 Created"
        assert b'"job_id":"other"' in body
        status, body = answer(HALF_A_REFUSED_BODY)
        assert status == b"HTTP/1.1 400 Bad Request"
        assert b"bad_host" in body
        for broken in (b"\0\r\n\r\n", HALF_A_BODY.replace(b"100000", b"-1")):
            assert answer(broken) == (
                b"HTTP/1.1 400 Bad Request",
                b"Invalid HTTP request received.",
            )


@PARSERS
def test_a_request_that_asks_for_another_protocol_is_answered_or_refused(
    milepost: Sequence[str], folder: Path
) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    body = json.dumps(SAVE).encode()
    post = HALF_A_BODY[:-3].replace(b"100000", b"%d" % len(body))
    with serving(folder, milepost=milepost) as running:
        with running.connect(AN_ANSWERED_REQUEST[:-2] + upgrade) as client:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        with running.connect(post + upgrade + body) as client:
            status = client.recv(65536)[:13]
        _, listed = running.ask("GET", "/api/checkpoints?job_id=other")
        # Never as if it had no body, which is legal for other requests.
        assert (status, listed["total"]) in [
            (b"HTTP/1.1 201 ", 1),
            (b"HTTP/1.1 400 ", 0),
        ]


@PARSERS
def test_forty_clients_that_read_one_job_are_all_answered(
    milepost: Sequence[str], folder: Path
) -> None:
    with serving(folder, milepost=milepost) as running:
        assert running.ask("POST", "/api/checkpoints", SAVE)[0] == 201
        clients = [
            http.client.HTTPConnection("127.0.0.1", running.port, DEADLINE_SECONDS)
            for _ in range(40)
        ]
        for _ in range(5):
            for client in clients:
                client.request("GET", "/api/checkpoints?job_id=other")
            for client in clients:
                answer = client.getresponse()
                assert (answer.status, json.loads(answer.read())["total"]) == (200, 1)
        for client in clients:
            client.close()


WRITES = [
    ("POST", "/api/checkpoints", {**SAVE, "job_id": "stuck0"}),
    ("POST", "/api/checkpoints/{id}/restore", {}),
    ("POST", "/api/checkpoints/{id}/pin", {}),
    ("DELETE", "/api/checkpoints/{id}", None),
    ("POST", "/api/checkpoints/cleanup", {"job_id": "stuck0"}),
    ("POST", "/api/jobs/complete", {"job_id": "stuck0"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "body"), WRITES, ids=[f"{m} {p}" for m, p, _ in WRITES]
)
def test_a_job_whose_lock_is_held_stops_no_other(
    method: str, path: str, body: Any, folder: Path
) -> None:
    with serving(folder) as running:
        save = {**SAVE, "job_id": "stuck0"}
        _, saved = running.ask("POST", "/api/checkpoints", save)
        path = path.format(id=saved["checkpoint_id"])
        with ThreadPoolExecutor(150) as pool:
            with locked(folder, "stuck0"):
                asked = [
                    pool.submit(running.ask_whole, method, path, body)
                    for _ in range(150)
                ]
                refused = next(as_completed(asked)).result()
                running.is_well()
                # Who only reads a job waits for no lock.
                status, found = running.ask("GET", "/api/checkpoints?job_id=stuck0")
                assert (status, found["total"]) == (200, 1)
                assert running.ask("GET", f"/api/checkpoints/{saved['checkpoint_id']}")
                assert not all(each.done() for each in asked)
            answers = [each.result() for each in asked]
        assert (refused[0], refused[2]["code"]) == (503, "busy")
        assert refused[1]["retry-after"] == "1"
        assert {status for status, _, _ in answers} > {503}


@pytest.mark.slow
def test_many_jobs_whose_locks_are_held_stop_no_other(folder: Path) -> None:
    jobs = [f"stuck{number}" for number in range(25)]
    with serving(folder) as running:
        saves = [{**SAVE, "job_id": job_id} for job_id in jobs]
        for save in saves:
            assert running.ask("POST", "/api/checkpoints", save)[0] == 201
        with ThreadPoolExecutor(250) as pool, locked(folder, *jobs):
            for save in saves * 10:
                pool.submit(running.ask, "POST", "/api/checkpoints", save)
            running.is_well()
            running.server.child.kill()


def test_fifty_probes_at_once_are_all_told_the_truth(folder: Path) -> None:
    with serving(folder) as running, ThreadPoolExecutor(50) as pool:
        running.is_well()
        for path in ("/readyz", "/healthz"):
            asked = [pool.submit(running.ask, "GET", path) for _ in range(200)]
            assert {each.result()[0] for each in asked} == {200}
            if path == "/readyz":
                assert all(each.result()[1]["jobs"] == 1 for each in asked)


@pytest.mark.slow
def test_a_flood_of_bad_requests_leaves_a_count_in_the_log(folder: Path) -> None:
    with serving(folder) as running:
        for _ in range(500):
            with running.connect(b"no request\r\n\r\n") as client:
                assert is_dropped(client)
        assert running.server.stop(signal.SIGTERM) == 0
    said = [line for line in running.server.said.splitlines() if "Invalid HTTP" in line]
    counts = [re.search(r"(\d+) more lines? like this one", line) for line in said]
    told = sum(int(found[1]) if found else 1 for found in counts)
    assert told == 500
    assert len(said) < 200


@pytest.mark.slow
def test_a_log_that_takes_nothing_stops_no_request(folder: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)
    with serving(folder, stderr=writing) as running:
        for _ in range(300):
            with running.connect(b"no request\r\n\r\n") as client:
                assert is_dropped(client)
        running.is_well()
        assert running.server.stop(signal.SIGTERM) == 0
    os.close(reading)
    os.close(writing)


@pytest.mark.slow
def test_a_log_on_a_full_disk_stops_no_request(folder: Path) -> None:
    with Path("/dev/full").open("w") as full, serving(folder, stderr=full) as running:
        with running.connect(b"no request\r\n\r\n") as client:
            assert is_dropped(client)
        running.is_well()
        assert running.server.stop(signal.SIGTERM) == 0


# -- SIGTERM ends it, whatever hangs ---------------------------------------------------

STUBBORN = """\
[executor]
command = ["sh", "-c", "trap : TERM; echo > told; while :; do sleep 60; done"]
"""
HANGING = "[executor]\npython = 'hanging:executor'"


def half_open(running: Running, _: Path, held: ExitStack) -> None:
    for sent in (b"", HALF_A_HEAD, HALF_A_BODY, HALF_A_REFUSED_BODY) * 20:
        held.enter_context(running.connect(sent))


def unread(running: Running, _: Path, held: ExitStack) -> None:
    large = {**SAVE, "state": {"x": "x" * 900_000}}
    _, saved = running.ask("POST", "/api/checkpoints", large)
    path = f"/api/checkpoints/{saved['checkpoint_id']}"
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    held.enter_context(running.connect(request * 50)).recv(1)


def stuck(running: Running, folder: Path, held: ExitStack) -> None:
    for number in range(4):
        save = {**SAVE, "job_id": f"stuck{number}"}
        assert running.ask("POST", "/api/checkpoints", save)[0] == 201
    held.enter_context(locked(folder, *(f"stuck{number}" for number in range(4))))
    request = json.dumps(save).encode()
    head = HALF_A_BODY.replace(b"100000", b"%d" % len(request))[:-1]
    waiting = [held.enter_context(running.connect(head + request)) for _ in range(60)]
    assert waiting[-1].recv(65536).startswith(b"HTTP/1.1 503")


def resuming(running: Running, folder: Path, held: ExitStack) -> None:
    os.mkfifo(folder / "told")
    _, saved = running.ask("POST", "/api/checkpoints", SAVE)
    body = b'{"resume": true}'
    head = (
        f"POST /api/checkpoints/{saved['checkpoint_id']}/restore HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    held.enter_context(running.connect(head.encode() + body))
    (folder / "told").read_bytes()


@pytest.mark.parametrize(
    ("hangs", "more"),
    [
        pytest.param(
            half_open, "", id="clients that send too little", marks=pytest.mark.slow
        ),
        pytest.param(
            unread, "", id="a client that takes nothing", marks=pytest.mark.slow
        ),
        pytest.param(stuck, "", id="locks that are held", marks=pytest.mark.slow),
        pytest.param(
            resuming, STUBBORN, id="a job that ignores SIGTERM", marks=pytest.mark.slow
        ),
        pytest.param(
            resuming, HANGING, id="an executor that hangs", marks=pytest.mark.slow
        ),
    ],
)
def test_sigterm_ends_the_server_whatever_hangs(
    hangs: Callable[[Running, Path, ExitStack], None], more: str, folder: Path
) -> None:
    (folder / "hanging.py").write_text(
        "import time\nclass Executor:\n def resume_job(self, job_id):\n"
        "  open('told', 'w').close()\n  time.sleep(3600)\nexecutor = Executor()\n"
    )
    with serving(folder, more=more) as running, ExitStack() as held:
        hangs(running, folder, held)
        # The promise is 10 s; on a busy machine a test can't tell them from 20.
        assert running.server.stop(signal.SIGTERM) == 0


# -- what jobs leave behind ------------------------------------------------------------

LEAVING = """\
[executor]
command = ["sh", "-c", "sh -c 'echo $$ >orphan; read a <go' & read a <end; exit 7"]
"""


# A program that asks for orphans, as process 1 of a container has them anyway, and then
# becomes another.
INHERITING = """\
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""
INHERITS = (sys.executable, "-c", INHERITING)


@pytest.mark.slow
def test_an_orphan_of_a_job_is_reaped_and_the_job_keeps_its_status(
    folder: Path,
) -> None:
    for name in ("orphan", "go", "end"):
        os.mkfifo(folder / name)
    with serving(folder, more=LEAVING, become=INHERITS) as running:
        _, saved = running.ask("POST", "/api/checkpoints", SAVE)
        path = f"/api/checkpoints/{saved['checkpoint_id']}/restore"
        assert running.ask("POST", path, {"resume": True})[0] == 200
        orphan = Path("/proc", (folder / "orphan").read_text().strip())
        (folder / "end").write_text("\n")
        assert running.server.wait_for(r"process \d+ ended, 7$")
        assert orphan.exists()

        (folder / "go").write_text("\n")

        eventually(lambda: not orphan.exists())
        running.is_well()
        assert running.server.stop(signal.SIGTERM) == 0


def test_ctrl_c_ends_a_server_that_inherits_orphans_once(folder: Path) -> None:
    with serving(folder, become=INHERITS) as running:
        assert running.server.stop(signal.SIGINT) == 130
        assert running.server.said.endswith("stopped by Ctrl-C\n")
