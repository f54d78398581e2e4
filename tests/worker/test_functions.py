"""Workflow functions: the worker runs each execution in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.worker.config.settings import ConfigError, load
from tests.support.cli import call, clean_environ, run
from tests.support.eventually import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A step writes a line to the file "did" before it does anything else.
FLOWS = """
import os, signal, time
from datetime import timedelta
from milepost import CheckpointManager

manager = CheckpointManager("checkpoints")
not_a_workflow = 7

def did(line):
    with open("did", "a") as file:
        file.write(line + "\\n")

def hang(run):
    did(f"hang {run.job_id} {os.getpid()}")
    if run.attempt == 1:
        signal.pause()

@manager.workflow("ingest", version="3", max_attempts=2)
def ingest(run, hangs=False, fails=False, waits=False):
    run.step("first", did, f"first {run.job_id}")
    if fails:
        raise ValueError("no rows")
    if waits:
        run.signal("paid", timeout=timedelta(days=1))
    if hangs:
        run.step("hang", hang, run)
    return {"rows": 2}

@manager.workflow("later")
async def later(run, hangs=False):
    await run.astep("first", did_async, "first")
    if hangs:
        await run.astep("hang", hang_async, run)
    return "done"

async def did_async(line):
    did(line)

async def hang_async(run):
    import asyncio
    did("hang " + str(os.getpid()))
    if run.attempt == 1:
        await asyncio.sleep(600)

@manager.workflow("child")
def child(run):
    return run.signal("go", timeout=timedelta(days=1), default="late")

@manager.workflow("parent")
def parent(run):
    return run.child("eu", child, job_id=run.job_id + "/eu")

elsewhere = CheckpointManager("elsewhere").workflow("ingest")(ingest.function)
"""
RULES = """
[[workflows]]
function = "flows:ingest"
concurrency = 1
[[workflows]]
function = "flows:parent"
[[workflows]]
function = "flows:child"
"""


@pytest.fixture
def flows(folder: Path) -> Path:
    """Return the current folder, with the module of some workflows."""
    (folder / "flows.py").write_text(FLOWS)
    sys.modules.pop("flows", None)
    configure(folder, RULES)
    return folder


def configure(folder: Path, text: str) -> None:
    (folder / "config.toml").write_text(f'[store]\nroot = "checkpoints"\n{text}')


def did(folder: Path) -> list[str]:
    path = folder / "did"
    return path.read_text().splitlines() if path.exists() else []


@contextmanager
def working(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker as long as the block lasts."""
    log = (folder / "worker.log").open("ab")
    command = [sys.executable, "-m", "milepost", "worker"]
    with log, subprocess.Popen(command, stderr=log, env=clean_environ()) as child:
        try:
            yield child
        finally:
            child.kill()


def stop(worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_SECONDS) == 0


def status(manager: CheckpointManager, job_id: str) -> dict[str, Any]:
    (found,) = manager.list_executions(job_id=job_id)
    return found


def reach(manager: CheckpointManager, job_id: str, word: str) -> dict[str, Any]:
    """Wait until the execution of a job has a status."""
    eventually(lambda: status(manager, job_id)["status"] == word)
    return status(manager, job_id)


def begin(manager: CheckpointManager, job_id: str, **given: Any) -> None:
    manager.start_workflow_execution(job_id, "ingest", given, pending=True)


def test_pending_executions_run_one_by_one_and_a_stopped_worker_interrupts_them(
    flows: Path,
) -> None:
    with CheckpointManager("checkpoints") as manager:
        begin(manager, "a", hangs=True)
        begin(manager, "b")
        with working(flows) as worker:
            eventually(lambda: any(line.startswith("hang") for line in did(flows)))
            assert status(manager, "b")["status"] == "pending"  # one process at once
            stop(worker)
        assert status(manager, "a")["status"] == "interrupted"
        assert manager.history("a")[-1]["data"]["reason"] == "released"
        with working(flows) as worker:
            reach(manager, "a", "completed")
            reach(manager, "b", "completed")
            stop(worker)
        assert manager.execution_outcome(status(manager, "a")["execution_id"])[2] == {
            "rows": 2
        }
    assert [line.split()[0] for line in did(flows)].count("first") == 2


