"""How far a long pass is: one line on stderr that a person can watch.

Only on a terminal, and only once it takes longer than half a second: what is over by
then needs no line, and a log file none at all.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self, TextIO

from milepost.api.cli.output import visible

if TYPE_CHECKING:
    from collections.abc import Callable

SHOW_AFTER_SECONDS = 0.5
REDRAW_SECONDS = 0.1
_CLEAR = "\r\x1b[K"


class Progress:
    """Draws while it is entered; leaves nothing behind."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Draw on `stream`, stderr unless given; never where it is no terminal."""
        self._stream = stream or sys.stderr
        self._steady = steady
        self._is_watched = self._stream is not None and self._stream.isatty()
        self._draw_at = steady() + SHOW_AFTER_SECONDS
        self._is_drawn = False
        self._task = ""
        self._unit = "jobs"
        self._jobs = self._total = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_drawn:
            self._write(_CLEAR)

    def begin(self, task: str, jobs: int = 0, *, unit: str = "jobs") -> None:
        """Say what is done, and to how many jobs."""
        self._task, self._total, self._unit = task, jobs, unit
        self._jobs = self._bytes = 0

    def piece(self, size_bytes: int) -> None:
        """Count what was read."""
        self._bytes += size_bytes
        self._draw()

    def job(self) -> None:
        """Count a job that is done."""
        self._jobs += 1
        self._draw()

    def reach(self, done: int, total: int) -> None:
        """Take over the counts of somebody who counts for himself."""
        self._jobs, self._total = done, total
        self._draw()

    def _draw(self) -> None:
        if not self._is_watched or (now := self._steady()) < self._draw_at:
            return
        self._draw_at = now + REDRAW_SECONDS
        self._is_drawn = True
        part = f" ({self._jobs / self._total:.0%})" if self._total else ""
        text = f"{self._task}: {self._jobs} of {self._total} {self._unit}{part}"
        if self._bytes:
            text += f", {self._bytes / (1 << 20):.1f} MiB read"
        # Back at the start, so that a line of the log takes its place.
        self._write(_CLEAR + visible(text) + "\r")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._is_watched = False  # the terminal is gone; the work is not
