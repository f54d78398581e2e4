"""Executors: one process per job, whatever the id holds and whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from milepost.journal.errors import InvalidArgument
from milepost.worker.executors import (
    CommandExecutor,
    ExecutorUnusable,
    JobStillRunning,
    load_executor,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Running = Callable[[list[str]], CommandExecutor]

SAY = [
    sys.executable,
    "-c",
    (
        "import json, os, sys; is_leader = os.getsid(0) == os.getpid();"
        "print(json.dumps([sys.argv[1:], is_leader, sys.stdin.read()]))"
    ),
    "--job={job_id}",
]
ODD_IDS = ["a b; touch x", "-rf", "$(id)`id`", "é😀", "../../x", "{job_id}", "x" * 512]


class Gate:
    """A command that runs until the test lets it go."""

    def __init__(self, folder: Path) -> None:
        self.hold, self.alive = folder / "hold", folder / "alive"
        os.mkfifo(self.hold)
        os.mkfifo(self.alive)
        # It holds `alive` open for writing for as long as it lives, and uses every
        # descriptor that a shell script can name.
        script = f"exec 3>{self.alive} 4>&3 5>&3 6>&3 7>&3 8>&3 9>&3; echo up >&3"
        self.command = ["sh", "-c", f"{script}; . {self.hold}"]

    def wait_until_up(self) -> int:
        descriptor = os.open(self.alive, os.O_RDONLY)
        assert os.read(descriptor, 3) == b"up\n"
        return descriptor

    def let_go(self) -> None:
        self.hold.write_text("exit 0\n")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Return a maker of executors whose jobs end with the test."""
    made: list[CommandExecutor] = []

    def make(command: list[str]) -> CommandExecutor:
        made.append(CommandExecutor(command, log_dir=tmp_path))
        return made[-1]

    yield make
    for executor in made:
        executor.stop_all(0.1)


def wait_until_ended(executor: CommandExecutor, job_id: str) -> None:
    child = executor._children.get(job_id)
    assert child is None or child.is_reaped.wait(30)


def output_of(folder: Path) -> list[list[object]]:
    logs = [path.read_text().splitlines() for path in folder.glob("*.log")]
    return [json.loads(line) for lines in logs for line in lines]


@pytest.mark.parametrize("job_id", ODD_IDS)
def test_a_job_id_stays_one_argument_whatever_it_holds(
    job_id: str, tmp_path: Path
) -> None:
    executor = CommandExecutor(SAY, log_dir=tmp_path / "logs")
    executor.resume_job(job_id)
    wait_until_ended(executor, job_id)
    assert [said[0] for said in output_of(tmp_path / "logs")] == [[f"--job={job_id}"]]


def test_a_job_leads_its_own_session_and_reads_nothing(tmp_path: Path) -> None:
    server = textwrap.dedent(f"""
        from milepost.worker.executors import CommandExecutor
        executor = CommandExecutor({SAY!r}, log_dir={str(tmp_path)!r})
        executor.resume_job("etl")
        child = executor._children.get("etl")
        assert child is None or child.is_reaped.wait(30)
    """)
    subprocess.run([sys.executable, "-c", server], input=b"typed here", check=True)
    assert output_of(tmp_path) == [[["--job=etl"], True, ""]]


@pytest.mark.parametrize("job_id", ODD_IDS)
def test_no_job_id_leads_out_of_the_log_folder(job_id: str, tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b" / "logs"
    executor = CommandExecutor(["true"], log_dir=inside)
    executor.resume_job(job_id)
    wait_until_ended(executor, job_id)
    files = {path for path in tmp_path.rglob("*") if not path.is_dir()}
    assert len(files) == 2
    assert {path.parent for path in files} == {inside}


def test_logs_are_for_their_owner_only_and_never_follow_a_link(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    executor = CommandExecutor(["true"], log_dir=logs)
    executor.resume_job("etl")
    wait_until_ended(executor, "etl")
    assert logs.stat().st_mode & 0o777 == 0o700
    assert (logs / "etl.log").stat().st_mode & 0o777 == 0o600
    (logs / "other.log").symlink_to(tmp_path / "stolen")
    with pytest.raises(OSError, match="other"):
        executor.resume_job("other")
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("job_id", ["", "a\0b", "a\nb", "x" * 513, "\ud800"])
def test_an_id_that_no_job_can_have_is_refused(job_id: str, tmp_path: Path) -> None:
    executor = CommandExecutor(["true"], log_dir=tmp_path)
    with pytest.raises(InvalidArgument):
        executor.resume_job(job_id)
    with pytest.raises(InvalidArgument):
        executor.is_running(job_id)


def test_a_job_that_still_runs_is_not_started_twice(
    gate: Gate, running: Running
) -> None:
    executor = running(gate.command)
    assert not executor.is_running("etl")
    executor.resume_job("etl")
    alive = gate.wait_until_up()
    assert executor.is_running("etl")
    with pytest.raises(JobStillRunning, match="'etl'"):
        executor.resume_job("etl")
    gate.let_go()
    assert os.read(alive, 1) == b""
    wait_until_ended(executor, "etl")
    assert not executor.is_running("etl")
    os.close(alive)


def test_a_job_that_closes_all_it_inherited_is_still_known(
    gate: Gate, running: Running
) -> None:
    close_all = "import os; os.closerange(3, 4096); os.execvp('sh', {!r})"
    command = [sys.executable, "-c", close_all.format(gate.command)]
    executor = running(command)
    executor.resume_job("etl")
    os.close(gate.wait_until_up())
    assert executor.is_running("etl")
    with pytest.raises(JobStillRunning):
        executor.resume_job("etl")


def test_of_two_threads_that_resume_one_job_one_starts_it(
    gate: Gate, running: Running
) -> None:
    executor = running(gate.command)

    def resume(_: int) -> str:
        try:
            executor.resume_job("etl")
        except JobStillRunning:
            return "refused"
        return "started"

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(resume, range(4)))
    assert answers == ["refused", "refused", "refused", "started"]


def test_a_job_outlives_its_server_and_the_next_server_sees_it(
    gate: Gate, tmp_path: Path, running: Running
) -> None:
    server = textwrap.dedent(f"""
        import os
        from milepost.worker.executors import CommandExecutor
        CommandExecutor({gate.command!r}, log_dir={str(tmp_path)!r}).resume_job("etl")
        os._exit(9)
    """)
    code = subprocess.run([sys.executable, "-c", server], check=False).returncode
    assert code == 9
    alive = gate.wait_until_up()
    after = running(["true"])
    assert after.is_running("etl")
    with pytest.raises(JobStillRunning):
        after.resume_job("etl")
    gate.let_go()
    assert os.read(alive, 1) == b""
    os.close(alive)


def test_asking_whether_a_job_runs_never_looks_like_the_job(tmp_path: Path) -> None:
    executor = CommandExecutor(["true"], log_dir=tmp_path)
    executor.resume_job("etl")
    wait_until_ended(executor, "etl")
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: executor.is_running("etl"), range(400)))
    assert answers == {False}


