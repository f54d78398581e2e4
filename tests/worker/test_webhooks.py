"""Webhooks: real stores and workers, real receivers on loopback, a turned clock."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from milepost import CheckpointManager
from milepost.journal.errors import Conflict
from milepost.journal.ids import file_name
from milepost.journal.storage.memory import MemoryStorage
from milepost.journal.storage.records import MAX_VALUE_BYTES
from milepost.worker.config.settings import load
from milepost.worker.service import Worker
from milepost.worker.webhooks.courier import MAX_DATA_BYTES, body_of, pause_seconds
from milepost.worker.webhooks.outbox import (
    MAX_JOBS,
    MAX_RECENT,
    Delivery,
    Outbox,
    Sent,
    Waiting,
    deliveries,
    names,
    store_names,
)
from milepost.worker.webhooks.sender import Outcome
from tests.support.clock import NOW, Clock
from tests.support.eventually import eventually
from tests.support.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler

HERE = Path(__file__).parents[2]
KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
ENVIRON = {"HOOK_SECRET": SECRET}
HOOK = """
[[webhooks]]
name = "{name}"
url = "{url}"
events = ["checkpoint.saved", "job.*"]
secret_env = "HOOK_SECRET"
allow_private = true
{more}
"""


class Home:
    """A store, the workers on it, and receivers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "checkpoints"
        self.config = folder / "config.toml"
        self.clock = Clock()
        self.manager = CheckpointManager(self.root, clock=self.clock, actor="me")
        self.workers: list[Worker] = []
        self.receivers: list[Receiver] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.manager.save("old", "before", {})

    def receiver(self, port: int = 0) -> Receiver:
        made = Receiver(port)
        self.receivers.append(made)
        return made

    def write(self, *hooks: str) -> None:
        aside = self.folder / "config.toml.swp"
        head = (
            "[store]\nroot = 'checkpoints'\n[worker]\nsweep='50ms'\ndebounce='10ms'\n"
        )
        aside.write_text(head + "".join(hooks))
        aside.rename(self.config)

    def start(self, *hooks: str) -> Worker:
        """Start a worker with these webhooks; return once they have begun."""
        self.write(*hooks)
        settings = load(self.config, environ=ENVIRON)
        worker = Worker(
            self.manager, settings, clock=self.clock, steady=self.clock.steady
        )
        self.workers.append(worker)
        worker.start()
        eventually(lambda: self.names() == [each.name for each in settings.webhooks])
        return worker

    def names(self) -> list[str]:
        return names(self.manager.storage)

    def child(self) -> subprocess.Popen[bytes]:
        made = subprocess.Popen(
            [sys.executable, "-m", "milepost", "worker", f"--config={self.config}"],
            cwd=self.folder,
            env={**os.environ, **ENVIRON, "PYTHONPATH": str(HERE)},
            stderr=subprocess.DEVNULL,
        )
        self.children.append(made)
        return made

    def deliveries(self, name: str | None = None) -> list[Delivery]:
        return deliveries(self.manager.storage, name)

    def outcomes(self, name: str = "hook") -> list[str]:
        return [each.outcome for each in reversed(self.deliveries(name))]

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        for worker in self.workers:
            worker.stop()
        for receiver in self.receivers:
            receiver.close()
        self.manager.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    made = Home(tmp_path)
    yield made
    made.close()


def hook(url: str, more: str = "", name: str = "hook") -> str:
    return HOOK.format(name=name, url=url, more=more)


# -- what is sent ----------------------------------------------------------------------


def test_an_event_is_posted_with_a_signature_over_its_id_its_time_and_its_body(
    home: Home,
) -> None:
    receiver = home.receiver()
    home.start(hook(receiver.url))
    checkpoint_id = home.manager.save("etl", "load", {"secret": "state"}, tags=["t"])
    eventually(lambda: len(receiver.received) == 2)
    opened, saved = receiver.received
    assert opened.json["type"] == "job.opened"
    event = home.manager.history("etl")[1]
    assert saved.json == {
        "id": saved.id,
        "type": "checkpoint.saved",
        "job_id": "etl",
        "seq": 2,
        "at": event["at"],
        "actor": "me",
        "data": event["data"],
    }
    assert saved.json["data"]["checkpoint_id"] == checkpoint_id
    assert b'state"}' not in saved.body
    stamp = saved.headers["webhook-timestamp"]
    assert int(stamp) == int(NOW.timestamp())
    signed = f"{saved.id}.{stamp}.".encode() + saved.body
    digest = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest())
    assert saved.headers["webhook-signature"] == f"v1,{digest.decode()}"
    assert saved.headers["content-type"] == "application/json"
    assert opened.id != saved.id


