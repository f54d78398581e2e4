"""A small store, ways to spoil it, and what a look at it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost import CheckpointManager, Diagnosis
from tests.support.faults import (
    head_of,
    journal_of,
    put,
)
from tests.support.stores import files

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.storage.files.folders import Durability

JOB = "etl"


def begin(root: Path, durability: Durability = "always") -> list[str]:
    with CheckpointManager(root, durability=durability) as manager:
        return [manager.save(JOB, f"s{n}", {"n": n}) for n in range(6)]


def look(root: Path, **keywords: Any) -> Diagnosis:
    """Look as another process would; the store is the same before and after."""
    before = files(root)
    with CheckpointManager(root) as manager:
        (found,) = manager.diagnose(JOB, **keywords)
    assert files(root) == before
    return found


def change(root: Path, old: bytes, new: bytes) -> None:
    journal = journal_of(root, JOB)
    raw = journal.read_bytes()
    assert old in raw
    put(journal, raw.replace(old, new))


def cut(root: Path, missing: int) -> None:
    journal = journal_of(root, JOB)
    put(journal, journal.read_bytes()[:-missing])


def unheaded(root: Path) -> None:
    """Save two more events that the head does not know of."""
    before = head_of(root, JOB).read_bytes()
    with CheckpointManager(root) as manager:
        manager.save(JOB, "late", {"n": 6})
        manager.save(JOB, "later", {"n": 7})
    put(head_of(root, JOB), before)
