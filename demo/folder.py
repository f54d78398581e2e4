"""The demo's folder: whose it is, what is in it, and the config.toml of its server."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from demo.children import DemoFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MARKER = ".milepost-demo"


class Folder(NamedTuple):
    """Where everything of one demo is."""

    root: Path
    held: int

    @property
    def config(self) -> Path:
        """The server's settings."""
        return self.root / "config.toml"

    @property
    def store(self) -> Path:
        """The journals."""
        return self.root / "store"

    @property
    def result(self) -> Path:
        """What the interrupted job found out."""
        return self.root / "result.json"

    @property
    def reference(self) -> Path:
        """What the uninterrupted run found out."""
        return self.root / "reference.json"

    def log(self, name: str) -> Path:
        """Return where a process writes its output."""
        return self.root / f"{name}.log"

    def clear(self) -> None:
        """Remove what an earlier demo left, and nothing else."""
        for pattern in ("config.toml", "*.json", "*.log", "*.part"):
            for path in self.root.glob(pattern):
                path.unlink()
        if self.store.exists():
            shutil.rmtree(self.store)


@contextmanager
def open_folder(root: Path) -> Iterator[Folder]:
    """Make `root`, or empty it if it is a demo's, and keep other demos out of it.

    Raises:
        DemoFailed: it holds somebody's files, or a demo that still runs.
    """
    root = root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    marker = root / _MARKER
    if not marker.exists() and any(root.iterdir()):
        raise DemoFailed(f"{root} is not empty; name another with --folder")
    held = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DemoFailed(
                f"a demo, or a server of one, runs in {root}{_way_out(held)}"
            ) from exc
        os.ftruncate(held, 0)
        os.write(held, b"%d\n" % os.getpid())
        folder = Folder(root, held)
        folder.clear()
        yield folder
    finally:
        os.close(held)


def _way_out(held: int) -> str:
    """Return how to end what a killed demo left behind, as its folder tells."""
    noted = os.pread(held, 4096, 0).split()
    living = [number.decode() for number in noted if _leads_a_session(int(number))]
    return f" (to end it: kill {' '.join(living)})" if living else ""


def _leads_a_session(process_id: int) -> bool:
    # As all that a demo starts; so a number that was given away is hardly ever named.
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(process_id) == process_id
    return False


def config_text(
    *, port: int, command: Sequence[str], match: str, keep_last: int, cleanup: str
) -> str:
    """Return the config.toml of the demo's server."""
    return f"""\
# Written by `make demo`.  The config.toml of the project explains every setting.

[store]
root = "store"

[api]
host = "127.0.0.1"
port = {port}
# A state holds the results of all files so far.
max_body = "16MiB"

# Short, so that retention can be watched at work.
[worker]
cleanup = {_toml(cleanup)}

[retention]
min_age = "0s"
min_keep = 1
# Nothing confirms plans here: a fast job may have saved a dozen before the first run.
max_remove_fraction = 1.0

[[retention.rule]]
match = {_toml(match)}
keep_last = {keep_last}

[executor]
command = [
{"".join(f"    {_toml(part)},{chr(10)}" for part in command)}]
"""


def _toml(text: str) -> str:
    # A JSON string is a TOML string, but for pairs of surrogates.
    return json.dumps(text, ensure_ascii=False)
