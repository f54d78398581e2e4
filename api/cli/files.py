"""Atomic replacement of an output file."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from errno import EISDIR
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from milepost.journal.disk import whole_file
from milepost.journal.disk.disk import PosixDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT = "-"


@contextmanager
def file_to_be(path: str | None, value: Any) -> Iterator[None]:
    """Write `value` as JSON to a draft, which replaces `path` when the block succeeds.

    So a missing folder or a full disk fails before the block does anything that can't
    be undone.  `None` and `-` are stdout, which this module does not write.
    """
    if path is None or path == STDOUT:
        yield
        return
    raw = orjson.dumps(value) + b"\n"
    if Path(path).is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), path)
    if Path(path).exists() and not Path(path).is_file():
        # /dev/stdout and similar files are written to, not replaced.
        yield
        Path(path).write_bytes(raw)
        return
    # The target of a link is replaced, not the link.
    goal = Path(os.path.realpath(path))
    draft = goal.with_name(f".{goal.name}.{os.urandom(4).hex()}")
    # With 0o666 the umask decides the permissions, as with a redirection.
    disk = PosixDisk(new_mode=0o666)
    whole_file.write_draft(disk, draft, goal, [raw])
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            disk.unlink(draft)
        raise
    whole_file.place(disk, draft, goal)
