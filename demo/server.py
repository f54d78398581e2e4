"""Starting the demo's server: `milepost serve` on a free port."""

from __future__ import annotations

import socket
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from demo.children import DemoFailed
from demo.folder import config_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demo.children import Child, Children, StopFlag
    from demo.folder import Folder

_HOST = "127.0.0.1"
_PORT_TRIES = 5
_START_SECONDS = 60.0


class Retention(NamedTuple):
    """The retention rule of the demo's server, and its schedule."""

    match: str
    keep_last: int
    cleanup: str

    @property
    def policy(self) -> str:
        """The name of the rule in events."""
        return f"rule:{self.match}"


class Server(NamedTuple):
    """A running server."""

    child: Child
    url: str


def milepost() -> str:
    """Return the `milepost` command of this Python environment.

    Raises:
        DemoFailed: it is not installed.
    """
    command = Path(sys.executable).with_name("milepost")
    if not command.exists():
        raise DemoFailed(f"{command} does not exist; `make setup` installs it")
    return str(command)


def start_server(
    children: Children,
    folder: Folder,
    flag: StopFlag,
    *,
    retention: Retention,
    job_command: Sequence[str],
) -> Server:
    """Write config.toml and start `milepost serve`; return when it is ready.

    ``{url}`` in `job_command` is replaced by the server's URL.

    Raises:
        DemoFailed: it does not start, or is not ready in time.
        Stopped: a signal came.
    """
    command = [milepost(), "serve", f"--config={folder.config}"]
    for _ in range(_PORT_TRIES):
        port = _free_port()
        url = f"http://{_HOST}:{port}"
        text = config_text(
            port=port,
            command=[part.replace("{url}", url) for part in job_command],
            match=retention.match,
            keep_last=retention.keep_last,
            cleanup=retention.cleanup,
        )
        folder.config.write_text(text, encoding="utf-8")
        child = children.start("the server", command, folder.log("server"))
        deadline = time.monotonic() + _START_SECONDS
        while child.process.poll() is None:
            if _is_ready(port):
                return Server(child, url)
            if time.monotonic() > deadline:
                raise DemoFailed(f"the server is not ready: {child.last_line()}")
            flag.sleep()
        # Another process may have taken the port in the meantime; try another one.
        if "can't listen" not in child.last_line():
            break
    raise DemoFailed(f"the server does not start: {child.last_line()}")


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_ready(port: int) -> bool:
    connection = HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200  # noqa: PLR2004 - OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
