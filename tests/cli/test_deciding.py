"""`milepost approvals`, `approve` and `reject`: a decision is on what was shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.api.cli.stores import actor
from tests.support.cli import JOB, call, clean_environ
from tests.support.eventually import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUBJECT = {"rows": 120, "note": "a\u202e\U000e0001b", "to": ["prod"]}


@pytest.fixture
def manager(folder: Path) -> Iterator[CheckpointManager]:
    with CheckpointManager(folder / "checkpoints", actor="ann") as opened:
        yield opened


def ask(manager: CheckpointManager, job: str = JOB, **terms: Any) -> str:
    """Ask for a decision on `SUBJECT`; return the approval's id."""
    run = manager.start_workflow_execution(job, "ingest").execution_id
    return manager.request_approval(run, SUBJECT, **terms).approval_id


def digest(approval: str) -> str:
    shown = call("approvals", "--status", "all", "--json").json["data"]["approvals"]
    (found,) = [a for a in shown if a["approval_id"] == approval]
    word: str = found["subject_digest"]
    return word


def on_a_terminal(*words: str, answer: str) -> tuple[int, str]:
    """Run `milepost` with a terminal as stdin, stdout and stderr; type `answer`."""
    leader, follower = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "milepost", *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=clean_environ(TERM="dumb"),
    ) as child:
        os.close(follower)
        shown = b""
        try:
            while chunk := os.read(leader, 65536):
                shown += chunk
                if answer and b"[y/N]" in shown:
                    os.write(leader, answer.encode())
                    answer = ""
        except OSError:
            pass  # how Linux says that the last writer of a terminal is gone
        os.close(leader)
        code = child.wait(DEADLINE_SECONDS)
    return code, shown.decode()


def test_approvals_lists_who_waits_for_a_decision(manager: CheckpointManager) -> None:
    asked = ask(manager, approvers=["bob", "eve"], required=2)

    done = call("approvals")

    shown = dict(zip(done.out.splitlines()[0].split("\t"), done.rows[0], strict=True))
    assert (shown["approval_id"], shown["job_id"]) == (asked, JOB)
    assert (shown["approved"], shown["approvers"]) == ("0/2", "bob, eve")
    assert shown["requested_by"] == "ann"


def test_approvals_can_be_chosen_by_status_job_person_and_number(
    manager: CheckpointManager,
) -> None:
    mine = ask(manager, approvers=[actor()])
    other = ask(manager, "b", approvers=["bob"])
    rejected = ask(manager, "c")
    call("reject", rejected, "--reason", "no", "--digest", digest(rejected))
    for words, expected in (
        ((), [mine, other]),
        (("--mine",), [mine]),
        (("--job", "b"), [other]),
        (("--status", "rejected"), [rejected]),
        (("--status", "all"), [mine, other, rejected]),
        (("--limit", "1"), [mine]),
    ):
        found = call("approvals", "--json", *words).json["data"]["approvals"]
        assert [each["approval_id"] for each in found] == expected, words
        assert all("subject" not in each for each in found)
    assert call("approvals", "--job", "no-job").code == 4
    done = call("approvals", "--status", "expired", "--fail-if-empty")
    assert done.code == 8


def test_with_the_digest_of_the_subject_it_is_approved_without_a_question(
    manager: CheckpointManager,
) -> None:
    asked = ask(manager)

    done = call("approve", asked, "--digest", digest(asked), "--comment", "fine")

    assert done.code == 0
    made = manager.get_approval(asked)
    assert (made.status, made.decided_by, made.comment) == ("approved", actor(), "fine")
    assert f"approval {asked} is approved (1/1)" in done.err
    again = call("approve", asked, "--digest", digest(asked))
    assert again.code == 0


@pytest.mark.parametrize("words", [("approve",), ("reject", "--reason", "no")])
def test_without_a_terminal_the_subject_is_printed_and_nothing_is_decided(
    manager: CheckpointManager, words: tuple[str, ...]
) -> None:
    asked = ask(manager)

    plain, done = call(*words, asked), call(*words, asked, "--json")

    assert (plain.code, done.code) == (6, 6)
    assert json.loads(plain.out) == SUBJECT
    assert done.json["data"]["subject"] == SUBJECT
    error = done.json["error"]
    assert error["code"] == "confirmation_required"
    assert error["hint"] == f"milepost {words[0]} {asked} --digest {digest(asked)}"
    assert manager.get_approval(asked).status == "pending"


@pytest.mark.parametrize("given", ["", "0" * 64])
def test_a_digest_of_something_else_decides_nothing(
    manager: CheckpointManager, given: str
) -> None:
    asked = ask(manager)
    for words in (("approve",), ("reject", "--reason", "no")):
        done = call(*words, asked, "--digest", given, "--json")
        assert (done.code, done.json["error"]["code"]) == (5, "stale_subject")
    assert manager.get_approval(asked).status == "pending"


def test_who_may_not_decide_is_refused(manager: CheckpointManager) -> None:
    asked = ask(manager, approvers=["bob"])
    done = call("approve", asked, "--digest", digest(asked), "--json")
    assert (done.code, done.json["error"]["code"]) == (6, "not_allowed")


def test_a_rejection_needs_a_reason_and_stands(manager: CheckpointManager) -> None:
    asked = ask(manager)
    assert call("reject", asked, "--digest", digest(asked)).code == 2

    done = call("reject", asked, "--reason", "bad", "--digest", digest(asked))

    assert done.code == 0
    made = manager.get_approval(asked)
    assert (made.status, made.comment) == ("rejected", "bad")
    late = call("approve", asked, "--json")
    assert (late.code, late.json["error"]["code"]) == (5, "approval_decided")


def test_an_unknown_approval_is_not_found(manager: CheckpointManager) -> None:
    ask(manager)
    for words in (("approve",), ("reject", "--reason", "x"), ("approve", "--digest=x")):
        done = call(*words, "appr_00000000000000000000")
        assert done.code == 4
        assert "`milepost approvals` lists them" in done.err


@pytest.mark.parametrize(
    ("words", "answer", "code", "status"),
    [
        (("approve",), "y\n", 0, "approved"),
        (("approve",), "n\n", 6, "pending"),
        (("approve",), "\n", 6, "pending"),
        (("approve",), "\x04", 130, "pending"),
        (("reject", "--reason", "bad"), "y\n", 0, "rejected"),
    ],
)
def test_on_a_terminal_the_subject_is_shown_and_a_person_decides(
    manager: CheckpointManager,
    words: tuple[str, ...],
    answer: str,
    code: int,
    status: str,
) -> None:
    asked = ask(manager)

    ended, shown = on_a_terminal(*words, asked, answer=answer)

    assert ended == code, shown
    assert '"rows": 120' in shown
    assert digest(asked) in shown
    # Nothing may turn the line around or hide in it; what is shown is JSON.
    assert r"a\u202e\udb40\udc01b" in shown
    assert f"{words[0]} it? [y/N]" in shown
    assert manager.get_approval(asked).status == status


def test_a_subject_that_is_not_shown_whole_says_so(manager: CheckpointManager) -> None:
    run = manager.start_workflow_execution(JOB, "ingest").execution_id
    subject = {"text": "x" * 10_000, "rows": [*range(1000)]}
    asked = manager.request_approval(run, subject).approval_id

    _, shown = on_a_terminal("approve", asked, answer="n\n")

    assert "NOT ALL OF IT IS SHOWN: 200 of 1005 lines" in shown
    assert len(shown) < 10_000
    assert f"milepost approve {asked} --json" in shown
