"""The rules of the house that no linter knows."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import milepost
from milepost import CheckpointManager, errors

TESTS = Path(__file__).parents[1]
TOP = TESTS.parent
PACKAGES = ("journal", "worker", "api", "milepost")
INVARIANTS = [f"I{number}" for number in range(1, 11)]
# Run in a process of its own: tells what importing and using `journal` brings along.
PROBE = """
import os, sys
read = []
real = type(os.environ).__getitem__

def spy(self, key):
    frame = sys._getframe(1)
    while frame.f_globals["__name__"] in ("os", "collections.abc", "_collections_abc"):
        frame = frame.f_back
    if frame.f_globals["__name__"].startswith("milepost."):
        read.append(str(key))
    return real(self, key)

type(os.environ).__getitem__ = spy
import json, threading
import milepost
for name in milepost.__all__:  # each is imported when it is asked for
    if name != "AsyncRun":  # whoever asks for it uses asyncio
        getattr(milepost, name)
imported = [name.removeprefix("milepost.").split(".")[0] for name in sys.modules]
threads = [threading.active_count()]
with milepost.CheckpointManager(sys.argv[1]) as manager:
    manager.restore("job", manager.save("job", "step", {}))
    threads.append(threading.active_count())
print(json.dumps({"read": read, "imported": imported, "threads": threads}))
"""
# Run in a process of its own: tells which modules reach for files, whatever is done.
SEAM = """
import collections, json, sys
from milepost import CheckpointManager
used = collections.defaultdict(set)

def spy(event, _):
    if event.split(".")[0] in ("open", "os", "fcntl", "shutil", "tempfile"):
        frame = sys._getframe(1)
        while frame and not frame.f_globals.get("__name__", "").startswith("milepost."):
            if frame.f_globals.get("__name__") == "importlib._bootstrap":
                return  # its own modules, on first use
            frame = frame.f_back
        if frame:
            used[frame.f_globals["__name__"]].add(event)

sys.addaudithook(spy)
root = sys.argv[1]
for is_torn in (False, True):
    with CheckpointManager(root, trash_seconds=0) as manager:
        saved = [manager.save("job", "step", {"n": n}) for n in range(4)]
        manager.delete("job", saved[0])
        manager.cleanup("job", keep_last=1)
        manager.compact("job")
        manager.fork("job", saved[-1], f"fork {is_torn}")
        manager.jobs(), manager.verify(deep=True), manager.history("job")
    with open(root + "/journals/job.jsonl", "ab") as journal:
        journal.write(b"torn")
print(json.dumps({name: sorted(events) for name, events in used.items()}))
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a fresh process says about using `journal` alone."""
    folder = tmp_path_factory.mktemp("probe")

    done = subprocess.run(
        [sys.executable, "-c", PROBE, folder / "store"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(TOP),
            "MILEPOST_STORE_ROOT": "elsewhere",
        },
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert not (folder / "elsewhere").exists()
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_importing_and_using_journal_starts_no_thread(probed: dict[str, Any]) -> None:
    assert probed["threads"] == [1, 1]


def test_journal_reads_nothing_from_the_environment(probed: dict[str, Any]) -> None:
    assert probed["read"] == []


@pytest.mark.parametrize(
    "name",
    [
        *("pydantic", "fastapi", "starlette", "click", "rich", "uvicorn"),
        *("apscheduler", "watchdog", "asyncio", "worker", "api"),
    ],
)
def test_importing_journal_brings_no_other_world_along(
    probed: dict[str, Any], name: str
) -> None:
    assert "orjson" in probed["imported"]
    assert name not in probed["imported"]


def test_the_file_store_reaches_files_through_its_one_seam_alone(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEAM, tmp_path / "store"],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        check=True,
    )
    used = json.loads(done.stdout)
    # Whether a job is in plain files beside the store, which are not the store's.
    assert used.pop("milepost.journal.importing.checkpoint_folder") == ["os.scandir"]
    assert used.keys() == {
        "milepost.journal.disk.disk",
        "milepost.journal.disk.ownership",
    }  # the seam's two files
    assert {"open", "os.rename", "fcntl.flock"} <= {*used["milepost.journal.disk.disk"]}
    lines = (tmp_path / "store" / "journals" / "job.jsonl").read_bytes()
    assert b'"job.compacted"' in lines
    assert b'"job.repaired"' in lines


def test_every_folder_has_a_line_on_the_map_and_no_other_has() -> None:
    tracked = subprocess.check_output(
        ["git", "ls-files", "-z", "--", *PACKAGES], cwd=TOP, text=True
    )
    folders = {
        f"{folder}/"
        for name in tracked.split("\0")[:-1]
        for folder in Path(name).parents
        if folder != Path()
    }
    page = (TOP / "ARCHITECTURE.md").read_text("utf-8")
    lines = re.findall(r"^\| `([\w/]+/)` \| \w", page, re.MULTILINE)
    assert sorted(lines) == sorted(folders)


def test_every_module_on_the_map_is_there() -> None:
    page = (TOP / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/]+\.py)`", page))
    assert "worker/watcher.py" in named
    assert [name for name in named if not (TOP / name).exists()] == []


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_every_invariant_is_cited_by_a_test_that_guards_it(invariant: str) -> None:
    others = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    cited = re.compile(rf"#.*\b{invariant}\b")
    assert any(cited.search(path.read_text("utf-8")) for path in others)


def test_every_test_that_a_page_names_is_there() -> None:
    pages = [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")]
    named = {
        name
        for page in pages
        for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
    }
    sources = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    there = set(re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE))
    assert named
    assert named <= there


def test_no_test_module_imports_another_one_or_a_conftest() -> None:
    taken = re.compile(
        r"^\s*(?:from|import) tests\b.*\b(?:test_\w+|conftest)\b", re.MULTILINE
    )
    for path in TESTS.rglob("*.py"):
        assert not taken.search(path.read_text("utf-8")), path
    assert {path.name for path in TESTS.glob("*.py")} == {"__init__.py", "conftest.py"}


def test_every_public_call_says_what_it_does() -> None:
    for name, member in inspect.getmembers(CheckpointManager, callable):
        if not name.startswith("_"):
            text = inspect.getdoc(member) or ""
            assert text.partition("\n")[0].endswith((".", "?")), name


def test_every_error_has_a_code_of_its_own_and_says_when_it_is_raised() -> None:
    found = [
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.MilepostError)
    ]
    assert len({error.code for error in found}) == len(found)
    for error in found:
        assert error.__doc__, error
        assert re.fullmatch("[a-z_]+", error.code), error


def test_what_the_package_exports_is_there_and_sorted() -> None:
    assert milepost.__all__ == sorted(milepost.__all__)
    assert all(hasattr(milepost, name) for name in milepost.__all__)


def test_the_event_of_a_plain_save_takes_less_than_400_bytes_besides_its_ids(
    tmp_path: Path,
) -> None:
    moment = datetime(2026, 11, 23, 5, 0, 0, 123456, tzinfo=UTC)
    with CheckpointManager(tmp_path, actor="lib:etl@host", clock=lambda: moment) as m:
        for _ in range(2):
            checkpoint_id = m.save("job", "transform", {"rows": "x" * 10_000})
        (event,) = m.history("job", reverse=True, limit=1)
    line = (tmp_path / "journals" / "job.jsonl").read_bytes().split(b"\n")[-2]
    assert json.loads(line) == event
    assert len(line) + 1 - len(checkpoint_id) < 400
