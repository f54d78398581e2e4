"""Log lines of the commands that stay, on stderr.

They are written by a thread of their own: a pipe that nobody reads, or a full disk,
must not stop a request.  Lines that differ only in what they tell of are bounded: a
flood of bad requests leaves a count, not a full disk.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from milepost.api.cli.output import visible

if TYPE_CHECKING:
    from logging import LogRecord
    from types import TracebackType

    _ExceptionInfo = (
        tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None]
    )

# Of one kind of line, so many are written in so many seconds; the rest is counted.
MAX_ALIKE = 20
WINDOW_SECONDS = 10.0
_MAX_KINDS = 1000
_MAX_WAITING = 1000
_FLUSH_SECONDS = 1.0


class _Visible(logging.Formatter):
    """Job ids and the like stand in messages, and must not act on a terminal.

    A line break in one would even forge a line of the log.
    """

    def formatMessage(self, record: LogRecord) -> str:  # noqa: N802 - logging's name
        return visible(super().formatMessage(record))

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        lines = super().formatException(ei).splitlines()
        return "\n".join(map(visible, lines))


class _Kind(NamedTuple):
    """What makes two lines alike: they come from one place in the code."""

    logger: str
    level: int
    message: str


class _Window:
    """The lines of one kind in the last seconds."""

    def __init__(self, now: float, example: str) -> None:
        self.ends_at = now + WINDOW_SECONDS
        self.count = 0
        self.example = example

    @property
    def left_out(self) -> int:
        return max(0, self.count - MAX_ALIKE)


class Lines(logging.Handler):
    """A handler that never makes its caller wait."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._waiting: queue.Queue[str | threading.Event] = queue.Queue(_MAX_WAITING)
        self._windows: dict[_Kind, _Window] = {}
        self._lost = 0
        threading.Thread(target=self._write, name="milepost-log", daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        """Have the record written, or counted; the handler's lock is held."""
        kind = _Kind(record.name, record.levelno, str(record.msg))
        now = time.monotonic()
        self._end_windows(now)
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= _MAX_KINDS:
                self._end_windows(float("inf"))
            window = self._windows[kind] = _Window(now, record.getMessage())
        window.count += 1
        if not window.left_out:
            self.say(self.format(record))

    def say(self, line: str) -> None:
        """Have one line written, whatever was written before."""
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Return when all is written, or after a while: nobody may read it."""
        with self:
            self._end_windows(float("inf"))
        written = threading.Event()
        try:
            self._waiting.put(written, timeout=_FLUSH_SECONDS)
        except queue.Full:
            return
        written.wait(_FLUSH_SECONDS)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _end_windows(self, now: float) -> None:
        """Tell of those that ended by `now` what they left out; under the lock."""
        for kind, window in list(self._windows.items()):
            if window.ends_at > now:
                continue
            del self._windows[kind]
            if window.left_out:
                text = f"{window.left_out} more lines like this one: {window.example}"
                record = logging.LogRecord(
                    kind.logger, kind.level, "", 0, text, None, None
                )
                self.say(self.format(record))

    def _write(self) -> None:
        while True:
            try:
                line = self._waiting.get(timeout=WINDOW_SECONDS)
            except queue.Empty:
                with self:
                    self._end_windows(time.monotonic())
                continue
            if isinstance(line, threading.Event):
                line.set()
                continue
            lost = f"{self._lost} lines of the log were lost\n" if self._lost else ""
            try:
                _put(f"{lost}{line}\n")
            except OSError:  # a full disk, or a reader that went away
                self._lost += 1
            else:
                self._lost = 0


def _put(text: str) -> None:
    """Write to stderr as it is now, without any buffer that could keep the rest.

    Raises:
        OSError: it takes no more.
    """
    stream = sys.stderr
    if stream is None:
        return
    try:
        descriptor = stream.fileno()
    except ValueError:  # not a file: a test's, or an embedder's
        stream.write(text)
        return
    rest = text.encode("utf-8", "backslashreplace")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def log_to_stderr() -> Lines:
    """Send our own news and everybody's warnings to stderr."""
    lines = Lines()
    logging.basicConfig(handlers=[lines], level=logging.WARNING)
    logging.getLogger("milepost").setLevel(logging.INFO)
    return lines
