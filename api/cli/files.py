"""A file that is there whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT = "-"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


@contextmanager
def file_to_be(path: str | None, value: Any) -> Iterator[None]:
    """Write `value` as JSON beside `path`; it takes its place when the block ends well.

    So whatever can fail (no folder, no space) has failed before the block does what
    can't be taken back.  `None` and `-` are stdout, which is not this module's.
    """
    if path is None or path == STDOUT:
        yield
        return
    raw = orjson.dumps(value) + b"\n"
    if Path(path).exists() and not Path(path).is_file():
        # /dev/stdout and the like are there to be written to, not to be replaced.
        yield
        Path(path).write_bytes(raw)
        return
    # What a link points to is replaced, not the link.
    goal = Path(os.path.realpath(path))
    draft = goal.with_name(f".{goal.name}.{os.urandom(4).hex()}")
    try:
        _write(draft, raw)
        yield
        draft.replace(goal)
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise
    _sync_folder(goal.parent)


def _write(path: Path, raw: bytes) -> None:
    # 0o666 leaves the rights to the person's umask, as with any redirection.
    with os.fdopen(os.open(path, _NEW, 0o666), "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # A new name lives in its folder: unsynced, a crash may bring the old file back.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
