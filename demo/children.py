"""The demo's child processes and its signal handling.

A handler only sets a flag, which the main thread checks between two steps.  A signal
thus cannot strike between the start of a process and its registration, and no process
outlives the demo.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType

POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# More than the server needs to end its requests and its jobs.
_GRACE_SECONDS = 25.0


class DemoFailed(Exception):
    """The demo cannot continue; the text is one line with the reason."""


class Stopped(Exception):
    """The demo received this signal."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number


class StopFlag:
    """The first signal received."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Record a signal; the handler of all of them."""
        del frame
        self.received = self.received or signal.Signals(number)

    def check(self) -> None:
        """Return if no signal came.

        Raises:
            Stopped: a signal came.
        """
        if self.received is not None:
            raise Stopped(self.received)

    def sleep(self, seconds: float = POLL_SECONDS) -> None:
        """Sleep for `seconds`.

        Raises:
            Stopped: a signal came.
        """
        self.check()
        time.sleep(seconds)
        self.check()


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Handle SIGINT, SIGTERM and SIGHUP inside the block."""
    flag = StopFlag()
    before = {number: signal.signal(number, flag.receive) for number in _SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child(NamedTuple):
    """One process and the file with its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_line(self) -> str:
        """Return the last line of its output, which usually is the error."""
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no output")

    def check_alive(self) -> None:
        """Return if it runs.

        Raises:
            DemoFailed: it has ended.
        """
        status = self.process.poll()
        if status is not None:
            raise DemoFailed(
                f"{self.name} ended too early, with {status}: {self.last_line()}"
            )


class Children:
    """All child processes of one demo; a context manager that ends them.

    Each runs in its own session: the terminal's Ctrl-C reaches only the demo, which
    then ends them in order.  Each inherits `held`, which keeps the folder locked.
    """

    def __init__(self, flag: StopFlag, folder: Path, held: int) -> None:
        self._flag = flag
        self._folder = folder
        self._held = held
        self._all: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop_all()

    def start(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        answer: Path | None = None,
    ) -> Child:
        """Start `command`; its output goes to `log`, or its stdout to `answer`.

        Raises:
            Stopped: a signal came; nothing was started.
            OSError: it cannot be started.
        """
        self._flag.check()
        # The user's Milepost settings must not affect the demo.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MILEPOST_")}
        with log.open("ab") as output, (answer or log).open("ab") as stdout:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=output,
                cwd=self._folder,
                env=environ,
                start_new_session=True,
                pass_fds=(self._held,),
            )
        # If this process is killed, the next demo shows these process ids.
        os.write(self._held, b"%d\n" % process.pid)
        child = Child(name, process, log)
        self._all.append(child)
        return child

    def wait(self, child: Child, timeout_seconds: float) -> int:
        """Wait for `child` and return its exit status.

        Raises:
            Stopped: a signal came.
            DemoFailed: it runs longer than `timeout_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        while (status := child.process.poll()) is None:
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"{child.name} takes longer than {timeout_seconds:g} s: "
                    f"{child.last_line()}"
                )
            self._flag.sleep()
        return status

    def stop_all(self) -> None:
        """End every process and wait for it.

        Further signals do not shorten the wait: the server must end its own jobs.
        """
        for child in self._all:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        while any(child.process.poll() is None for child in self._all):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        for child in self._all:
            if child.process.poll() is None:
                # Not reaped yet, so the process id is still that of this group.
                with suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
