"""Stores to read from, built fast: nothing about how they are written is measured."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

from journal import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Any

    from benchmarks.running import Run
    from journal.packer import Codec

JOB = "orders"
STEP = "extract"


def checkpoints(run: Run, count: int) -> Path:
    """Return a store whose one job has `count` small checkpoints; made once a run."""
    folder = run.folder / f"small-{count}"
    if not folder.exists():
        fill(folder, ({"done": number} for number in range(count)))
    return folder


def of_states(run: Run, count: int, states: list[dict[str, Any]]) -> Path:
    """Return a new store whose one job has `count` checkpoints of these states."""
    folder = run.new_folder("large")
    fill(folder, islice(cycle(states), count))
    return folder


def of_pins(run: Run, count: int) -> Path:
    """Return a new store whose one job has `count` events, nearly all without state."""
    folder = run.new_folder("pins")
    with CheckpointManager(folder, durability="never") as manager:
        checkpoint_id = manager.save(JOB, STEP, {"done": 0})
        while (seq := manager.seq(JOB)) < count:
            (manager.unpin if seq % 2 else manager.pin)(JOB, checkpoint_id)
    return folder


def fill(
    folder: Path, states: Iterable[dict[str, Any]], *, codec: Codec = "auto"
) -> None:
    """Save every state to the store's one job, without waiting for the disk."""
    with CheckpointManager(folder, durability="never", codec=codec) as manager:
        for state in states:
            manager.save(JOB, STEP, state)


def journal_of(folder: Path) -> Path:
    """Return the journal file of the store's one job."""
    (path,) = (folder / "journals").iterdir()
    return path