def test_a_second_run_adds_to_the_log_of_the_first(tmp_path: Path) -> None:
    executor = CommandExecutor(["echo", "{job_id}"], log_dir=tmp_path)
    for _ in range(2):
        executor.resume_job("etl")
        wait_until_ended(executor, "etl")
    assert (tmp_path / "etl.log").read_text() == "etl\netl\n"


def test_a_command_that_cannot_start_leaves_the_job_free(tmp_path: Path) -> None:
    executor = CommandExecutor(["no-such-program-here"], log_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="no-such-program-here"):
            executor.resume_job("etl")
    assert not executor.is_running("etl")


def test_an_ended_job_leaves_no_zombie(tmp_path: Path) -> None:
    executor = CommandExecutor(["true"], log_dir=tmp_path)
    process_id = executor.resume_job("etl")
    wait_until_ended(executor, "etl")
    assert executor._children == {}
    with pytest.raises(ChildProcessError):
        os.waitpid(process_id, os.WNOHANG)


@pytest.mark.parametrize(
    "script",
    [
        "exec 3>{alive}; echo up >&3; exec sleep 600",
        "exec 3>{alive}; trap '' TERM; echo up >&3; while :; do sleep 600; done",
        "exec 3>{alive}; (trap '' TERM; echo up >&3; sleep 600; sleep 600) & wait",
    ],
    ids=["plain", "deaf to SIGTERM", "deaf grandchild"],
)
def test_stopping_ends_the_whole_group(script: str, gate: Gate, tmp_path: Path) -> None:
    command = ["sh", "-c", script.format(alive=gate.alive)]
    executor = CommandExecutor(command, log_dir=tmp_path)
    executor.resume_job("etl")
    alive = gate.wait_until_up()
    executor.stop_all(0.2)
    # The end of the pipe: nobody in the group holds it any more.
    assert os.read(alive, 1) == b""
    os.close(alive)
    assert not executor.is_running("etl")


def test_stopping_lets_a_job_finish_its_own_way_first(
    gate: Gate, tmp_path: Path
) -> None:
    script = f"trap 'echo saved; exit' TERM; echo up >{gate.alive}; while :; do :; done"
    executor = CommandExecutor(["sh", "-c", script], log_dir=tmp_path)
    executor.resume_job("etl")
    os.close(gate.wait_until_up())
    executor.stop_all(30)
    assert (tmp_path / "etl.log").read_text() == "saved\n"


@pytest.mark.parametrize("command", [[], "python job.py", ["python", 3], ["a\0b"]])
def test_a_command_that_is_no_list_of_strings_is_refused(
    command: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ExecutorUnusable):
        CommandExecutor(command, log_dir=tmp_path)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "own_executor_here.py"
    sys.modules.pop("own_executor_here", None)


def test_an_executor_beside_the_config_file_is_found(own_module: Path) -> None:
    own_module.write_text(
        "class Mine:\n"
        "    def resume_job(self, job_id):\n"
        "        return 'resumed ' + job_id\n"
        "mine = Mine()\n"
    )
    assert load_executor("own_executor_here:mine").resume_job("etl") == "resumed etl"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nonsense", "must be written as"),
        ("module:", "must be written as"),
        ("no_such_module_here:thing", "cannot be imported"),
        ("own_executor_here:gone", "has no 'gone'"),
        ("own_executor_here:Mine", "is a class"),
        ("own_executor_here:number", "without resume_job"),
    ],
)
def test_an_executor_that_cannot_be_used_is_named(
    spec: str, says: str, own_module: Path
) -> None:
    own_module.write_text("class Mine:\n    resume_job = print\nnumber = 3\n")
    with pytest.raises(ExecutorUnusable, match=says) as caught:
        load_executor(spec)
    assert repr(spec) in str(caught.value)


def test_a_module_that_fails_while_imported_says_how(own_module: Path) -> None:
    own_module.write_text("1 / 0\n")
    with pytest.raises(ExecutorUnusable, match="ZeroDivisionError"):
        load_executor("own_executor_here:mine")