def test_a_new_webhook_begins_with_the_next_event_and_a_known_one_goes_on(
    home: Home,
) -> None:
    receiver = home.receiver()
    first = home.start(hook(receiver.url))
    home.manager.save("old", "after", {})
    eventually(lambda: home.outcomes() == ["delivered"])
    first.stop()
    home.manager.save("old", "while no worker ran", {})
    home.start(hook(receiver.url), hook(receiver.url, name="second"))
    home.manager.save("old", "both", {})
    eventually(lambda: len(receiver.received) == 4)
    seqs = [each.json["seq"] for each in receiver.received]
    assert sorted(seqs) == [3, 4, 5, 5]


def test_a_webhook_that_was_removed_and_is_configured_again_is_a_new_one(
    home: Home,
) -> None:
    receiver = home.receiver()
    home.start(hook(receiver.url))
    home.write()
    eventually(lambda: home.names() == [])
    home.manager.save("old", "not for it", {})
    home.write(hook(receiver.url))
    eventually(lambda: home.names() == ["hook"])
    home.manager.save("old", "for it", {})
    eventually(lambda: receiver.received)
    assert receiver.received[0].json["seq"] == 4


def test_only_the_configured_events_of_the_configured_jobs_are_sent(
    home: Home,
) -> None:
    receiver = home.receiver()
    home.start(hook(receiver.url, 'jobs = "etl-*"'))
    home.manager.save("other", "s", {})
    saved = home.manager.save("etl-1", "s", {})
    home.manager.pin("etl-1", saved)
    home.manager.complete("etl-1")
    eventually(lambda: len(receiver.received) == 3)
    types = [each.json["type"] for each in receiver.received]
    assert types == ["job.opened", "checkpoint.saved", "job.completed"]


def test_large_data_is_left_out_of_the_body(home: Home) -> None:
    home.manager.save("old", "s", {})
    event: Any = home.manager.history("old")[-1]
    sent = Sent("id", event["type"], "old", 3)
    assert "data_omitted" not in orjson.loads(body_of(sent, event))
    event["data"]["removed"] = {"x" * MAX_DATA_BYTES: "old"}
    body = orjson.loads(body_of(sent, event))
    assert (body["data"], body["data_omitted"]) == ({}, True)
    assert body["type"] == "checkpoint.saved"


# -- retries ---------------------------------------------------------------------------


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize("status", [400, 410, 500, 503])
def test_a_refused_event_is_sent_again_with_the_same_id(
    home: Home, status: int
) -> None:
    receiver = home.receiver()
    receiver.answers = [status, status]
    home.start(hook(receiver.url))
    home.manager.save("old", "s", {})
    eventually(lambda: home.outcomes() == ["retrying"])
    (tried,) = home.deliveries()
    assert (tried.attempts, tried.status) == (1, status)
    home.clock.turn(hours=1)
    eventually(lambda: home.deliveries()[0].attempts == 2)
    home.clock.turn(hours=1)
    eventually(lambda: home.outcomes() == ["delivered"])
    (done,) = home.deliveries()
    assert (done.attempts, done.status, done.error) == (3, 204, None)
    assert (done.type, done.job_id, done.seq) == ("checkpoint.saved", "old", 3)
    assert [each.id for each in receiver.received] == [done.id] * 3
    assert len({each.headers["webhook-timestamp"] for each in receiver.received}) == 3


def test_a_refused_connection_is_tried_again(home: Home) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.start(hook(f"http://127.0.0.1:{port}/"))
    home.manager.save("old", "s", {})
    eventually(lambda: home.outcomes() == ["retrying"])
    assert "refused" in str(home.deliveries()[0].error)
    receiver = home.receiver(port)
    home.clock.turn(hours=1)
    eventually(lambda: home.outcomes() == ["delivered"])
    assert len(receiver.received) == 1


