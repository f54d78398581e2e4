"""Bytes of an event line and of a checkpoint on the disk."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import orjson

from benchmarks import stores
from benchmarks.contenders import OURS, stores_of_states
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import states

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.running import Run

_BLOCK_BYTES = 512  # the unit of st_blocks on every file system


def measure(run: Run) -> Subject:
    """Save the same states in every way, and measure the files."""
    count = run.pick(1_000, 100)
    same = states(1024, count=count)
    folder = run.new_folder("sizes")
    for name, opening in stores_of_states().items():
        with closing(opening(folder / name, is_durable=False)) as peer:
            for state in same:
                peer.save(state)
    os.sync()  # blocks are allocated when they are written, not before
    each = {p.name: _allocated_bytes(p) / count for p in folder.iterdir()}
    each["the state's JSON alone"] = 1024.0
    ours = each.pop(OURS)
    name = "disk per 1 KB checkpoint"
    disk = [
        Figure(name, ours, "bytes", None, peer, theirs, ours / theirs)
        for peer, theirs in each.items()
    ]
    return Subject(
        "Bytes",
        f"Disk is what {count:,} checkpoints occupy in allocated blocks, whole store, "
        "divided by their number.",
        (_event_line(folder / OURS), *disk),
    )


def _event_line(folder: Path) -> Figure:
    line = stores.journal_of(folder).read_bytes().splitlines()[-1]
    event = orjson.loads(line)
    ids = len(event["data"]["checkpoint_id"]) + len(event["actor"])
    return Figure(
        "event line of a plain save, without its ids",
        len(line) + 1 - ids,
        "bytes",
        target=Target(400),
    )


def _allocated_bytes(folder: Path) -> int:
    found = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(stat.st_blocks * _BLOCK_BYTES for stat in found)
