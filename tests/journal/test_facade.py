"""`CheckpointManager` is one class of short methods, and a save takes a known path."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import milepost
from milepost import CheckpointManager
from milepost.journal import errors, manager
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import Fault, FaultyDisk

ROOT = Path(__file__).parents[2]

# The functions between a caller and the bytes in the file, the outermost first.
SAVE = [
    "CheckpointManager.save",
    "Store.write",
    "Job.commit_alone",
    "Job._commit_alone",
    "Job._append",
    "HeldFileJob.append",
    "PosixFile.append",
]


def stack() -> list[str]:
    """Return the functions of the library that are running, the outermost first."""
    frame, found = inspect.currentframe(), list[str]()
    while frame is not None:
        if frame.f_globals["__name__"].startswith("milepost.journal."):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return found[::-1]


def test_a_save_takes_these_functions_from_the_call_to_the_write(
    tmp_path: Path,
) -> None:
    disk, seen = FaultyDisk(tmp_path), list[list[str]]()
    with CheckpointManager(storage=FileStorage(tmp_path, disk=disk)) as checkpoints:
        checkpoints.save("job", "s", {})
        disk.set(Fault("append", action=lambda: seen.append(stack())))
        checkpoints.save("job", "s", {})
    (found,) = seen
    inside = found[found.index("CheckpointManager.save") :]
    assert inside == SAVE[:-1]  # the disk of this test stands for the last


def test_architecture_lists_the_functions_of_a_save() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert (
        re.findall(r"^\| `([\w.]+)` \| [^|]+ \|$", page, re.MULTILINE)[: len(SAVE)]
        == SAVE
    )


def test_the_manager_is_one_class() -> None:
    assert CheckpointManager.__mro__ == (CheckpointManager, object)


def test_every_method_of_the_manager_is_short() -> None:
    (cls,) = (
        node
        for node in ast.parse(inspect.getsource(manager)).body
        if isinstance(node, ast.ClassDef)
    )
    long = {
        method.name: len(method.body)
        for method in cls.body
        if isinstance(method, ast.FunctionDef) and len(method.body) > 8
    }
    assert long.keys() == {"__init__"}


def test_help_refers_to_no_class_that_is_not_exported() -> None:
    known = {*milepost.__all__, *vars(errors), *vars(CheckpointManager)}
    texts = [
        inspect.getdoc(member) or ""
        for name, member in vars(CheckpointManager).items()
        if not name.startswith("_")
    ]
    for text in (inspect.getdoc(CheckpointManager) or "", *texts):
        for name in re.findall(r"(?<!`)`([A-Z]\w+)", text):
            assert name in known, text