def test_after_the_last_attempt_an_event_is_recorded_as_failed_and_the_next_is_sent(
    home: Home,
) -> None:
    receiver = home.receiver()
    receiver.answers = [500, 204, 204, 500]
    home.start(hook(receiver.url, "max_attempts = 2"))
    home.manager.save("old", "bad", {})
    eventually(lambda: home.outcomes() == ["retrying"])
    home.manager.save("old", "good", {})
    home.manager.save("another", "good", {})  # which does not wait for the job `old`
    eventually(lambda: sorted(home.outcomes()) == ["delivered"] * 2 + ["retrying"])
    home.clock.turn(hours=1)
    eventually(lambda: home.outcomes().count("delivered") == 3)
    (failed,) = [each for each in home.deliveries() if each.outcome == "failed"]
    assert (failed.seq, failed.attempts, failed.status) == (3, 2, 500)
    seqs = [r.json["seq"] for r in receiver.received if r.json["job_id"] == "old"]
    assert seqs == [3, 3, 4]


def test_pauses_double_with_jitter_up_to_an_hour() -> None:
    for attempts in range(1, 50):
        longest = min(5 * 2 ** (attempts - 1), 3600)
        pauses = {pause_seconds(attempts) for _ in range(20)}
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(pauses) > 1


def test_a_redirect_is_not_followed(home: Home) -> None:
    receiver, elsewhere = home.receiver(), home.receiver()

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", elsewhere.url)
        handler.end_headers()

    receiver.answers = [redirect]
    home.start(hook(receiver.url, "max_attempts = 1"))
    home.manager.save("old", "s", {})
    eventually(lambda: home.outcomes() == ["failed"])
    (failed,) = home.deliveries()
    assert (failed.status, failed.error) == (307, "redirects are not followed")
    assert elsewhere.received == []


def endless(head: bytes, piece: bytes) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while True:  # until the sender closes the connection
            handler.wfile.write(piece)
            handler.wfile.flush()

    return answer


def silent(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)  # until the sender closes the connection


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(
    ("answer", "result", "error"),
    [
        (silent, "failed", "no complete answer within 0.3 s"),
        (endless(b"", b"HTTP/1.1 100 Go\r\n\r\n"), "failed", "within 0.3 s"),
        (endless(OK, b"a: b\r\n"), "failed", "no HTTP: HTTPException"),
        (endless(b"", b"x"), "failed", "no HTTP: LineTooLong"),
        (endless(b"SSH-2.0\r\n", b""), "failed", "no HTTP: BadStatusLine"),
        (endless(OK + b"\r\n", b"body"), "delivered", "None"),
        (endless(OK + b"Content-Length: 9999999\r\n\r\n", b"x"), "delivered", "None"),
    ],
    ids=["silent", "1xx", "headers", "line", "ssh", "body", "long body"],
)
def test_a_slow_or_endless_answer_ends_by_time_or_size(
    home: Home, answer: Any, result: str, error: str
) -> None:
    receiver = home.receiver()
    receiver.answers = [answer]
    more = "max_attempts = 1\ntimeout = '300ms'"
    home.start(hook(receiver.url, more if "0.3" in error else "max_attempts = 1"))
    home.manager.save("old", "s", {})
    eventually(lambda: home.outcomes() == [result])
    assert error in str(home.deliveries()[0].error)


def test_a_dead_receiver_delays_no_other(home: Home) -> None:
    dead, good = home.receiver(), home.receiver()
    dead.answers = [silent]
    home.start(hook(dead.url, name="dead"), hook(good.url, name="good"))
    home.manager.save("old", "s", {})
    eventually(lambda: dead.received)
    for n in range(3):
        home.manager.save("old", f"s{n}", {})
    eventually(lambda: home.outcomes("good") == ["delivered"] * 4)
    assert home.outcomes("dead") == []


# -- crashes and stops -----------------------------------------------------------------


