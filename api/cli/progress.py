"""The progress line of long operations, on stderr.

It is drawn only on a terminal, and only after half a second: shorter operations need
none.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self, TextIO

from milepost.api.cli.output import visible
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

SHOW_AFTER_SECONDS = 0.5
REDRAW_SECONDS = 0.1
_CLEAR = "\r\x1b[K"


class Progress:
    """Draws the line within a `with` block, and clears it at the end."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Draw on `stream`, by default stderr, if it is a terminal."""
        self._stream = stream or sys.stderr
        self._steady = steady
        self._is_watched = self._stream is not None and self._stream.isatty()
        self._draw_at = steady() + SHOW_AFTER_SECONDS
        self._is_drawn = False
        self._task = ""
        self._unit = "job"
        self._jobs = self._total = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_drawn:
            self._write(_CLEAR)

    def begin(self, task: str, jobs: int = 0, *, unit: str = "job") -> None:
        """Start a task over a number of jobs."""
        self._task, self._total, self._unit = task, jobs, unit
        self._jobs = self._bytes = 0

    def piece(self, size_bytes: int) -> None:
        """Add the size of a piece that was read."""
        self._bytes += size_bytes
        self._draw()

    def job(self) -> None:
        """Count a finished job."""
        self._jobs += 1
        self._draw()

    def reach(self, done: int, total: int) -> None:
        """Set the counts, for a caller that counts itself."""
        self._jobs, self._total = done, total
        self._draw()

    def _draw(self) -> None:
        if not self._is_watched or (now := self._steady()) < self._draw_at:
            return
        self._draw_at = now + REDRAW_SECONDS
        self._is_drawn = True
        part = f" ({self._jobs / self._total:.0%})" if self._total else ""
        text = f"{self._task}: {self._jobs} of {counted(self._total, self._unit)}{part}"
        if self._bytes:
            text += f", {self._bytes / (1 << 20):.1f} MiB read"
        # Return to the line start, so that a log line overwrites it.
        self._write(_CLEAR + visible(text) + "\r")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._is_watched = False  # the terminal is gone, the operation continues
