"""`milepost run`: start an execution, hand it over, follow it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from tests.support.cli import JOB, call, run

if TYPE_CHECKING:
    from pathlib import Path

# What a job does with the execution that it is started for.
JOBS = {
    "completes": 'm.complete_checkpoint(e, "load", {"n": 1}); m.complete_execution(e)',
    "fails": 'm.fail_execution(e, "no source")',
    "cancels": 'm.cancel_execution(e, reason="too late")',
    "asks": 'm.request_approval(e, {"rows": 1}, approvers=["bob"])',
    "pauses": "m.pause_execution(e, reason='disk')",
    "dies": "import os; os._exit(1)",
    "never takes its lease": "",
}


def configure(folder: Path, does: str | None, more: str = "") -> None:
    """Write a config.toml whose executor runs a job that `does` something."""
    lines = ['[store]\nroot = "checkpoints"\n']
    if does is not None:
        steps = JOBS[does]
        begins = 'm.create_checkpoint(e, "load", "a", {})' if steps else ""
        job = f"""
        import sys
        from milepost import CheckpointManager
        m, e = CheckpointManager("checkpoints"), "exec_" + sys.argv[1]
        {begins}
        {steps}
        m.close()
        """
        (folder / "job.py").write_text(textwrap.dedent(job))
        lines.append(
            f'[executor]\ncommand = ["{sys.executable}", "job.py", "{{job_id}}"]\n'
        )
    (folder / "config.toml").write_text("".join(lines) + more)


def test_a_run_without_an_executor_waits_for_a_process(folder: Path) -> None:
    (folder / "in.json").write_text('{"day": 1}')

    done = call("run", "ingest", "--job", JOB, "--input", "@in.json", "--version", "2")

    assert done.code == 0
    name = done.out.strip()
    assert "it waits for a process that takes its lease: no executor" in done.err
    status = call("execution", "status", name, "--json").json["data"]
    assert (status["status"], status["workflow_version"]) == ("pending", "2")
    with CheckpointManager(folder / "checkpoints") as manager:
        manager.acquire_lease(name)
        (started,) = manager.list_executions()
        assert started["workflow_name"] == "ingest"
        manager.complete_execution(name)


@pytest.mark.usefixtures("folder")
def test_a_run_with_the_same_key_starts_one_execution() -> None:
    words = ("run", "ingest", "--job", JOB, "--idempotency-key", "k")
    assert call(*words).out == call(*words).out
    assert call("executions", "--json").json["data"]["total"] == 1


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("given", ["[1]", "{", "@nothing.json", '{"a": 1, "a": 2}'])
def test_an_input_that_is_no_object_starts_nothing(given: str) -> None:
    done = call("run", "ingest", "--job", JOB, "--input", given)
    assert done.code == 1
    assert call("executions").code in (8, 10)


START_IT = """
import sys
from milepost.api.cli.group import milepost
milepost.main(["run", "ingest", "--job", sys.argv[1], "--json"])
"""


def test_a_run_beside_a_live_process_is_refused_and_names_it(folder: Path) -> None:
    with CheckpointManager(folder / "checkpoints", actor="ann") as manager:
        manager.start_workflow_execution(JOB, "ingest")
        done = subprocess.run(
            [sys.executable, "-c", START_IT, JOB],
            capture_output=True,
            text=True,
            check=False,
        )
        assert len(manager.list_executions()) == 1
    assert done.returncode == 5
    assert '"code":"lease_live"' in done.stdout
    assert "run by ann, process" in done.stdout


OUTCOMES: list[tuple[str, int, str, str]] = [
    ("completes", 0, "completed", ""),
    ("fails", 1, "failed", "no source (milepost execution retry exec_"),
    ("cancels", 1, "cancelled", "too late"),
    ("asks", 9, "waiting", "approval of bob (0/1) (milepost approve appr_"),
    ("pauses", 9, "waiting", "disk (milepost execution resume exec_"),
    ("dies", 1, "interrupted", "lost its process (milepost execution resume exec_"),
    ("never takes its lease", 1, "pending", "ended without taking the lease"),
]


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(("does", "code", "status", "said"), OUTCOMES)
def test_wait_ends_with_the_outcome_of_the_execution(
    folder: Path, does: str, code: int, status: str, said: str
) -> None:
    configure(folder, does)

    done = run("run", "ingest", "--job", JOB, "--wait", "--json")
    error = done.json["error"]

    assert done.code == code, done.err
    assert done.json["data"]["status"] == status
    plain = "" if error is None else f"{error['detail']} ({error['hint']})"
    assert said in plain
    assert "its output is in " in done.err


def test_a_resume_starts_the_job_too(folder: Path) -> None:
    configure(folder, None)
    name = call("run", "ingest", "--job", JOB).out.strip()
    call("execution", "pause", name)
    configure(folder, "completes")

    done = run("execution", "resume", name)

    assert done.code == 0
    assert f"job {JOB} started" in done.err


RULE = "[[workflows]]\nauto_resume = true\n"


def test_a_worker_that_starts_executions_is_left_to_do_it(folder: Path) -> None:
    configure(folder, "completes", RULE)
    with CheckpointManager(folder / "checkpoints") as manager:
        manager.save("other", "s", {})
        lease = manager.storage.lease("worker")
        assert lease.acquire("worker")
        done = run("run", "ingest", "--job", JOB)
        lease.release()
        assert manager.history(JOB)[-1]["type"] == "execution.started"
    assert "the worker, starts its job" in done.err


EXECUTOR = """
import threading

class Raises:
    def resume_job(self, job_id):
        raise ValueError("no machine")

class Awaited:
    async def resume_job(self, job_id):
        open("awaited", "w").write(job_id)

raises, awaited = Raises(), Awaited()
"""


@pytest.mark.parametrize(("name", "code"), [("raises", 1), ("awaited", 0)])
def test_an_executor_of_the_user_starts_the_job_or_says_why_not(
    folder: Path, name: str, code: int
) -> None:
    (folder / "mine.py").write_text(EXECUTOR)
    configure(folder, None, f'[executor]\npython = "mine:{name}"\n')

    done = run("run", "ingest", "--job", JOB, "--json")

    answer: dict[str, Any] = done.json
    assert done.code == code
    assert answer["data"]["status"] == "pending"
    if code:
        assert "ValueError: no machine" in answer["error"]["detail"]
        return
    assert (folder / "awaited").read_text() == JOB