@pytest.mark.slow
def test_a_delivery_that_was_due_survives_a_kill_of_the_worker(home: Home) -> None:
    receiver = home.receiver()
    receiver.answers = [silent]
    home.write(hook(receiver.url, "timeout = '1min'"))
    child = home.child()
    eventually(lambda: home.names() == ["hook"])
    home.manager.save("old", "s", {})
    home.manager.save("old", "t", {})
    eventually(lambda: receiver.received)
    child.kill()
    child.wait()
    assert home.outcomes() == []
    home.child()
    eventually(lambda: home.outcomes() == ["delivered"] * 2)
    assert [each.json["seq"] for each in receiver.received] == [3, 3, 4]
    assert receiver.received[0].id == receiver.received[1].id


def test_a_worker_that_stops_ends_a_request_and_the_next_worker_repeats_it(
    home: Home,
) -> None:
    receiver = home.receiver()
    receiver.answers = [silent]
    worker = home.start(hook(receiver.url, "timeout = '1min'"))
    home.manager.save("old", "s", {})
    eventually(lambda: receiver.received)
    worker.stop()
    assert not [t for t in threading.enumerate() if "webhook" in t.name]
    assert home.outcomes() == []
    home.start(hook(receiver.url))
    eventually(lambda: home.outcomes() == ["delivered"])
    assert home.deliveries()[0].attempts == 1


def test_events_that_were_queued_and_not_searched_durably_are_sent_again(
    home: Home,
) -> None:
    receiver = home.receiver()
    worker = home.start(hook(receiver.url))
    records = [
        home.manager.storage.record(f"webhook-positions-{digit:x}")
        for digit in range(16)
    ]
    before = [record.get() for record in records]
    home.manager.save("old", "s", {})
    eventually(lambda: home.outcomes() == ["delivered"])
    worker.stop()
    # As after a crash between the two records.
    for record, stored in zip(records, before, strict=True):
        now = record.get()
        assert stored is not None
        assert now is not None
        record.compare_and_set(now.version, stored.value)
    home.start(hook(receiver.url))
    eventually(lambda: len(receiver.received) == 2)
    assert receiver.received[0].id == receiver.received[1].id
    assert home.outcomes() == ["delivered"]


def test_webhooks_whose_positions_are_lost_begin_with_the_next_event(
    home: Home,
) -> None:
    receiver = home.receiver()
    worker = home.start(hook(receiver.url))
    worker.stop()
    for digit in range(16):
        record = home.manager.storage.record(f"webhook-positions-{digit:x}")
        stored = record.get()
        assert stored is not None
        record.compare_and_set(stored.version, b"damaged")
    home.manager.save("old", "not sent", {})
    worker = home.start(hook(receiver.url))
    eventually(
        lambda: all(
            home.manager.storage.record(f"webhook-positions-{n:x}").get().value  # type: ignore[union-attr]
            != b"damaged"
            for n in range(16)
        )
    )
    home.manager.save("old", "sent", {})
    eventually(lambda: receiver.received)
    assert receiver.received[0].json["seq"] == 4


def test_a_damaged_job_stops_no_other_and_is_sent_after_its_repair(
    home: Home,
) -> None:
    receiver = home.receiver()
    home.manager.save("bad", "s", {})
    journal = home.root / "journals" / f"{file_name('bad')}.jsonl"
    sound = journal.read_bytes()
    home.start(hook(receiver.url))
    journal.write_bytes(sound.replace(b'"step_name":"s"', b'"step_name":"S"'))
    home.manager.save("old", "s", {})
    eventually(lambda: receiver.received)
    journal.write_bytes(sound)
    home.manager.save("bad", "t", {})
    eventually(lambda: len(receiver.received) == 2)
    assert receiver.received[1].json["job_id"] == "bad"
    assert receiver.received[1].json["seq"] == 3


def test_an_edit_of_the_config_file_moves_what_is_due_to_the_new_address(
    home: Home,
) -> None:
    old, new = home.receiver(), home.receiver()
    old.answers = [500]
    home.start(hook(old.url))
    home.manager.save("old", "s", {})
    eventually(lambda: home.outcomes() == ["retrying"])
    home.write(hook(new.url))
    eventually(lambda: home.outcomes() == ["delivered"])
    assert [each.id for each in new.received] == [old.received[0].id]


