"""The demo keeps its promises, says so when it doesn't, and leaves nothing running."""

from __future__ import annotations

import contextlib
import http.client
import os
import pty
import re
import secrets
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo import checks, history, job
from milepost import CheckpointManager, MemoryStorage
from milepost.api import create_app
from tests.support.client import serving
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROOT = Path(__file__).parents[2]
LIBRARY = Path(sysconfig.get_path("stdlib"))
# The second half must last for long enough to be killed in.
SHORT = ("--limit=600", "--every=40")
PROMISES = 7


class Demo:
    """A demo in a process of its own, and all that it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Every process that it starts inherits this, which is how we find them.
        self._mark = f"TEST_DEMO={secrets.token_hex(8)}"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *options: str, **more: Any) -> subprocess.Popen[str]:
        name, _, value = self._mark.partition("=")
        hostile = {
            "MILEPOST_STORE_ROOT": "/nowhere",
            "http_proxy": "http://127.0.0.1:9",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "demo", f"--folder={self.folder}", *options],
            cwd=ROOT,
            env={**os.environ, **hostile, name: value},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
            text=True,
        )
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)

    def run(self, *options: str) -> tuple[int, str, str]:
        process = self.start(*options)
        out, err = process.communicate(timeout=110)
        return process.returncode, out, err

    def left_behind(self) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text())
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path / "demo data")
    yield demo
    demo.stop()
    assert demo.left_behind() == []


@pytest.mark.slow
def test_without_a_terminal_every_check_holds_and_the_demo_leaves(demo: Demo) -> None:
    status, out, err = demo.run(*SHORT)
    assert (status, err) == (0, ""), out
    lines = out.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == PROMISES
    for promised in (
        r"killed +process \d+ ended by SIGKILL",
        r"last +checkpoint counted-\S+ of \S+ UTC holds \d+ of 600 files",
        r"restored +checkpoint counted-\S+ is now current .*; the job was resumed",
        r"retention +\d+ removed by rule:stdlib-\*: \dth newest; keep_last = 3.*",
        r" \d+ +\S+ +worker:cleanup +removed #2.* rule:stdlib-\*: \dth newest; .*",
        r" \d+ +\S+ +cli:\S+ +pinned #\d+ +equals the uninterrupted run *",
        r"ok +its result equals .* run: \d+,\d+ bytes, sha256 .*",
        r" +\S+/milepost log stdlib-census --reverse --store .*",
    ):
        assert any(re.fullmatch(promised, line) for line in lines), (promised, out)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_result_that_differs_is_told_and_exits_1(demo: Demo, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for number, name in enumerate(job.find_files(LIBRARY, 600)):
        (library / f"m{number:04}.py").symlink_to(LIBRARY / name)
    # Reads differently in every process.
    (library / "m0000.py").unlink()
    (library / "m0000.py").symlink_to("/proc/self/stat")
    status, out, err = demo.run(f"--library={library}", "--every=40")
    assert (status, err) == (1, ""), out
    assert re.findall(r"^FAILED +(.*?): .* bytes", out, re.MULTILINE) == [
        "its result equals that of the uninterrupted run",
        "the state of its last checkpoint equals it too",
    ]
    assert len(re.findall(r"^ok ", out, re.MULTILINE)) == PROMISES - 2
    assert "pinned" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "server"),
        (signal.SIGTERM, "job"),
        (signal.SIGHUP, "restored"),
    ],
)
def test_a_signal_at_any_time_leaves_no_process(
    demo: Demo, number: signal.Signals, moment: str
) -> None:
    process = demo.start(*SHORT)
    assert process.stdout is not None
    assert any(line.startswith(moment) for line in process.stdout)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert demo.left_behind() == []
    assert process.returncode == 128 + number
    assert err == f"demo: stopped by {number.name}, nothing runs any more\n"


@pytest.mark.slow
def test_on_a_terminal_the_server_stays_up_until_ctrl_c(demo: Demo) -> None:
    ours, theirs = pty.openpty()
    process = demo.start(*SHORT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        shown = b""
        with contextlib.suppress(OSError):  # what a terminal says at its end
            while b"until Ctrl-C" not in shown:
                shown += terminal.read(65536)
        found = re.search(rb"up at.* http://([0-9.:]+) until", shown)
        assert found, shown
        server = http.client.HTTPConnection(found[1].decode(), timeout=30)
        with contextlib.closing(server):
            server.request("GET", "/healthz")
            assert server.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            while terminal.read(65536):
                pass
        assert process.wait(60) == 0


def test_a_folder_with_other_files_is_left_alone(demo: Demo) -> None:
    demo.folder.mkdir()
    (demo.folder / "thesis.txt").write_text("mine")
    status, out, err = demo.run(*SHORT)
    assert (status, out) == (1, "")
    assert err == f"demo: {demo.folder} is not empty; name another with --folder\n"
    assert [path.name for path in demo.folder.iterdir()] == ["thesis.txt"]


def test_a_second_demo_does_not_empty_the_folder_of_a_first(demo: Demo) -> None:
    process = demo.start(*SHORT)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("library")
    status, _, err = demo.run(*SHORT)
    assert status == 1
    assert err.startswith(f"demo: a demo, or a server of one, runs in {demo.folder}")


def test_what_a_killed_demo_left_running_is_named_with_the_way_to_end_it(
    demo: Demo,
) -> None:
    process = demo.start(*SHORT)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("job"):
        pass
    process.kill()
    process.communicate()
    _, _, err = demo.run(*SHORT)
    left = re.search(r"\(to end it: kill ([0-9 ]+)\)\n$", err)
    assert left
    for number in left[1].split():
        os.kill(int(number), signal.SIGTERM)
    eventually(lambda: demo.left_behind() == [])


def test_too_few_files_are_no_story(demo: Demo) -> None:
    status, _, err = demo.run("--limit=30", "--every=10")
    assert status == 1
    assert err.endswith("make 4 checkpoints; the demo needs 5\n")


# -- the job ---------------------------------------------------------------------------


@pytest.fixture
def manager() -> Iterator[CheckpointManager]:
    with CheckpointManager(storage=MemoryStorage()) as manager:
        yield manager


def run_job(app: ASGIApp, out: Path, *options: str) -> int:
    with serving(app) as port:
        url = f"http://127.0.0.1:{port}"
        return job.main(["--job=j", f"--url={url}", f"--out={out}", *options])


def test_a_job_goes_on_from_the_current_checkpoint_even_if_there_are_newer_ones(
    manager: CheckpointManager, tmp_path: Path
) -> None:
    app, out = create_app(manager), tmp_path / "out.json"
    assert run_job(app, out, "--limit=40", "--every=10") == 0
    whole = out.read_bytes()
    second = manager.list("j")[1]
    manager.restore("j", second.checkpoint_id)
    assert run_job(app, out, "--limit=40", "--every=10") == 0
    current = manager.current("j")
    assert current is not None
    assert current.metadata == {"files": 40, "of": 40, "counted": 20, "is_final": True}
    assert out.read_bytes() == whole


def test_an_answer_that_got_lost_saves_nothing_twice(
    manager: CheckpointManager, tmp_path: Path
) -> None:
    app = create_app(manager)
    lost = []

    async def losing(scope: Scope, receive: Receive, send: Send) -> None:
        async def cut(message: Message) -> None:
            if message["type"] == "http.response.body":
                lost.append(message)
                raise ConnectionError
            await send(message)

        is_save = scope.get("method") == "POST"
        await app(scope, receive, cut if is_save and not lost else send)

    assert run_job(losing, tmp_path / "out", "--limit=20", "--every=10") == 0
    assert len(lost) == 1
    steps = [info.step_name for info in manager.list("j")]
    assert steps == ["counted-0010", "counted-0020", "result"]


def test_a_checkpoint_of_another_library_is_refused(
    manager: CheckpointManager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manager.save("j", "counted-0001", {"python": "2.7.18", "files": {"os.py": []}})
    assert run_job(create_app(manager), tmp_path / "out", "--limit=20") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "job.py: the checkpoint is of another library (Python 2.7.18"
    )
    assert len(manager.list("j")) == 1


def test_no_file_is_left_out_and_none_is_from_elsewhere(tmp_path: Path) -> None:
    for name in ("b.py", "a/c.py", "site-packages/x.py", "a/__pycache__/y.py", "z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert job.find_files(tmp_path) == ["a/c.py", "b.py"]


def test_a_file_that_is_no_python_counts_up_to_where_it_breaks(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes(b"x = 1\n(\n")
    _, lines, kinds = job.count_file(tmp_path / "x.py")
    assert lines == 2
    assert kinds["NAME"] == kinds["NUMBER"] == kinds["BROKEN"] == 1


# -- the checks ------------------------------------------------------------------------


def event(seq: int, kind: str, actor: str = "api", **data: Any) -> history.Event:
    at = f"2026-11-23T09:15:{seq:02}.000000Z"
    return {"seq": seq, "at": at, "type": kind, "actor": actor, "data": data}


def saved(seq: int, parent: int) -> history.Event:
    name = f"c{seq}"
    return event(
        seq, "checkpoint.saved", checkpoint_id=name, step_name=name, parent=parent
    )


def cleaned(seq: int, *ids: str, policy: str = "p") -> history.Event:
    about = {"name": policy, "keep_last": 1}
    removed = {
        name: f"no rule keeps it; {place}th newest; keep_last = 1"
        for place, name in enumerate(ids, start=4)
    }
    actor = history.RETENTION_ACTOR
    return event(seq, "checkpoints.cleaned", actor, removed=removed, policy=about)


RESTORED = event(3, "checkpoint.restored", checkpoint_id="c1")
REPORT = {"job_id": "j", "ok": True, "events": 3, "problem": None}


def test_every_check_holds_on_what_was_promised() -> None:
    events = [saved(1, 0), saved(2, 1), RESTORED, saved(4, 1), cleaned(5, "c1", "c2")]
    for check in (
        checks.killed_half_way(-9, 5, 10),
        checks.resumed("c1", "resumed", events),
        checks.only_the_rest(4, 6, 10),
        checks.same_bytes("", b"x", b"x"),
        checks.retained(events, ["c4"], policy="p", keep_last=1),
        checks.verified(0, {"data": {"jobs": [REPORT]}}),
    ):
        assert check.is_ok, check


@pytest.mark.parametrize(
    "check",
    [
        checks.killed_half_way(0, 5, 10),
        checks.killed_half_way(-15, 5, 10),
        checks.killed_half_way(-9, 0, 10),
        checks.killed_half_way(-9, 10, 10),
        checks.resumed("c1", "restored", [saved(1, 0), RESTORED, saved(4, 1)]),
        checks.resumed("c1", "resumed", [saved(1, 0), RESTORED, saved(4, 0)]),
        checks.resumed("c1", "resumed", [saved(1, 0), RESTORED]),
        checks.only_the_rest(10, 6, 10),
        checks.same_bytes("", b"xy", b"xz"),
        checks.same_bytes("", b"x", b"xz"),
        checks.retained([saved(1, 0)], ["c1"], policy="p", keep_last=1),
        checks.retained(
            [saved(1, 0), saved(2, 1), cleaned(3, "c1", policy="other")],
            ["c2"],
            policy="p",
            keep_last=1,
        ),
        checks.retained(
            [saved(1, 0), saved(2, 1), cleaned(3, "c2")],
            ["c1"],
            policy="p",
            keep_last=1,
        ),
        checks.retained(
            [saved(1, 0), saved(2, 1), saved(3, 2), cleaned(4, "c1")],
            ["c2", "c3"],
            policy="p",
            keep_last=1,
        ),
        checks.verified(7, {"data": {"jobs": [REPORT]}}),
        checks.verified(0, {"data": {"jobs": []}}),
        checks.verified(
            7,
            {"data": {"jobs": [{**REPORT, "ok": False, "problem": {"detail": "m"}}]}},
        ),
        checks.verified(1, {"data": None, "error": {"detail": "no store"}}),
    ],
)
def test_every_check_fails_when_what_it_compares_is_wrong(check: checks.Check) -> None:
    assert not check.is_ok


def test_a_difference_is_told_by_its_place() -> None:
    assert checks.same_bytes("", b"axc", b"abc").compared == (
        "3 and 3 bytes, different from byte 1 on"
    )
    assert checks.same_bytes("", b"a", b"abc").compared == (
        "1 and 3 bytes, different from byte 1 on"
    )


def test_the_history_tells_who_what_when_and_why() -> None:
    pinned = event(6, "checkpoint.pinned", "cli:me", checkpoint_id="c4", reason="ok")
    events = [saved(1, 0), saved(2, 1), RESTORED, saved(4, 1), cleaned(5, "c2", "c1")]
    assert history.rows([*events, pinned]) == [
        ("1", "09:15:01", "api", "saved c1", "starts from nothing"),
        ("2", "09:15:02", "api", "saved c2", "goes on from #1"),
        ("3", "09:15:03", "api", "restored #1", "to resume the job from there"),
        ("4", "09:15:04", "api", "saved c4", "goes on from #1"),
        (
            "5",
            "09:15:05",
            "worker:cleanup",
            "removed #1, #2",
            "p: 4th newest; keep_last = 1 (and so on)",
        ),
        ("6", "09:15:06", "cli:me", "pinned #4", "ok"),
    ]
