"""A process that was asked to end is gone in time, whatever hangs in it."""

from __future__ import annotations

import os
import threading
from typing import Self

EXIT_SECONDS = 9.0
_LINE = b"milepost: something hangs, leaving it: what was acknowledged is safe\n"


class ExitDeadline:
    """Ends the process so long after `begin`, unless it was left by then.

    A run or a request may wait for a lock of another process, or for a dead disk, and
    so may closing the store.  Whoever stops services kills what takes longer than 10 s
    anyway, and a crash loses nothing that was acknowledged (I1).
    """

    def __init__(self) -> None:
        self._seconds = EXIT_SECONDS
        self._code = 0
        self._begun = threading.Event()
        self._over = threading.Event()
        # Made now: a signal handler must not start threads.
        self._thread = threading.Thread(
            target=self._wait, name="milepost-deadline", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._begun.set()
        self._thread.join()

    def begin(self, code: int) -> None:
        """Count from now, to leave with exit `code`; safe in a signal handler."""
        self._code = code
        self._begun.set()

    def _wait(self) -> None:
        self._begun.wait()
        if not self._over.wait(self._seconds):
            os.write(2, _LINE)  # a stream's lock may be what hangs
            os._exit(self._code)