@pytest.mark.slow
def test_a_signal_and_the_end_of_a_child_wake_what_waits_for_them(flows: Path) -> None:
    with CheckpointManager("checkpoints") as manager, working(flows) as worker:
        manager.start_workflow_execution("p", "parent", pending=True)
        eventually(lambda: manager.list_executions("waiting", job_id="p"))
        assert status(manager, "p")["waiting_child"] == "p/eu"
        assert status(manager, "p/eu")["waiting_signal"] == "go"
        manager.signal("exec_p/eu", "go", {"by": "ann"})
        found = reach(manager, "p", "completed")
        stop(worker)
        outcome = manager.execution_outcome(found["execution_id"])
    assert outcome.result == {"by": "ann"}


@pytest.mark.slow
def test_a_process_that_dies_again_and_again_is_given_up_as_the_function_says(
    flows: Path,
) -> None:
    (flows / "flows.py").write_text(
        FLOWS.replace('run.step("first"', 'os._exit(3); run.step("first"')
    )
    with CheckpointManager("checkpoints") as manager:
        begin(manager, "a")
        with working(flows) as worker:
            found = reach(manager, "a", "failed")
            stop(worker)
    assert found["error"] == "2 attempts ended early"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            'function = "flows:nothing"',
            "workflows[0]: function 'flows:nothing': module 'flows' has no 'nothing'",
        ),
        (
            'function = "flaws:ingest"',
            "module 'flaws' cannot be imported: ModuleNotFoundError",
        ),
        (
            'function = "flows:not_a_workflow"',
            "is a int, not a workflow (decorate it with @manager.workflow(NAME))",
        ),
        (
            'function = "flows:elsewhere"',
            "function 'flows:elsewhere' belongs to the store elsewhere, not to ",
        ),
        (
            'function = "flows:ingest"\nmatch = "etl-*"',
            "workflows[0].match = 'etl-*' does not match 'ingest', the workflow",
        ),
    ],
)
def test_a_function_that_does_not_fit_is_refused_with_its_place(
    flows: Path, rule: str, said: str
) -> None:
    configure(flows, f"[[workflows]]\n{rule}\n")
    done = call("config", "check", "--json")
    error = done.json["error"]
    assert (done.code, error["code"]) == (1, "function_unusable")
    plain = f"{error['detail']} ({error['hint']})" if error["hint"] else error["detail"]
    assert said in plain
    assert call("worker", "--once").code == 1


def test_a_rule_with_a_function_resumes_by_itself(flows: Path) -> None:
    settings = load(flows / "config.toml", environ={})
    assert [rule.auto_resume for rule in settings.workflows] == [True] * 3
    configure(flows, '[[workflows]]\nfunction = "f:x"\nauto_resume = false\n')
    settings = load(flows / "config.toml", environ={})
    assert not settings.workflows[0].auto_resume
    configure(flows, "[[workflows]]\nconcurrency = 2\n")
    with pytest.raises(ConfigError, match='expected "function" with "concurrency"'):
        load(flows / "config.toml", environ={})


# -- milepost run MODULE:NAME ----------------------------------------------------------


def test_run_says_how_far_a_function_came(flows: Path) -> None:
    done = run("run", "flows:ingest", "--job-id", "a")
    assert done.code == 0
    assert done.out.endswith('of job a completed: {"rows":2}\n')
    done = run("run", "flows:ingest", "--job-id=b", "--input", '{"waits": true}')
    assert done.code == 0
    assert 'of job b waits for signal "paid" until ' in done.out
    with CheckpointManager("checkpoints") as manager:
        since = status(manager, "b")["changed_at"]
        assert done.out.endswith(f", since {since}\n")
        manager.signal("exec_b", "paid")
    done = run("run", "flows:ingest", "--job-id=b", "--resume", "--json")
    data = done.json["data"]
    assert (data["status"], data["attempt"], data["result"]) == (
        *("completed", 2),
        {"rows": 2},
    )
    assert did(flows) == ["first a", "first b"]


