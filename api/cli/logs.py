"""Logging of long-running commands to stderr.

A thread of its own writes the lines: an unread pipe or a full disk must not stop a
request.  Lines of the same kind are limited: a flood of bad requests leaves a count,
not a full disk.
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
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from logging import LogRecord
    from types import TracebackType

    _ExceptionInfo = (
        tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None]
    )

# At most this many lines of a kind are written per window; the rest is counted.
MAX_ALIKE = 20
WINDOW_SECONDS = 10.0
_MAX_KINDS = 1000
_MAX_WAITING = 1000
_FLUSH_SECONDS = 1.0


class _Visible(logging.Formatter):
    """Escapes unprintable characters, since messages contain job ids.

    An escape sequence would act on a terminal; a line break would forge a log line.
    """

    def formatMessage(self, record: LogRecord) -> str:  # noqa: N802 - logging's name
        return visible(super().formatMessage(record))

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        lines = super().formatException(ei).splitlines()
        return "\n".join(map(visible, lines))


class _Kind(NamedTuple):
    """The kind of a line: its place in the code."""

    logger: str
    level: int
    message: str


class _Window:
    """The lines of one kind in one window of time."""

    def __init__(self, now: float, example: str) -> None:
        self.ends_at = now + WINDOW_SECONDS
        self.count = 0
        self.example = example

    @property
    def left_out(self) -> int:
        return max(0, self.count - MAX_ALIKE)


class Lines(logging.Handler):
    """A handler that never blocks its caller."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._waiting: queue.Queue[str | threading.Event] = queue.Queue(_MAX_WAITING)
        self._windows: dict[_Kind, _Window] = {}
        self._lost = 0
        threading.Thread(target=self._write, name="milepost-log", daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        """Queue the record, or count it; called under the handler's lock."""
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
        """Queue one line, without the limit on lines of a kind."""
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Wait until all is written, for a bounded time: the reader may be stuck."""
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
        """Report the lines left out by windows that ended; call under the lock."""
        for kind, window in list(self._windows.items()):
            if window.ends_at > now:
                continue
            del self._windows[kind]
            if window.left_out:
                more = counted(window.left_out, "more line")
                text = f"{more} like this one: {window.example}"
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
            lost = (
                f"lost {counted(self._lost, 'line')} of the log\n" if self._lost else ""
            )
            try:
                _put(f"{lost}{line}\n")
            except OSError:  # a full disk, or a closed pipe
                self._lost += 1
            else:
                self._lost = 0


def _put(text: str) -> None:
    """Write to stderr, unbuffered.

    Raises:
        OSError: stderr can't be written.
    """
    stream = sys.stderr
    if stream is None:
        return
    try:
        descriptor = stream.fileno()
    except ValueError:  # not a file: in a test, or embedded
        stream.write(text)
        return
    rest = text.encode("utf-8", "backslashreplace")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def log_to_stderr() -> Lines:
    """Log messages of Milepost, and warnings of all libraries, to stderr."""
    lines = Lines()
    logging.basicConfig(handlers=[lines], level=logging.WARNING)
    logging.getLogger("milepost").setLevel(logging.INFO)
    return lines
