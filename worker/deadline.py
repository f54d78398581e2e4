"""A bound on the time that a process takes to exit after SIGTERM or SIGINT."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Self

EXIT_SECONDS = 7.0
# Time for the rest of the process after the block: print a line, end the interpreter.
LEAVE_SECONDS = 2.0
_LINE = b"milepost: shutdown timed out; exiting (acknowledged writes are durable)\n"
_CODES: dict[int, int] = {signal.SIGTERM: 0, signal.SIGINT: 130}
_BEGUN = b"\0"  # no signal has this number


class ExitDeadline:
    """Ends the process `EXIT_SECONDS` after SIGTERM or SIGINT if it still runs.

    A task, a request, closing the store or a write to stderr may block on another
    process's lock, a dead disk or a full pipe.  If the main thread blocks, it runs no
    signal handlers.  A separate thread therefore waits on the signal wakeup pipe.
    Exiting this way is safe: service managers send SIGKILL after about 10 s anyway, and
    a crash loses no acknowledged write (I1).

    Use it only around all work of a process, which must exit soon after the block.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        self._is_begun = False
        self._over = threading.Event()
        # Created here, because a signal handler must not start threads.
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
        """Start the countdown to an exit with `code`; safe in a signal handler."""
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
        # stderr itself may block, so a daemon thread writes, and without the stream's
        # lock.
        threading.Thread(target=os.write, args=(2, _LINE), daemon=True).start()
        time.sleep(0.1)
        code = _CODES.get(number, 0) if self._code is None else self._code
        os._exit(code)

    def _wait_for_signal(self) -> int | None:
        """Return the signal's number, 0 after `begin`, None at the end of the block."""
        while heard := os.read(self._heard, 1):
            if heard == _BEGUN or heard[0] in _CODES:
                self._is_begun = True
                return heard[0]
        return None
