"""Commands on a pseudo terminal."""

from __future__ import annotations

import os
import subprocess
import sys


def milepost_on_a_terminal(*words: str, **environ: str) -> str:
    """Run `milepost` with a pseudo terminal as its stdout; return what it shows."""
    return shown_by([sys.executable, "-m", "milepost", *words], **environ)


def shown_by(command: list[str], **environ: str) -> str:
    leader, follower = os.openpty()
    with subprocess.Popen(
        command,
        stdout=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", **environ},
    ) as child:
        os.close(follower)
        chunks = []
        try:
            while chunk := os.read(leader, 65536):
                chunks.append(chunk)
        except OSError:
            pass  # how Linux says that the last writer of a terminal is gone
        os.close(leader)
    assert child.returncode == 0
    return b"".join(chunks).decode()
