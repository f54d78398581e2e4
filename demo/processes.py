"""The demo's folder and its processes: one demo per folder, and no process outlives it.

A signal only sets a flag, which `start` and `pause` check.  So it cannot strike between
the start of a process and its registration.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

# More than the server needs to end its requests and its jobs.
_GRACE_SECONDS = 25.0


class DemoFailed(Exception):
    """The demo cannot continue; the text is one line with the reason."""


class Stopped(Exception):
    """The demo received this signal."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number


class Child(NamedTuple):
    """One process and the file with its output."""

    process: subprocess.Popen[bytes]
    log: Path

    def failure(self, what: str) -> DemoFailed:
        """Return the error with the last line of the log, usually the cause."""
        said = self.log.read_text(errors="replace").strip() or "no output"
        return DemoFailed(f"the {self.log.stem} {what}: {said.splitlines()[-1]}")

    def check_alive(self) -> None:
        """Raise `DemoFailed` if it has ended."""
        if (status := self.process.poll()) is not None:
            raise self.failure(f"ended too early, with {status}")


class Folder:
    """The locked folder of one demo; a context manager that ends all its processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._received: list[signal.Signals] = []
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._receive)
        self.root.mkdir(parents=True, exist_ok=True)
        marker = self.root / ".milepost-demo"
        if not marker.exists() and any(self.root.iterdir()):
            raise DemoFailed(f"{self.root} is not empty; name another with --folder")
        self._held = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            noted = os.pread(self._held, 4096, 0).decode().split()
            living = " ".join(
                number for number in noted if _leads_a_session(int(number))
            )
            way_out = f" (to end it: kill {living})" if living else ""
            msg = f"a demo, or a server of one, runs in {self.root}{way_out}"
            raise DemoFailed(msg) from exc
        os.ftruncate(self._held, 0)
        self._note(os.getpid())
        # The files of an earlier demo, and no others.
        for pattern in ("config.toml", "*.json", "*.log", "*.args"):
            for path in self.root.glob(pattern):
                path.unlink()
        if (self.root / "store").exists():
            shutil.rmtree(self.root / "store")
        return self

    def __exit__(self, *_: object) -> None:
        """End every process and wait; further signals do not shorten the wait."""
        for child in self._children:
            child.process.terminate()
        ends_at = time.monotonic() + _GRACE_SECONDS
        for child in self._children:
            try:
                child.process.wait(max(0.0, ends_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
        os.close(self._held)

    def _receive(self, number: int, _frame: object) -> None:
        self._received.append(signal.Signals(number))

    def _note(self, process_id: int) -> None:
        os.write(self._held, b"%d\n" % process_id)

    def pause(self, seconds: float = 0.1) -> None:
        """Sleep between two looks; raise `Stopped` after a signal."""
        if not self._received:
            time.sleep(seconds)
        if self._received:
            raise Stopped(self._received[0])

    def start(self, name: str, *command: str | Path) -> Child:
        """Start `command`, with its output in a log; raise `Stopped` after a signal.

        It has a session of its own: the terminal's Ctrl-C reaches only the demo, which
        then ends it in order.  It inherits the folder's lock.
        """
        self.pause(0)
        log = self.root / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.root,
                # The user's Milepost settings must not affect the demo.
                env={k: v for k, v in os.environ.items() if k[:9] != "MILEPOST_"},
                start_new_session=True,
                pass_fds=(self._held,),
            )
        self._children.append(Child(process, log))
        self._note(process.pid)
        return self._children[-1]

    def wait(self, child: Child) -> int:
        """Return the exit status of `child`; raise `Stopped` after a signal."""
        while (status := child.process.poll()) is None:
            self.pause()
        return status


def _leads_a_session(process_id: int) -> bool:
    # Every process of a demo does, so a reused id is rarely shown.
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(process_id) == process_id
    return False
