"""Real system calls that fail, and real kills, at every place: injected by strace.

The disk of tests/support/faults.py fails where the package asks it; here nothing of
ours stands between the package and the kernel.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from milepost import CheckpointManager, journal
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import Call, FaultyDisk, journal_of, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tally import Tally

JOB = "etl"
SLOW = pytest.mark.slow
# What a process does while a call fails under it, and what it was answered.
WORK = """
import sys
from milepost import CheckpointManager
from milepost.journal.errors import NoSpace, ReadOnlyStore, StorageFailed

manager = CheckpointManager(sys.argv[1], trash_seconds=0, codec="json")

def first():
    return manager.list("etl")[0].checkpoint_id

for name, work in {
    "save one": lambda: manager.save("etl", "one", {}),
    "save two": lambda: manager.save("etl", "two", {}),
    "delete": lambda: manager.list("etl")[1:] and manager.delete("etl", first()),
    "compact": lambda: manager.compact("etl"),
    "save three": lambda: manager.save("etl", "three", {}),
}.items():
    try:
        work()
    except (NoSpace, ReadOnlyStore):
        print("refused", name, flush=True)
    except StorageFailed:
        print("unknown", name, flush=True)
    else:
        print("done", name, flush=True)
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-c", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(journal.__file__).parents[2])}


def tracing(root: Path, calls: str, effect: str, log: Path) -> list[str]:
    """Return the command before the command: who traces it, and what goes wrong."""
    names = ("journals/etl.jsonl", "journals/etl.copy", "heads/etl", "salvage/etl.tmp")
    # Standard output is written with the same call, and must not fail.
    paths = [part for name in names for part in ("-P", str(root / name))]
    only = paths if calls == "write" else []
    return [
        *("strace", "-f", "-o", str(log), *only, "-e", f"trace={calls}"),
        *("-e", f"inject={calls}:{effect}"),
    ]


