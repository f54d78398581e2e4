"""`milepost executions`, `execution` and `signal`: what runs, and who waits."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from tests.cli.terminal import milepost_on_a_terminal
from tests.support.cli import JOB, call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def manager(folder: Path) -> Iterator[CheckpointManager]:
    """The store of the current folder, as the process that runs executions has it."""
    with CheckpointManager(folder / "checkpoints", actor="ann") as opened:
        yield opened


@pytest.fixture
def run(manager: CheckpointManager) -> str:
    """Return the id of a running execution with a completed step."""
    run = manager.start_workflow_execution(JOB, "ingest", {"url": "x"}).execution_id
    manager.create_checkpoint(run, "load", "agent", {"n": 1})
    manager.complete_checkpoint(run, "load", {"n": 2})
    return run


def word(run: str) -> str:
    status: str = call("execution", "status", run, "--json").json["data"]["status"]
    return status


def test_executions_shows_what_runs_and_who_waits_for_whom(
    manager: CheckpointManager, run: str
) -> None:
    for job in ("asks", "paused", "starts"):
        manager.start_workflow_execution(job, "ingest", pending=True)
    manager.request_approval("exec_asks", {}, approvers=["bob", "eve"], required=2)
    manager.pause_execution("exec_paused")

    done = call("executions")

    columns = done.out.splitlines()[0].split("\t")
    found = {row[columns.index("job_id")]: row for row in done.rows}
    waits = {job: row[columns.index("waits_for")] for job, row in found.items()}
    assert waits == {
        JOB: "",
        "asks": "approval of bob, eve (0/2)",
        "paused": "a resume",
        "starts": "a process",
    }
    assert found[JOB][0] == run
    assert found[JOB][columns.index("owner")].startswith("process ")
    assert found[JOB][columns.index("steps")] == "1/1"


def test_executions_can_be_chosen_by_job_state_and_number(
    manager: CheckpointManager, run: str
) -> None:
    newest = manager.start_workflow_execution("b", "x", pending=True).execution_id
    for words, expected in (
        ((), [run, newest]),
        (("--job", JOB), [run]),
        (("--state", "pending"), [newest]),
        (("--state", "running"), [run, newest]),
        (("--state", "failed"), []),
        (("--limit", "1"), [newest]),
    ):
        found = call("executions", "--json", *words).json["data"]["executions"]
        assert [each["execution_id"] for each in found] == expected, words
    assert call("executions", "--job", "no-job").code == 4
    assert call("executions", "--state", "busy").code == 2
    assert call("executions", "--state", "failed", "--fail-if-empty").code == 8


@pytest.mark.usefixtures("run")
def test_a_damaged_job_hides_no_execution_and_is_named(folder: Path) -> None:
    call("run", "other", "--job", "another")
    journal = folder / "checkpoints" / "journals" / "another.jsonl"
    journal.write_bytes(b"x" + journal.read_bytes()[1:])

    done = call("executions")

    assert [row[1] for row in done.rows] == [JOB]  # I10
    assert "another" in done.err


def test_a_table_of_executions_fits_a_terminal(run: str) -> None:
    shown = milepost_on_a_terminal("executions", COLUMNS="80", NO_COLOR="1")
    assert max(map(len, shown.splitlines())) <= 80
    assert [run, JOB, "running"] in [line.split() for line in shown.splitlines()]


def test_status_and_history_show_one_execution(run: str) -> None:
    done = call("execution", "status", f"exec_{JOB}")
    assert ["execution_id", run] in done.rows
    assert ["steps", "1 of 1 completed"] in done.rows

    steps = call("execution", "history", run, "--json").json["data"]["steps"]
    assert [(s["checkpoint_name"], s["state"], s["output_data"]) for s in steps] == [
        ("load", "completed", {"n": 2})
    ]
    assert call("execution", "history", run).rows[0][1:3] == ["load", "completed"]


def test_an_unknown_execution_is_not_found_and_says_where_to_look(run: str) -> None:
    call("execution", "cancel", run)
    for name, hint in (
        ("nonsense", "`milepost executions` lists them"),
        (f"exec_{JOB}", f"milepost executions --job {JOB}"),
    ):
        for words in (("status",), ("pause",), ("fail", "--reason", "x")):
            done = call("execution", *words, name)
            assert done.code == 4
            assert hint in done.err


# What is done to an execution, what it is called for, and the state after it.
CHANGES: list[tuple[list[tuple[str, ...]], str]] = [
    ([("pause",)], "waiting"),
    ([("pause",), ("resume",)], "pending"),
    ([("cancel", "--reason", "wrong")], "cancelled"),
    ([("cancel",), ("retry",)], "pending"),
    ([("fail", "--reason", "no source")], "failed"),
    ([("fail", "--reason", "x"), ("retry", "--reason", "again")], "pending"),
    ([("pause",), ("resume",), ("complete", "--result", '{"n": 1}')], "completed"),
]


@pytest.mark.parametrize(("calls", "expected"), CHANGES)
def test_each_change_moves_an_execution_once(
    run: str, calls: list[tuple[str, ...]], expected: str
) -> None:
    for name, *options in calls:
        done = call("execution", name, run, *options, "--json")
        assert (done.code, done.json["data"]["changed"]) == (0, True)
    assert word(run) == expected
    name, *options = calls[-1]
    again = call("execution", name, run, *options, "--json")
    assert (again.code, again.json["data"]["changed"]) == (0, False)
    assert word(run) == expected


def test_the_reason_is_journaled(manager: CheckpointManager, run: str) -> None:
    call("execution", "pause", run, "--reason", "disk is full")
    assert "disk is full" in str([*manager.history(JOB)][-2:])
    assert ["reason", "disk is full"] in call("execution", "status", run).rows


def completed(manager: CheckpointManager, run: str) -> None:
    manager.complete_execution(run)


def failed(manager: CheckpointManager, run: str) -> None:
    manager.fail_execution(run, "x")


def gated(manager: CheckpointManager, run: str) -> None:
    manager.create_checkpoint(run, "publish", "a", {}, approval_required=True)


@pytest.mark.parametrize(
    ("arrange", "words", "code", "hint"),
    [
        (completed, ("pause",), "execution_final", "milepost run"),
        (completed, ("retry",), "execution_final", "milepost run"),
        (completed, ("cancel",), "execution_final", "start another"),
        (failed, ("resume",), "execution_final", "milepost execution retry"),
        (gated, ("resume",), "approval_pending", "milepost approve appr_"),
        (gated, ("pause",), "approval_pending", "milepost approve appr_"),
        (gated, ("complete",), "approval_pending", "decide that approval"),
    ],
)
def test_an_impossible_change_is_a_conflict_that_says_what_helps(
    manager: CheckpointManager,
    run: str,
    arrange: Callable[[CheckpointManager, str], None],
    words: tuple[str, ...],
    code: str,
    hint: str,
) -> None:
    arrange(manager, run)
    before = word(run)

    done = call("execution", *words, run, "--json")

    error = done.json["error"]
    assert (done.code, error["code"]) == (5, code)
    assert hint in error["hint"]
    assert word(run) == before


COMPLETE = """
import sys
from milepost.api.cli.group import milepost
milepost.main(["execution", "complete", sys.argv[1], "--json"])
"""


def test_an_execution_that_another_process_runs_is_not_completed(run: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE, run],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert '"code":"lease_live"' in done.stdout


def test_a_signal_waits_for_its_execution(
    manager: CheckpointManager, run: str, folder: Path
) -> None:
    (folder / "p.json").write_text('{"from": "file"}')
    call("signal", run, "paid", "--payload", '{"by": "card"}')
    call("signal", run, "paid", "--payload", "@p.json")
    call("signal", run, "paid", "--payload", "-", stdin='{"from": "stdin"}')

    assert call("signal", run, "x", "--payload", "[1]").code == 1
    assert [manager.consume_signal(run, "paid") for _ in range(4)] == [
        {"by": "card"},
        {"from": "file"},
        {"from": "stdin"},
        None,
    ]


def test_doctor_names_an_execution_without_a_process_unless_a_worker_leads(
    manager: CheckpointManager, run: str
) -> None:
    assert "lost its process" not in call("doctor").out
    manager.workflows.close()  # as the death of the process does

    done = call("doctor")

    assert done.code == 0
    assert (
        f"execution {run} of job {JOB} lost its process; no worker recorded that"
        in done.out
    )
    assert f"milepost execution cancel {run}" in done.out
    lease = manager.storage.lease("worker")
    assert lease.acquire("worker")
    assert "lost its process" not in call("doctor").out
    lease.release()


def test_the_log_can_be_filtered_by_the_events_of_workflows(run: str) -> None:
    call("execution", "cancel", run)
    shown = [row[2] for row in call("log", JOB, "--type", "execution.*").rows]
    assert shown == ["execution.started", "execution.cancelled"]
    assert len(call("log", JOB, "--type", "lease.*").rows) == 2
    assert call("show", JOB).json == {"n": 2}
