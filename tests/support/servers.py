"""A `milepost` that stays: started, listened to, asked over HTTP, and stopped."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.cli import BIN, clean_environ
from tests.support.eventually import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

SERVING = r"serving http://(.+):(\d+) from "
# Retention that removes all but the newest checkpoint.
RULE = """\
[retention]
min_keep = 1
min_age = "0s"
[retention.default]
keep_last = 1
"""


class Server:
    """A `milepost` that stays, and what it has said on stderr so far."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.said = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read stderr until `pattern` shows up in a line."""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.said += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(self.said)

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; return the exit code."""
        self.child.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        _, rest = self.child.communicate(timeout=DEADLINE_SECONDS)
        self.said += rest or ""
        return self.child.returncode


def staying(*words: str, **environ: str) -> AbstractContextManager[Server]:
    """Run `milepost` for as long as the block lasts."""
    return staying_as([str(BIN / "milepost"), *words], **environ)


@contextmanager
def staying_as(command: list[str], **environ: str) -> Iterator[Server]:
    """Run a command that becomes `milepost` for as long as the block lasts."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environ(**environ),
    )
    with child:
        try:
            yield Server(child)
        finally:
            child.kill()


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    return answer.status, json.loads(raw) if raw else None
