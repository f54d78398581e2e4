"""A flag for SIGTERM and SIGINT, so that a job ends after its last save."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from milepost.journal.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    # As `signal.getsignal` returns it; what a handler returns is ignored.
    _Earlier = Callable[[int, FrameType | None], Any] | int | None

# In this order, so that the handler of SIGINT is there first and goes last: no
# `KeyboardInterrupt` leaves half of them installed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a job was asked to stop, and how long it may still take.

    True once a signal has arrived.  Any thread may use it, also after the block.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._first: tuple[signal.Signals, float] | None = None
        # Not a `threading.Event`: a handler that sets one waits for ever if it
        # interrupts `wait` in the same thread.
        self._turns = itertools.count()
        self._gate = threading.Lock()
        self._gate.acquire()

    def __bool__(self) -> bool:
        return self.is_set()

    def is_set(self) -> bool:
        """Return whether a signal has arrived."""
        return self._first is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a signal for at most `timeout` seconds; return whether one arrived.

        A pause of the job that ends at once when it is asked to stop.
        """
        seconds = -1 if timeout is None else min(max(0, timeout), threading.TIMEOUT_MAX)
        if not self.is_set() and self._gate.acquire(timeout=seconds):
            self._gate.release()  # for the next thread
        return self.is_set()

    @property
    def signal(self) -> signal.Signals | None:
        """The first signal that arrived, None if none has."""
        return None if self._first is None else self._first[0]

    @property
    def seconds_left(self) -> float:
        """The rest of the grace period, at least 0; infinite before a signal."""
        if self._first is None:
            return math.inf
        return max(0.0, self._grace_seconds - (time.monotonic() - self._first[1]))

    @property
    def exit_code(self) -> int:
        """The exit status that tells a scheduler to start the job again.

        128 and the number of the signal, as shells report it: 143 after SIGTERM; 0 if
        no signal has arrived.
        """
        return 0 if self._first is None else 128 + self._first[0]

    def _arrived(self, number: int) -> None:
        """Note a signal; called in a handler, which may interrupt another one."""
        if next(self._turns) == 0:
            self._first = (signal.Signals(number), time.monotonic())
            self._gate.release()


@contextmanager
def graceful(grace_seconds: float, at_end: Callable[[Stop], object]) -> Iterator[Stop]:
    """Yield a flag that SIGTERM and SIGINT set; see `CheckpointManager.graceful`.

    Args:
        grace_seconds: the time from the first signal to SIGKILL.
        at_end: called with the flag at the end of the block, under the same handlers.

    Raises:
        InvalidArgument: it is not the main thread, or the time is not positive.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidArgument(
            f"graceful() was called in the thread {threading.current_thread().name!r}, "
            "and only the main thread handles signals",
            hint="call it in the main thread, and pass the flag to the others",
        )
    if not 0 < grace_seconds < math.inf:
        raise InvalidArgument(
            f"grace_seconds must be positive and finite, got {grace_seconds!r}"
        )
    stop = Stop(grace_seconds)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handle = _handler(stop, before)
    # A signal that is ignored stays ignored, as programs in the background of a shell
    # do.  None: a handler that C code installed, which could not be restored.
    caught = [n for n in _SIGNALS if before[n] not in (signal.SIG_IGN, None)]
    try:
        for number in caught:
            signal.signal(number, handle)
        try:
            yield stop
        finally:
            at_end(stop)
    finally:
        for number in reversed(caught):
            signal.signal(number, before[number])


def _handler(
    stop: Stop, before: Mapping[signal.Signals, _Earlier]
) -> Callable[[int, FrameType | None], None]:
    pid = os.getpid()
    interrupts = itertools.count()

    def handle(number: int, frame: FrameType | None) -> None:
        earlier = before[signal.Signals(number)]
        if os.getpid() != pid:  # a forked child, which is not asked to be graceful
            signal.signal(number, earlier)
            signal.raise_signal(number)
            return
        stop._arrived(number)  # noqa: SLF001 - the other half of the class
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)
        if number == signal.SIGINT and next(interrupts) > 0:
            raise KeyboardInterrupt

    return handle
