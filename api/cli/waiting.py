"""Running until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from milepost.api.cli.exits import Exit, Problem
from milepost.api.cli.results import Answer
from milepost.worker.deadline import ExitDeadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """The signals received so far.

    A signal raises `KeyboardInterrupt` in the main thread, which is right during start
    and close.  In between, `calling` handles it.

    Args:
        deadline: begins with the first signal.
        is_success: whether SIGTERM is a success: the command runs until it is stopped.
    """

    def __init__(self, deadline: ExitDeadline, *, is_success: bool) -> None:
        self.received: signal.Signals | None = None
        self._is_success = is_success
        self._deadline = deadline
        self._asks: Iterator[Callable[[], None]] = iter(())

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle both signals."""
        del frame
        if self.received is None:
            self.received = signal.Signals(number)
            self._deadline.begin(self.problem.exit if self.problem else Exit.OK)
        ask = next(self._asks, None)
        if ask is None:
            raise KeyboardInterrupt
        ask()

    @contextmanager
    def calling(self, *asks: Callable[[], None]) -> Iterator[None]:
        """Within the block, each signal calls the next of `asks`, for an orderly end.

        After the last of them a signal raises again, so that a user can stop waiting.
        """
        self._asks = iter(asks)
        try:
            yield
        finally:
            self._asks = iter(())

    @property
    def problem(self) -> Problem | None:
        """The problem to exit with: interrupted; none if SIGTERM is a success."""
        if self.received is signal.SIGINT:
            return Problem("interrupted", "stopped by Ctrl-C")
        if self.received is None or self._is_success:
            return None
        return Problem("interrupted", f"stopped by {self.received.name}")


def stopped(stop: Stop) -> Answer:
    """Return the answer of a command that ran until it was stopped."""
    by = stop.received.name if stop.received else None
    return Answer({"stopped_by": by}, None, ("stopped",), stop.problem)


@contextmanager
def until_stopped(*, is_success: bool = True) -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM in the block; suppress the interrupt they raise."""
    with ExitDeadline() as deadline:
        stop = Stop(deadline, is_success=is_success)
        before = {number: signal.signal(number, stop.receive) for number in _SIGNALS}
        try:
            yield stop
        except KeyboardInterrupt:
            if stop.received is None:
                raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for log in logging.getLogger().handlers:
                log.flush()
