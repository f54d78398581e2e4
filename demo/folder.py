"""The demo's folder: its lock, its files, and the config.toml of its server."""

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
    """The paths of one demo, and the descriptor of the folder lock."""

    root: Path
    held: int

    @property
    def config(self) -> Path:
        """The server's config file."""
        return self.root / "config.toml"

    @property
    def store(self) -> Path:
        """The store."""
        return self.root / "store"

    @property
    def result(self) -> Path:
        """The result of the interrupted job."""
        return self.root / "result.json"

    @property
    def reference(self) -> Path:
        """The result of the uninterrupted run."""
        return self.root / "reference.json"

    def log(self, name: str) -> Path:
        """Return the path of a process's output."""
        return self.root / f"{name}.log"

    def clear(self) -> None:
        """Remove the files of an earlier demo, and no others."""
        for pattern in ("config.toml", "*.json", "*.log", "*.part"):
            for path in self.root.glob(pattern):
                path.unlink()
        if self.store.exists():
            shutil.rmtree(self.store)


@contextmanager
def open_folder(root: Path) -> Iterator[Folder]:
    """Create `root`, or empty it if it is a demo's, and lock it against other demos.

    Raises:
        DemoFailed: `root` contains other files, or a demo still uses it.
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
    """Return how to end the processes of a killed demo that are still running."""
    noted = os.pread(held, 4096, 0).split()
    living = [number.decode() for number in noted if _leads_a_session(int(number))]
    return f" (to end it: kill {' '.join(living)})" if living else ""


def _leads_a_session(process_id: int) -> bool:
    # Every process of a demo does, so a reused process id is rarely reported.
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
# A state contains the results of all files so far.
max_body = "16MiB"

# A short interval, to watch retention at work.
[worker]
cleanup = {_toml(cleanup)}

[retention]
min_age = "0s"
min_keep = 1
# Disables confirmation: a fast job may save a dozen checkpoints before the first run.
max_remove_fraction = 1.0

[[retention.rule]]
match = {_toml(match)}
keep_last = {keep_last}

[executor]
command = [
{"".join(f"    {_toml(part)},{chr(10)}" for part in command)}]
"""


def _toml(text: str) -> str:
    # A JSON string without surrogate escapes is a TOML string.
    return json.dumps(text, ensure_ascii=False)