def test_a_missing_secret_is_a_problem_until_it_is_there(home: Home) -> None:
    receiver = home.receiver()
    text = hook(receiver.url).replace(
        'secret_env = "HOOK_SECRET"', 'secret_file = "hook.secret"'
    )
    worker = home.start(text)
    home.manager.save("old", "s", {})
    path = home.folder / "hook.secret"
    eventually(lambda: f"webhook hook: {path}: cannot be read" in _problem(worker))
    path.write_text(f"# a comment\n{SECRET}\n{SECRET}\n")
    path.chmod(0o644)
    eventually(lambda: "others may use it" in _problem(worker))
    path.chmod(0o600)
    eventually(lambda: receiver.received)
    first, second = receiver.received[0].headers["webhook-signature"].split(" ")
    assert first == second
    eventually(lambda: _problem(worker) == "")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "plain", "whsec_*"])
def test_a_malformed_secret_is_a_problem_that_does_not_show_it(
    home: Home, text: str
) -> None:
    receiver = home.receiver()
    path = home.folder / "hook.secret"
    path.write_text(text)
    path.chmod(0o600)
    worker = home.start(
        hook(receiver.url)
        .replace("secret_env = ", "secret_file = ")
        .replace("HOOK_SECRET", "hook.secret")
    )
    home.manager.save("old", "s", {})
    eventually(lambda: "webhook hook: " in _problem(worker))
    assert str(path) in _problem(worker)
    assert text not in ("plain", "whsec_c2hvcnQ=") or text not in _problem(worker)
    assert receiver.received == []


def _problem(worker: Worker) -> str:
    return worker.status.problem or ""


# -- the record ------------------------------------------------------------------------


def _settle(box: Outbox, sent: Sent, outcome: Outcome) -> str:
    return box.settle(
        sent, outcome, max_attempts=2, retry_at=lambda _: 10.0, at="2026-11-23"
    )


@pytest.mark.slow
def test_the_record_is_bounded_and_drops_the_jobs_that_waited_longest() -> None:
    storage = MemoryStorage()
    box = Outbox(storage, "hook", is_new=True)
    store_names(storage, ["hook"])
    box.add({f"j{n}": Waiting(0, 1) for n in range(MAX_JOBS + 3)}, "2026-11-23")
    dropped = deliveries(storage)
    assert [each.job_id for each in dropped] == ["j0", "j1", "j2"]
    assert {each.outcome for each in dropped} == {"dropped"}
    assert box.next(0.0) == ("j3", Waiting(0, 1))
    wide = '"' * 507
    box.add({f"{wide}{n:05}": Waiting(0, 1) for n in range(MAX_JOBS)}, "2026-11-23")
    stored = storage.record("webhook-hook").get()
    assert stored is not None
    assert len(stored.value) < MAX_VALUE_BYTES
    assert len(deliveries(storage)) == MAX_RECENT


def test_a_job_goes_on_with_the_events_that_came_while_one_was_sent() -> None:
    box = Outbox(MemoryStorage(), "hook", is_new=True)
    box.add({"a": Waiting(1, 2), "b": Waiting(0, 1)}, "")
    box.add({"a": Waiting(2, 5)}, "")
    assert box.next(0.0) == ("a", Waiting(1, 5))
    assert _settle(box, Sent("m", "t", "a", 2), Outcome(200)) == "delivered"
    assert box.next(0.0) == ("b", Waiting(0, 1))
    assert _settle(box, Sent("n", "t", "b", 1), Outcome(500, "no")) == "retrying"
    assert box.next(0.0) == ("a", Waiting(2, 5))
    box.skip("a", 4)
    assert box.next(0.0) == ("a", Waiting(4, 5))
    box.skip("a", 5)
    assert box.next(0.0) == 10.0
    assert box.next(10.0) == ("b", Waiting(0, 1, 1, 10.0))
    assert _settle(box, Sent("n", "t", "b", 1), Outcome(500, "no")) == "failed"
    assert box.next(99.0) is None


def test_a_worker_that_does_not_lead_any_more_cannot_write() -> None:
    storage = MemoryStorage()
    old = Outbox(storage, "hook", is_new=True)
    new = Outbox(storage, "hook")
    new.add({"a": Waiting(0, 1)}, "")
    with pytest.raises(Conflict):
        old.add({"b": Waiting(0, 1)}, "")
    stored = storage.record("webhook-hook").get()
    assert stored is not None
    assert orjson.loads(stored.value)["waiting"] == {"a": [0, 1, 0]}
