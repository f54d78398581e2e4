"""The programs of docs/webhooks.md work with what a worker sends."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from milepost import CheckpointManager
from milepost.journal.clock import utc_now
from milepost.worker.config import merge
from milepost.worker.config.settings import load
from milepost.worker.config.webhooks import WebhookSettings
from milepost.worker.service import Worker
from milepost.worker.webhooks.courier import body_of
from milepost.worker.webhooks.outbox import Sent, deliveries, names
from tests.support.eventually import eventually
from tests.support.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "webhooks.md").read_text()


def block(language: str, number: int = 0) -> str:
    found: str = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]
    return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_receiver_with_the_code_of_the_page_takes_genuine_requests_alone(
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    monkeypatch.chdir(tmp_path)
    (make_secret,) = re.findall(r"^ {4}(\(umask .*\))$", PAGE, re.MULTILINE)
    subprocess.run(["sh", "-c", make_secret], check=True)
    url = re.sub(r'url = ".*"', f'url = "{receiver.url}"', block("toml"))
    Path("config.toml").write_text(f"{url}allow_private = true\n")
    settings = load(Path("config.toml"), environ={})
    with CheckpointManager("checkpoints") as manager:
        manager.save("etl-orders", "extract", {})
        worker = Worker(manager, settings)
        worker.start()
        try:
            eventually(lambda: names(manager.storage) == ["deploy"])
            manager.save("etl-orders", "load", {})
            eventually(lambda: deliveries(manager.storage))
        finally:
            worker.stop()
    (request,) = receiver.received
    given: dict[str, Any] = {}
    exec(block("python"), given)
    is_genuine = given["is_genuine"]
    secret = Path("deploy.secret").read_text()
    assert is_genuine(secret, request.headers, request.body)
    assert not is_genuine(secret, request.headers, request.body + b" ")
    late = str(int(utc_now().timestamp()) - 301)
    for header in ({"webhook-id": "msg_other"}, {"webhook-timestamp": late}):
        assert not is_genuine(secret, request.headers | header, request.body)
    assert not is_genuine("whsec_AAAA", request.headers, request.body)
    exec(block("python", 1), {})
    assert capsys.readouterr().out == "deploy delivered 1 204 None\n"


def test_the_page_names_every_key_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\|", PAGE, re.MULTILINE)
    keys = {key.dotted for key in merge.keys(WebhookSettings)}
    assert keys == {name for name, _ in rows if name in keys}
    assert {"timeout": '"10s"', "max_attempts": "12", "jobs": '"*"'}.items() <= dict(
        rows
    ).items()


def test_the_body_on_the_page_has_the_keys_of_a_request() -> None:
    shown: Any = orjson.loads(block("json"))
    sent = Sent(shown["id"], shown["type"], shown["job_id"], shown["seq"])
    assert orjson.loads(body_of(sent, shown)) == shown
