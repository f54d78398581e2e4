"""A worker as a process of its own: signals, shutdown, exit code."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

from milepost.journal.errors import MilepostError
from milepost.worker.config.settings import open_manager
from milepost.worker.deadline import ExitDeadline
from milepost.worker.service import Worker
from milepost.worker.tasks import TASK_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.worker.config.settings import Settings

LOOK_SECONDS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_OK, EXIT_FAILED, EXIT_PARTLY, EXIT_INTERRUPTED = 0, 1, 3, 130


def run(
    settings: Settings, config_path: Path | None = None, *, once: bool = False
) -> int:
    """Run a worker until SIGTERM or Ctrl-C, or each task once; return the exit code.

    Exit codes: 0 done or stopped by SIGTERM, 1 the worker ended by itself, 3 a task run
    was not ``ok``, 130 stopped by SIGINT.

    Raises:
        MilepostError: the store can't be opened, or a task failed.
    """
    with ExitDeadline() as deadline, open_manager(settings, actor="worker") as manager:
        worker = Worker(manager, settings, config_path=config_path)

        def end(number: int) -> None:
            deadline.begin(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_OK)
            worker.ask_to_stop()

        with _signals(end) as received:
            if once:
                code = _run_each(worker)
            else:
                worker.start()
                while not received and not worker.join(LOOK_SECONDS):
                    pass
                worker.stop()
                code = EXIT_OK if received else EXIT_FAILED
    return EXIT_INTERRUPTED if signal.SIGINT in received else code


def _run_each(worker: Worker) -> int:
    """Run each task once, even if another raises; return the exit code.

    Raises:
        MilepostError: the first error, after all tasks have run.
    """
    failures: list[MilepostError] = []
    outcomes = set()
    for name in TASK_NAMES:
        try:
            outcomes.add(worker.run_task(name).outcome)
        except MilepostError as exc:
            failures.append(exc)
    if failures:
        raise failures[0]
    return EXIT_OK if outcomes == {"ok"} else EXIT_PARTLY


@contextlib.contextmanager
def _signals(on_first: Callable[[int], None]) -> Iterator[list[int]]:
    """Call `on_first` at SIGTERM or SIGINT; a second signal ends the process at once.

    Outside of the main thread, where Python allows no handlers, nothing is installed.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        on_first(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
