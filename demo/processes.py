"""The demo's folder and its processes: one demo per folder, none outlives it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path


class DemoFailed(Exception):
    """The demo cannot continue; the text is one line with the reason."""


class Stopped(Exception):
    """The demo received the signal in `args`."""


class Folder(ExitStack):
    """The locked folder of one demo; a context manager that ends all its processes."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root.absolute()
        # A flag, so that no signal strikes between the start and the note of a process.
        self._received: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._received.append(number))
        self.root.mkdir(parents=True, exist_ok=True)
        marker = self.root / ".milepost-demo"
        if not marker.exists() and any(self.root.iterdir()):
            raise DemoFailed(f"{self.root} is not empty; name another with --folder")
        self._held = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.callback(os.close, self._held)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            noted = os.pread(self._held, 4096, 0).split()
            living = [f" {int(each)}" for each in noted if _leads_a_session(int(each))]
            way_out = f" (to end it: kill{''.join(living)})" if living else ""
            raise DemoFailed(f"a demo runs in {self.root}{way_out}") from exc
        os.ftruncate(self._held, 0)
        if (self.root / "store").exists():
            shutil.rmtree(self.root / "store")

    def pause(self) -> None:
        """Sleep between two looks; raise `Stopped` after a signal."""
        time.sleep(0.1)
        if self._received:
            raise Stopped(signal.Signals(self._received[0]))

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Return the exit status of `process`; raise `Stopped` after a signal."""
        while (status := process.poll()) is None:
            self.pause()
        return status

    def start(self, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start `command`, with its output in a log; raise `Stopped` after a signal.

        It has a session of its own: the terminal's Ctrl-C reaches only the demo, which
        then ends it in order.  It inherits the folder's lock.
        """
        self.pause()
        with (self.root / f"{name}.log").open("wb") as output:
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
        self.callback(_end, process)
        os.write(self._held, b"%d\n" % process.pid)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(25)  # more than the server needs to end its requests and its jobs
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _leads_a_session(process_id: int) -> bool:
    # Every process of a demo does, so a reused id is rarely shown.
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(process_id) == process_id
    return False
