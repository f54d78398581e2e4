"""Bytes of an event line and of a checkpoint on the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import orjson

from benchmarks import stores
from benchmarks.peers import JsonFiles, SqliteRows
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
    stores.fill(folder / "milepost", same)
    files = JsonFiles(_made(folder / "files"), "not synced")
    with SqliteRows(_made(folder / "rows") / "rows.db", is_durable=False) as rows:
        for state in same:
            files.save(state)
            rows.save(state)
    ours = _per_checkpoint(folder / "milepost", count)
    disk = [
        Figure(
            f"disk per 1 KB checkpoint, against {peer}",
            ours,
            "bytes",
            None,
            peer,
            p,
            ours / p,
        )
        for peer, p in (
            ("the state's JSON alone", 1024.0),
            ("JSON files", _per_checkpoint(folder / "files", count)),
            ("SQLite", _per_checkpoint(folder / "rows", count)),
        )
    ]
    return Subject(
        "Bytes",
        f"Disk is what {count:,} checkpoints occupy in allocated blocks, whole store, "
        "divided by their number.",
        (_event_line(folder / "milepost"), *disk),
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


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


def _per_checkpoint(folder: Path, count: int) -> float:
    os.sync()  # blocks are allocated when they are written, not before
    found = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(stat.st_blocks * _BLOCK_BYTES for stat in found) / count
