"""Lists and the newest checkpoint, in short and in long histories."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.peers import JsonFiles, SqliteRows
from benchmarks.running import Subject, Target
from benchmarks.timing import race
from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.running import Figure, Run
    from benchmarks.timing import Times

_LATEST = Target(1000)
_PAGE = 100
_FILES_MAX = 1_000  # creating 100,000 files takes longer than all the rest


def measure(run: Run) -> Subject:
    """Time `list`, `page` and `latest` against the same reads of the peers."""
    short, long = run.pick(1_000, 200), run.pick(100_000, 2_000)
    return Subject(
        "Reading",
        "Each call checks the files first, so that it also sees the writes of other "
        "processes.  The folder's list is names and sizes; it opens no file.",
        (*_figures(run, short), *_figures(run, long)),
    )


def _figures(run: Run, count: int) -> list[Figure]:
    folder = run.new_folder(f"reading-{count}")
    source = stores.checkpoints(run, count)
    with ExitStack() as stack:
        manager = stack.enter_context(CheckpointManager(source))
        rows = stack.enter_context(SqliteRows(folder / "rows.db", is_durable=False))
        contenders: dict[str, Callable[[], object]] = {
            "ours": lambda: manager.list(stores.JOB),
            "SQLite SELECT": rows.list,
        }
        for number in range(count):
            rows.save({"done": number})
        if count <= _FILES_MAX:
            files = JsonFiles(folder, "not synced")
            for number in range(count):
                files.save({"done": number})
            contenders["folder list"] = files.list
        rounds = run.pick(max(7, 30_000 // count), 5)
        lists = race(contenders, rounds=rounds, waits=False)
        rounds = run.pick(50, 10)
        newest = race(_newest(manager, rows), rounds=rounds, calls=20, waits=False)
    return [
        *_beside(f"list of {count:,}", lists),
        *_beside(f"latest of {count:,}", newest, target=_LATEST),
        newest["page"].figure(f"first {_PAGE} of {count:,}", "µs"),
    ]


def _newest(
    manager: CheckpointManager, rows: SqliteRows
) -> dict[str, Callable[[], object]]:
    return {
        "ours": lambda: manager.latest(stores.JOB),
        "SQLite SELECT": rows.latest,
        "page": lambda: manager.page(stores.JOB, limit=_PAGE),
    }


def _beside(
    name: str, times: dict[str, Times], *, target: Target | None = None
) -> list[Figure]:
    return [
        times["ours"].figure(name, "µs", beside=(peer, found), target=target)
        for peer, found in times.items()
        if peer not in {"ours", "page"}
    ]
