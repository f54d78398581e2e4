"""Stores to read from, built fast; their writing is not measured."""

from __future__ import annotations

import gc
import os
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from milepost import CheckpointManager
from milepost.journal.disk.disk import PosixDisk, PosixFile
from milepost.journal.storage.files.storage import FileStorage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from benchmarks.running import Run
    from milepost.journal.disk.disk import Mode
    from milepost.journal.states.packer import Codec

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
    """Return a new store whose one job has `count` events, most without a state."""
    folder = run.new_folder("pins")
    with CheckpointManager(folder, durability="never") as manager:
        checkpoint_id = manager.save(JOB, STEP, {"done": 0})
        while (seq := manager.seq(JOB)) < count:
            (manager.unpin if seq % 2 else manager.pin)(JOB, checkpoint_id)
    return folder


def many_jobs(folder: Path, jobs: int, each: int) -> None:
    """Make a store of many jobs, each of `each` small checkpoints."""
    with CheckpointManager(storage=unsynced(folder)) as manager:
        for job in range(jobs):
            for number in range(each):
                manager.save(f"job-{job:05}", STEP, {"done": number})
    os.sync()


def unsynced(folder: Path) -> FileStorage:
    """Return the storage of a folder, without any sync.

    The heads say that all writes are synced, as after durable ones; one sync of the
    machine afterwards makes that true.
    """
    storage = FileStorage(folder, disk=_UnsyncedDisk())
    storage.make_root()
    return storage


def _no_sync(*, metadata: bool = False) -> None:
    del metadata


class _UnsyncedDisk(PosixDisk):
    """The real disk, but a sync does nothing."""

    def open(
        self, path: Path, mode: Mode, *, create: bool = False, like: Path | None = None
    ) -> PosixFile:
        """See `Disk.open`."""
        file = super().open(path, mode, create=create, like=like)
        file.sync = _no_sync  # type: ignore[method-assign]  # skips the sync
        return file

    def sync_folder(self, folder: Path) -> None:
        """Do nothing."""


def resident_bytes() -> int:
    """Return the memory that this process has from the system."""
    gc.collect()
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def fill(
    folder: Path, states: Iterable[dict[str, Any]], *, codec: Codec = "auto"
) -> None:
    """Save every state to the store's one job, without waiting for the disk."""
    with CheckpointManager(storage=unsynced(folder), codec=codec) as manager:
        for state in states:
            manager.save(JOB, STEP, state)
    os.sync()


def journal_of(folder: Path) -> Path:
    """Return the journal file of the store's one job."""
    (path,) = (folder / "journals").iterdir()
    return path