@pytest.mark.usefixtures("flows")
def test_run_reports_a_failure_and_starts_nothing_to_resume() -> None:
    done = run("run", "flows:ingest", "--job-id=a", "--input", '{"fails": true}')
    assert done.code == 1
    assert "of job a is failed: ValueError: no rows (milepost execution" in done.err
    done = call("run", "flows:ingest", "--job-id=none", "--resume")
    assert done.code == 4
    assert call("executions", "--json").json["data"]["total"] == 1
    assert call("run", "flows:ingest", "--job-id=x", "--wait").code == 2
    assert call("run", "ingest", "--job-id=x", "--resume").code == 2
    done = call("run", "flows:elsewhere", "--job-id=x")
    assert (done.code, "belongs to the store elsewhere" in done.err) == (1, True)


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("function", ["flows:ingest", "flows:later"])
def test_a_signal_interrupts_a_running_function_which_gives_its_lease_back(
    flows: Path, number: signal.Signals, function: str
) -> None:
    words = ["run", function, "--job-id=a", "--json"]
    command = [sys.executable, "-m", "milepost", *words]
    given = ["--input", '{"hangs": true}']
    with subprocess.Popen(
        [*command, *given], stdout=subprocess.PIPE, env=clean_environ()
    ) as child:
        eventually(lambda: any(line.startswith("hang") for line in did(flows)))
        refused = call(*words)
        assert (refused.code, refused.json["error"]["code"]) == (5, "lease_live")
        assert (
            f"process {child.pid} on {os.uname().nodename}, until 20"
            in (refused.json["error"]["detail"])
        )
        child.send_signal(number)
        out, _ = child.communicate(timeout=DEADLINE_SECONDS)
    assert child.returncode == 130
    assert b'"status":"interrupted"' in out
    with CheckpointManager("checkpoints") as manager:
        assert manager.history("a")[-1]["data"]["reason"] == "released"
    assert run(*words).json["data"]["status"] == "completed"


def test_executions_says_in_words_what_a_step_waits_for(folder: Path) -> None:
    with CheckpointManager(folder / "checkpoints") as manager:
        with manager.execution("w", job_id="sleeps") as block:
            block.sleep("nap", days=1)
        with manager.execution("w", job_id="signal") as block:
            block.signal("paid")
        with manager.execution("w", job_id="timed") as block:
            block.signal("paid", timeout=timedelta(days=1))
        with manager.execution("w", job_id="asks") as block:
            block.approval("ship", {"v": 1}, approvers=["ops"])
        with manager.execution("w", job_id="paused") as block:
            manager.pause_execution(block.execution_id, reason="disk")
        until = {
            each["correlation_id"]: each["waiting_until"]
            for each in manager.list_executions()
        }
    done = call("executions")
    columns = done.out.splitlines()[0].split("\t")
    waits = {
        row[columns.index("job_id")]: row[columns.index("waits_for")]
        for row in done.rows
    }
    assert waits == {
        "sleeps": f"until {until['sleeps']}",
        "signal": 'signal "paid"',
        "timed": f'signal "paid" until {until["timed"]}',
        "asks": "approval of ops (0/1)",
        "paused": "a resume (paused: disk)",
    }
    assert until["sleeps"].startswith("20")
    shown = call("execution", "status", "exec_timed").out
    assert f'signal "paid" until {until["timed"]}' in shown


def test_a_parent_waits_for_a_child_that_a_process_of_its_own_runs(
    manager: CheckpointManager,
) -> None:
    @manager.workflow("child")
    def child(run: Any) -> Any:
        return run.signal("go")

    @manager.workflow("parent")
    def parent(run: Any) -> Any:
        return run.child("eu", child, job_id="p/eu")

    assert manager.run(parent, job_id="p").status == "waiting"
    manager.signal("exec_p/eu", "go", {"by": "ann"})
    elsewhere = child.begin("p/eu")
    manager.resume_execution("exec_p")
    outcome = manager.run(parent, job_id="p")
    assert (outcome.status, outcome.waiting_on) == ("waiting", "eu")
    assert child.go_on(elsewhere).status == "completed"
    assert manager.run(parent, job_id="p").result == {"by": "ann"}
