"""Plain JSON lines for other tools: cat, and show --raw."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, KeyRing
from tests.support.cli import JOB, call, clean_environ, damage, ids_of, run
from tests.support.eventually import DEADLINE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "lorem ipsum " * 60
MESSAGES = [{"role": "user", "content": f"{n} {TEXT}"} for n in range(9)]
STATES = [{"messages": MESSAGES[: n + 1]} for n in range(9)]


@pytest.fixture(params=["json", "zstd", "auto", "encrypted"])
def chat(request: pytest.FixtureRequest, folder: Path) -> Path:
    """Return the folder with a job of growing states, stored in each of the ways."""
    keys, codec = None, request.param
    if codec == "encrypted":
        call("keys", "generate", "keys.txt")
        keys, codec = KeyRing.from_file(folder / "keys.txt"), "auto"
        (folder / "config.toml").write_text('[store]\nkey_file = "keys.txt"\n')
    with CheckpointManager("checkpoints", codec=codec, keys=keys) as manager:
        for number, state in enumerate(STATES):
            manager.save("chat", "s", state, metadata={"n": number})
    return folder


def lines_of(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*words).out.splitlines()]


@pytest.mark.slow
def test_cat_prints_every_event_with_its_state_decoded(chat: Path) -> None:
    ids = ids_of(chat / "checkpoints", "chat")
    call("delete", f"chat@{ids[0]}", "--purge")
    call("delete", f"chat@{ids[1]}", "--reason", "wrong")

    lines = lines_of("cat", "chat")

    saves = [line for line in lines if line["type"] == "checkpoint.saved"]
    assert [line["state"] for line in saves] == [None, None, *STATES[2:]]
    assert [line["metadata"] for line in saves[2:]] == [{"n": n} for n in range(2, 9)]
    purged, deleted = (line["state_problem"] for line in saves[:2])
    assert purged.startswith("checkpoint.purged at 20")
    assert deleted.startswith("checkpoint.deleted at 20")
    assert [line["seq"] for line in lines] == [*range(1, len(lines) + 1)]
    assert lines_of("cat", "chat", "--json") == lines
    assert lines_of("show", "chat", "--raw") == STATES[-1:]


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
def test_jq_reads_what_cat_prints(chat: Path) -> None:
    script = "milepost cat chat | jq -c 'select(.state) | .state.messages | length'"
    done = subprocess.run(
        script, shell=True, capture_output=True, env=clean_environ(), check=True
    )
    assert done.stdout.split() == [b"%d" % n for n in range(1, 10)], chat


def test_cat_ends_with_its_reader_and_names_what_is_not_there(store: Path) -> None:
    script = f"milepost cat {JOB} | head -1"
    done = subprocess.run(
        script, shell=True, capture_output=True, env=clean_environ(), check=True
    )
    assert json.loads(done.stdout)["type"] == "job.opened"
    assert done.stderr == b""
    assert call("cat", "none").code == 4
    damage(store)
    assert call("cat", JOB).code == 7


def test_lines_end_with_their_reader_however_many_there_are() -> None:
    program = (
        "from itertools import count\n"
        "from milepost.api.cli.results import Answer, JsonLines\n"
        "from milepost.api.cli.output import report\n"
        "report(Answer(None, JsonLines(count())), as_json=False)\n"
    )
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" | head -2', sys.executable, program],
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"0\n1\n", b"")


def test_cat_says_of_a_state_that_cannot_be_read_why(folder: Path) -> None:
    call("keys", "generate", "keys.txt")
    keys = KeyRing.from_file(folder / "keys.txt")
    with CheckpointManager("checkpoints", keys=keys) as manager:
        manager.save("a", "s", {})
    saved = lines_of("cat", "a")[1]
    assert saved["state"] is None
    assert "key" in saved["state_problem"]


def test_cat_says_of_every_removed_state_what_removed_it(store: Path) -> None:
    call("cleanup", JOB, "--keep-last", "1")
    cleaned = [line for line in lines_of("cat", JOB) if line.get("state_problem")]
    assert cleaned
    for line in cleaned:
        assert line["state_problem"].startswith("checkpoints.cleaned at"), store
    call("erase", JOB, "--yes")
    gone = [line for line in lines_of("cat", JOB) if "state_problem" in line]
    assert len(gone) == 3
    assert all("job.erased at" in line["state_problem"] for line in gone)