@cache
def what_is_missing() -> str:
    """Return why nothing can be injected here; "" if it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    traced = ["strace", "-o", "/dev/null", "-e", "inject=getcwd:error=EIO", "true"]
    done = subprocess.run(traced, capture_output=True, check=False)
    return "" if done.returncode == 0 else "this kernel lets nobody trace a process"


pytestmark = pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())


class Outcome(NamedTuple):
    """What the process was answered, and whether the fault struck."""

    answers: dict[str, str]  # what was asked for: done, refused or unknown
    has_fired: bool


def strike(root: Path, calls: str, effect: str) -> Outcome:
    """Run the work with one fault injected."""
    log = root.with_suffix(".strace")
    done = subprocess.run(
        [*tracing(root, calls, effect, log), *command(WORK, str(root))],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    is_killed = done.returncode == -signal.SIGKILL
    assert is_killed or done.returncode == 0, done.stderr
    answers = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return Outcome(
        {asked: answer for answer, asked in answers},
        is_killed or "(INJECTED)" in log.read_text(),
    )


def wrong(root: Path, answers: dict[str, str]) -> Iterator[str]:
    """Yield what is not as the answers promised; the job has to go on."""
    with CheckpointManager(root) as manager:
        # The shown, before anything is written; and what another write makes of it.
        for is_later in (False, True):
            if is_later:
                manager.save(JOB, "after", {})
            there = {info.step_name for info in manager.list(JOB)}
            for name in ("one", "two", "three"):
                answer = answers.get(f"save {name}")
                is_deleted = name == "one" and answers.get("delete") != "refused"
                if answer == "done" and name not in there and not is_deleted:
                    yield f"{name} was acknowledged"  # I1
                if answer == "refused" and name in there:
                    yield f"{name} was refused"
            if answers.get("delete") == "done" and "one" in there and "two" in there:
                yield "one was deleted"
        seqs = [event["seq"] for event in manager.history(JOB)]
        if seqs != [*range(1, len(seqs) + 1)]:
            yield f"seqs {seqs}"  # I3
        if not manager.verify(JOB, deep=True)[0].ok:
            yield "it does not verify"


RENAMES = "?rename,?renameat,?renameat2"
UNLINKS = "?unlink,?unlinkat"
FAULTS = [
    ("fdatasync", "error=EIO"),
    pytest.param("write", "error=ENOSPC", marks=SLOW),
    pytest.param("write", "signal=SIGKILL", marks=SLOW),
    pytest.param("write", "error=EIO", marks=SLOW),
    pytest.param("pwrite64", "error=ENOSPC", marks=SLOW),
    pytest.param("pwrite64", "error=EIO", marks=SLOW),
    pytest.param("pwrite64", "signal=SIGKILL", marks=SLOW),
    pytest.param("fdatasync", "error=ENOSPC", marks=SLOW),
    pytest.param("fdatasync", "signal=SIGKILL", marks=SLOW),
    pytest.param("fsync", "error=EIO", marks=SLOW),
    pytest.param("fsync", "signal=SIGKILL", marks=SLOW),
    pytest.param(RENAMES, "error=EIO", marks=SLOW),
    pytest.param(RENAMES, "signal=SIGKILL", marks=SLOW),
    pytest.param(UNLINKS, "signal=SIGKILL", marks=SLOW),
    pytest.param("flock", "signal=SIGKILL", marks=SLOW),
]


@pytest.mark.parametrize(("calls", "effect"), FAULTS)
def test_whichever_real_call_fails_or_kills_nothing_acknowledged_is_lost(
    tmp_path: Path, calls: str, effect: str, tally: Tally
) -> None:
    found = {}
    for nth in count(1):
        root = tmp_path / str(nth)
        outcome = strike(root, calls, f"{effect}:when={nth}")
        found[nth] = [*wrong(root, outcome.answers)]
        if not outcome.has_fired:
            break
    assert not {nth: problems for nth, problems in found.items() if problems}
    assert nth > 1, "the fault never struck"
    assert {*outcome.answers.values()} == {"done"}  # without a fault, all goes well
    tally("faults of real system calls", nth - 1)


# A process whose sync fails, and that lives on.
UNLUCKY = """
import sys
from milepost import CheckpointManager
from milepost.journal.errors import StorageFailed

manager = CheckpointManager(sys.argv[1])
try:
    manager.save("etl", "two", {})
except StorageFailed:
    print("unknown", flush=True)
sys.stdin.readline()
manager.save("etl", "four", {})
print("saved", flush=True)
"""


def test_a_sync_that_really_fails_is_poison_for_every_process(tmp_path: Path) -> None:
    root, log = tmp_path / "store", tmp_path / "log"
    disk = FaultyDisk(root)
    other = CheckpointManager(storage=FileStorage(root, disk=disk))
    other.save(JOB, "one", {})
    inode = journal_of(root, JOB).stat().st_ino
    inject = tracing(root, "fdatasync", "error=EIO:when=1", log)
    with subprocess.Popen(
        [*inject, *command(UNLUCKY, str(root))],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as unlucky:
        assert unlucky.stdin is not None
        assert unlucky.stdout is not None
        assert unlucky.stdout.readline() == "unknown\n"
        assert read_head(root, JOB).is_poisoned
        disk.calls.clear()
        assert [i.step_name for i in other.list(JOB)] == ["one"]
        other.save(JOB, "three", {})
        calls = disk.of("sync", "append", "rename")
        placed = calls.index(Call("rename", "journals/etl.jsonl"))
        assert Call("sync", "journals/etl.jsonl") not in calls[:placed]  # never again
        assert journal_of(root, JOB).stat().st_ino != inode
        unlucky.stdin.write("go on\n")
        unlucky.stdin.flush()
        assert unlucky.stdout.readline() == "saved\n"
    assert [i.step_name for i in other.list(JOB)] == ["one", "three", "four"]
    assert other.verify(JOB, deep=True)[0].ok
