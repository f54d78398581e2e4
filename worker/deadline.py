"""A process that was asked to end is gone in time, whatever hangs in it."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Self

EXIT_SECONDS = 7.0
# What is left to do outside of the block: print a line, end the interpreter.
LEAVE_SECONDS = 2.0
_LINE = b"milepost: something hangs, leaving it: what was acknowledged is safe\n"
_CODES: dict[int, int] = {signal.SIGTERM: 0, signal.SIGINT: 130}
_BEGUN = b"\0"  # no signal has this number


class ExitDeadline:
    """Ends the process a while after SIGTERM or SIGINT, unless it ended by itself.

    A run or a request may wait for a lock of another process, or for a dead disk, and
    so may closing the store, a full pipe on stderr, or the main thread, which then runs
    no signal handler.  So a thread of its own is woken by the signal itself.  Whoever
    stops services kills what takes longer than 10 s anyway, and a crash loses nothing
    that was acknowledged (I1).

    Only for a process that the block is all of: it has to end soon after the block.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        self._is_begun = False
        self._over = threading.Event()
        # Made now: a signal handler must not start threads.
        self._thread = threading.Thread(
            target=self._wait, name="milepost-deadline", daemon=True
        )
        self._heard, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._is_main = threading.current_thread() is threading.main_thread()
        self._before = -1

    def __enter__(self) -> Self:
        self._thread.start()
        if self._is_main:
            self._before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._is_main:
            signal.set_wakeup_fd(self._before)
        if not self._is_begun:
            os.close(self._bell)
            self._thread.join()
            os.close(self._heard)

    def begin(self, code: int) -> None:
        """Count from now, to leave with exit `code`; safe in a signal handler."""
        self._code = code
        self._is_begun = True
        os.write(self._bell, _BEGUN)

    def _wait(self) -> None:
        number = self._wait_for_signal()
        if number is None:
            return
        ends_at = time.monotonic() + EXIT_SECONDS
        if self._over.wait(EXIT_SECONDS):
            rest = max(0.0, ends_at - time.monotonic())
            time.sleep(min(LEAVE_SECONDS, rest))
        # The pipe may be what hangs, and so may a stream's lock.
        threading.Thread(target=os.write, args=(2, _LINE), daemon=True).start()
        time.sleep(0.1)
        code = _CODES.get(number, 0) if self._code is None else self._code
        os._exit(code)

    def _wait_for_signal(self) -> int | None:
        """Return the number of the signal, 0 if begun by hand, None if it is over."""
        while heard := os.read(self._heard, 1):
            if heard == _BEGUN or heard[0] in _CODES:
                self._is_begun = True
                return heard[0]
        return None
