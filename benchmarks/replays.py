"""Opening a journal, every line verified, against the minimum of work."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import orjson

from benchmarks import stores
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import states
from benchmarks.timing import race
from milepost import CheckpointManager
from milepost.journal.storage.files.storage import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.running import Run
    from benchmarks.timing import Times
    from milepost.journal.storage.files.file_job import FileJob

_OURS, _ALL_LINES, _EVENT_LINES = "replay", "bare", "bare, event lines only"
_RATE = Target(250_000, is_floor=True)


def measure(run: Run) -> Subject:
    """Replay journals of large states, of small ones, and of events without any."""
    figures: list[Figure] = []
    for name, folder, target in _journals(run):
        path = stores.journal_of(folder)
        events = path.read_bytes().count(b'\n{"v":') + 1
        contenders: dict[str, Callable[[], object]] = {
            _OURS: _replayer(folder, events),
            _ALL_LINES: _bare_loop(path, b"{"),
            _EVENT_LINES: _bare_loop(path, b'{"v":'),
        }
        times = race(contenders, rounds=run.pick(5, 3), waits=False)
        figures += _figures(f"{events:,} events, {name}", events, times, target)
    return Subject(
        "Verified replay",
        "A new manager opens a journal without a snapshot: file read, hash chain, "
        "checksums, index.  "
        "The peer reads the same file and does no more than `orjson.loads` and SHA-256 "
        "of each line.  Replay never decodes states, so the ratio to the event lines "
        "alone is shown too.",
        tuple(figures),
    )


def _journals(run: Run) -> list[tuple[str, Path, Target | None]]:
    found: list[tuple[str, Path, Target | None]] = [
        ("no states", stores.of_pins(run, run.pick(40_000, 2_000)), _RATE),
        ("tiny states", stores.checkpoints(run, run.pick(100_000, 2_000)), _RATE),
    ]
    for kilobytes, count in ((1, 10_000), (10, 2_000), (100, 300)):
        folder = stores.of_states(
            run._replace(folder=run.folder / f"replay-{kilobytes}"),
            run.pick(count, count // 20),
            states(kilobytes * 1024),
        )
        found.append((f"{kilobytes} KB states", folder, None))
    return found


class _NoSnapshots(FileStorage):
    """A storage whose jobs are always folded from their first event."""

    def job(self, job_id: str) -> FileJob:
        """See `Storage.job`."""
        found = super().job(job_id)
        found.snapshot = lambda _: None  # type: ignore[method-assign]
        found.keep_snapshot = lambda *_: None  # type: ignore[method-assign]
        return found


def _replayer(folder: Path, events: int) -> Callable[[], CheckpointManager]:
    def replay() -> CheckpointManager:
        manager = CheckpointManager(storage=_NoSnapshots(folder))
        assert manager.seq(stores.JOB) == events
        return manager

    return replay


def _bare_loop(path: Path, first_bytes: bytes) -> Callable[[], None]:
    def loop() -> None:
        loads, sha256 = orjson.loads, hashlib.sha256
        for line in path.read_bytes().split(b"\n"):
            if line.startswith(first_bytes):
                sha256(line).digest()
                loads(line)

    return loop


def _figures(
    name: str, events: int, times: dict[str, Times], target: Target | None
) -> list[Figure]:
    ours = times[_OURS]
    bare = events / times[_ALL_LINES].p50
    why = f"loads + SHA-256 of the lines alone: {bare:,.0f} events/s"
    return [
        ours.figure(
            f"{name}: an event",
            "µs",
            beside=("loads + SHA-256, all lines", times[_ALL_LINES]),
            parts=events,
            target=Target(2, of="ratio"),
            why=why,
        ),
        ours.figure(
            f"{name}: an event",
            "µs",
            beside=("loads + SHA-256, event lines", times[_EVENT_LINES]),
            parts=events,
        ),
        Figure(f"{name}: rate", events / ours.p50, "events/s", target=target, why=why),
    ]
