"""How long reads of threads take."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from benchmarks.langgraph.savers import MEMORY, OURS, SQLITE, config_of, opened
from benchmarks.langgraph.sizes import fill_threads
from benchmarks.running import Subject, Target
from benchmarks.timing import figures, race, race_from_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.running import Figure, Run


def measure(run: Run) -> Subject:
    """Read from stores of many threads."""
    threads, rounds = run.pick(1000, 20), run.pick(30, 3)
    folder = run.new_folder("reads")
    name = f"{threads:,} threads x 20"
    with ExitStack() as stack:
        savers = {}
        for saver_name in (OURS, SQLITE, MEMORY):
            where = folder / saver_name
            if saver_name != MEMORY:
                with opened(saver_name, where, is_durable=False) as saver:
                    fill_threads(saver, threads)
            savers[saver_name] = stack.enter_context(opened(saver_name, where))
        fill_threads(savers[MEMORY], threads)
        middle = config_of(f"thread-{threads // 2:04}")
        found: list[Figure] = []
        for what, call, bound, calls in (
            ("get the latest", partial(_latest, middle), 2.0, 20),
            ("list the 10 latest of a thread", partial(_ten, middle), 1.0, 10),
            ("list(None, limit=10)", partial(_ten, None), None, 1),
            ("all thread ids", _thread_ids, 0.01, 1),
        ):
            times = race(
                {each: partial(call, saver) for each, saver in savers.items()},
                rounds=rounds,
                calls=calls,
                waits=False,
            )
            targets = {} if bound is None else {SQLITE: Target(bound, of="ratio")}
            found += figures(f"{what}, {name}", "µs", OURS, times, targets=targets)
    fresh = {
        each: partial(_fresh, each, folder / each, middle) for each in (OURS, SQLITE)
    }
    times = race_from_start(fresh, rounds=rounds)
    found += figures(
        *(f"open and first read, {name}", "ms", OURS, times),
        targets={OURS: Target(300)},
    )
    shutil.rmtree(folder)
    return Subject(
        "Reads",
        "From the page cache, in processor time but for the last row.  Milepost "
        "verifies each state that it returns.  SqliteSaver and InMemorySaver have no "
        "list of threads but list(None), which reads every checkpoint.",
        tuple(found),
    )


def _latest(config: Any, saver: Any) -> Any:
    return saver.get_tuple(config)


def _ten(config: Any, saver: Any) -> Any:
    return [*islice(saver.list(config, limit=10), 10)]


def _thread_ids(saver: Any) -> Any:
    if hasattr(saver, "thread_ids"):
        return saver.thread_ids()
    return {each.config["configurable"]["thread_id"] for each in saver.list(None)}


@contextmanager
def _fresh(name: str, folder: Path, config: Any) -> Iterator[Callable[[], object]]:
    with ExitStack() as stack:

        def call() -> object:
            return stack.enter_context(opened(name, folder)).get_tuple(config)

        yield call
