"""A rig that cuts the power of a file system under a writer, and looks what is left.

Run by `test_power_cuts` as root, in a mount namespace of its own (`unshare -m`), so
that nothing stays mounted whatever happens.  The file system lies in an image; the
kernel's own shutdown call makes it forget everything that was not on its disk yet, as a
power cut would, and the next mount replays the file system's journal.  What the writer
was answered is kept outside of it.

    power_cut.py IMAGE FOLDER MODE ROUNDS SEED

MODE is a durability, or "unsynced": a disk that says that it synced and does not.
Prints a line of JSON per round.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson

from milepost import CheckpointManager
from milepost.journal.errors import MilepostError
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import Child, FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: _IOR('X', 125, u32)
WITHOUT_FLUSHING_THE_LOG = 2
JOBS = ("etl", "agent")


class Cut(NamedTuple):
    """What a writer was answered until the power went, and what was there then."""

    answers: int
    gone: list[str]  # acknowledged, deleted neither by an answer nor perhaps
    risen: list[str]  # deleted, which was acknowledged, and there again
    unanswered: int  # there without an answer
    is_prefix: bool  # whatever is there, nothing before it is missing
    problems: list[str]  # what `verify` says


class Mounted:
    """The image, mounted; `cut` is the moment at which the power goes."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self._folder = folder

    def __enter__(self) -> Self:
        subprocess.run(["mount", "-o", "loop", self._image, self._folder], check=True)
        return self

    def cut(self) -> None:
        """Let everything that has not reached the disk be lost."""
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(fd)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self._folder], check=True)


def opened(root: Path, mode: Any) -> CheckpointManager:
    """Open the store as a job would; what is deleted may go at once."""
    if mode == "unsynced":
        storage = FileStorage(root, disk=FaultyDisk(root, syncs=False))
    else:
        storage = FileStorage(root, durability=mode, interval_seconds=0.05)
    return CheckpointManager(storage=storage, trash_seconds=0)


def write(root: Path, mode: str, tell: Callable[[Any], None]) -> None:
    """Save, delete and compact until the disk fails; tell every answer."""
    manager = opened(root, mode)
    try:
        for number in count():
            job = JOBS[number % 2]
            saved = manager.save(job, "step", {"n": number, "text": "é" * 700})
            tell(["saved", saved])
            if number % 5 == 4:  # the one before, which is not the newest
                doomed = manager.list(job)[-2].checkpoint_id
                tell(["deleting", doomed])
                manager.delete(job, doomed)
                tell(["deleted", doomed])
            if number % 40 == 39:
                manager.compact(job)
    except MilepostError:
        pass  # the power is gone


def cut_under_load(mounted: Mounted, root: Path, mode: str, after: int) -> list[Any]:
    """Return what the writer was told, the power having gone after `after` of it."""
    writer = Child(partial(write, root, mode))
    told = [writer.hear() for _ in range(after)]
    mounted.cut()
    told += writer.hear_all()  # it may have had an answer or two more
    if writer.wait() != 0:
        raise AssertionError("the writer crashed")
    return told


def look(root: Path, told: list[Any], before: set[str]) -> Cut:
    """Compare what is there with what was answered; go on writing."""
    saved = [id_ for kind, id_ in told if kind == "saved"]
    deleted = {id_ for kind, id_ in told if kind == "deleted"}
    maybe = {id_ for kind, id_ in told if kind == "deleting"}
    with CheckpointManager(root) as manager:
        there = listed(manager)
        for job in JOBS:
            manager.save(job, "after", {})
        reports = manager.verify(deep=True)
    lanes = [saved[lane::2] for lane in range(2)]  # one for each job
    left = [[id_ in there for id_ in lane if id_ not in maybe] for lane in lanes]
    return Cut(
        len(saved) + len(deleted),
        sorted({*before, *saved} - maybe - there),
        sorted(deleted & there),
        len(there - before - {*saved}),
        all(lane == sorted(lane, reverse=True) for lane in left),
        [str(report.problem) for report in reports if not report.ok],
    )


def listed(manager: CheckpointManager) -> set[str]:
    return {info.checkpoint_id for job in JOBS for info in manager.list(job)}


def rounds(image: Path, folder: Path, mode: str, seed: int) -> Iterator[Cut]:
    """Cut the power again and again, the same store going on each time."""
    dice, root, before = random.Random(seed), folder / "store", set[str]()
    while True:
        with Mounted(image, folder) as mounted:
            told = cut_under_load(mounted, root, mode, dice.randint(1, 150))
        with Mounted(image, folder):
            yield look(root, told, before)
            with CheckpointManager(root) as manager:
                before = listed(manager)


def main() -> None:
    image, folder, mode, times, seed = sys.argv[1:]
    cuts = rounds(Path(image), Path(folder), mode, int(seed))
    for _, cut in zip(range(int(times)), cuts, strict=False):
        sys.stdout.buffer.write(orjson.dumps(cut._asdict()) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
