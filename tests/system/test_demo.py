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

from demo import report
from demo.job import find_files
from milepost import CheckpointManager, MemoryStorage
from milepost.api import create_app
from tests.support.client import serving
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

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
def test_a_demo_names_what_a_killed_one_left_running_and_runs_over_its_leftovers(
    demo: Demo,
) -> None:
    process = demo.start(*SHORT)
    assert process.stdout is not None
    assert any(line.startswith("job ") for line in process.stdout)
    process.kill()
    process.communicate()
    _, _, err = demo.run(*SHORT)
    left = re.search(r"runs in .* \(to end it: kill ([0-9 ]+)\)\n$", err)
    assert left
    for number in left[1].split():
        os.kill(int(number), signal.SIGTERM)
    eventually(lambda: demo.left_behind() == [])

    status, out, err = demo.run(*SHORT)

    assert (status, err) == (0, ""), out
    lines = out.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == PROMISES
    for promised in (
        r"killed +process \d+ ended by SIGKILL",
        r"last +checkpoint counted-\S+ of \S+ UTC holds \d+ of 600 files",
        r"restored +checkpoint counted-\S+ is now current .*; the job was resumed",
        r"retention +\d+ removed by rule:stdlib-\*: \dth newest; keep_last = 3.*",
        r" \d+ +\S+ +api +saved counted-\d+ +goes on from #\d+ *",
        r" \d+ +\S+ +worker:cleanup +removed #2.* rule:stdlib-\*: \dth newest; .*",
        r" \d+ +\S+ +cli:\S+ +pinned #\d+ +equals the uninterrupted run *",
        r"ok +its result equals .* run: \d+,\d+ bytes, sha256 .*",
        r" +\S+/milepost log stdlib-census --reverse --store .*",
        r"took +\d+ s; all of it is kept in .*",
    ):
        assert any(re.fullmatch(promised, line) for line in lines), (promised, out)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_result_that_differs_is_told_and_exits_1(demo: Demo, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for number, name in enumerate(find_files(LIBRARY, 600)):
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


def test_too_few_files_are_no_story(demo: Demo) -> None:
    status, _, err = demo.run("--limit=30", "--every=10")
    assert status == 1
    assert err.endswith("make 4 checkpoints; the demo needs 5\n")


def run_job(url: str, out: Path) -> subprocess.CompletedProcess[str]:
    options = ("--job=j", f"--url={url}", f"--out={out}", "--limit=40", "--every=10")
    return subprocess.run(
        [sys.executable, ROOT / "demo" / "job.py", *options],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_job_goes_on_from_the_current_checkpoint_even_if_there_are_newer_ones(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.json"
    with CheckpointManager(storage=MemoryStorage()) as manager:
        with serving(create_app(manager)) as port:
            assert run_job(f"http://127.0.0.1:{port}", out).returncode == 0
            whole = out.read_bytes()
            manager.restore("j", manager.list("j")[1])
            assert run_job(f"http://127.0.0.1:{port}", out).returncode == 0
        current = manager.current("j")
        assert current is not None
        assert current.metadata == {"files": 40, "counted": 20, "is_final": True}
        assert out.read_bytes() == whole
    failed = run_job("http://127.0.0.1:9", out)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert re.fullmatch(r"job\.py: .*\n", failed.stderr)


# -- the checks ------------------------------------------------------------------------


def event(seq: int, kind: str, actor: str = "api", **data: Any) -> report.Event:
    return {"seq": seq, "type": kind, "actor": actor, "data": data}


def saved(seq: int, parent: int) -> report.Event:
    return event(seq, "checkpoint.saved", checkpoint_id=f"c{seq}", parent=parent)


def cleaned(seq: int, *ids: str, policy: str = "p") -> report.Event:
    removed = dict.fromkeys(ids, "no rule keeps it; 4th newest; keep_last = 1")
    about = {"removed": removed, "policy": {"name": policy}}
    return event(seq, "checkpoints.cleaned", "worker:cleanup", **about)


TWO = [saved(1, 0), saved(2, 1)]
RESTORED = [*TWO, event(3, "checkpoint.restored", checkpoint_id="c1")]
REPORT = {"job_id": "j", "ok": True, "events": 3, "problem": None}
DAMAGED = {**REPORT, "ok": False, "problem": {"detail": "at line 3"}}


@pytest.mark.parametrize(
    ("is_ok", "check"),
    [
        (True, report.killed_half_way(-9, 5, 10)),
        (False, report.killed_half_way(-15, 5, 10)),
        (False, report.killed_half_way(-9, 0, 10)),
        (False, report.killed_half_way(-9, 10, 10)),
        (True, report.resumed([*RESTORED, saved(4, 1)], "c1", "resumed")),
        (False, report.resumed([*RESTORED, saved(4, 2)], "c1", "resumed")),
        (False, report.resumed([*RESTORED, saved(4, 1)], "c1", "restored")),
        (False, report.resumed(RESTORED, "c1", "resumed")),
        (True, report.only_the_rest(4, 4)),
        (False, report.only_the_rest(10, 4)),
        (True, report.same("it", b"x", b"x")),
        (False, report.same("it", b"x", b"xz")),
        (True, report.retained([*TWO, cleaned(3, "c1")], ["c2"], "p", 1)),
        (False, report.retained([*TWO, cleaned(3, "c1")], ["c2"], "q", 1)),
        (False, report.retained([*TWO, cleaned(3, "c2")], ["c1"], "p", 1)),
        (False, report.retained([*TWO, cleaned(3, "c1")], ["c1", "c2"], "p", 1)),
        (False, report.retained([*TWO, saved(3, 2), cleaned(4, "c1")], ["c3"], "p", 1)),
        (False, report.retained([saved(1, 0)], ["c1"], "p", 1)),
        (True, report.verified(0, {"data": {"jobs": [REPORT]}, "error": None})),
        (False, report.verified(0, {"data": {"jobs": []}, "error": None})),
        (False, report.verified(7, {"data": {"jobs": [REPORT]}, "error": None})),
        (False, report.verified(0, {"data": {"jobs": [DAMAGED]}, "error": None})),
        (False, report.verified(1, {"data": None, "error": {"detail": "no store"}})),
    ],
)
def test_each_check_holds_for_what_was_promised_and_nothing_else(
    check: report.Check, is_ok: bool
) -> None:
    assert check[0] is is_ok, check[1]


def test_a_difference_is_shown_by_its_place() -> None:
    _, text = report.same("it", b"axc", b"abc")
    assert text == "it: 3 and 3 bytes, different from byte 1 on"
