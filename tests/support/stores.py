"""What a store looks like from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def files(root: Path) -> dict[str, Any]:
    """Return all that a change could be seen in, times and numbers of files too."""
    found = {path: path.lstat() for path in (root, *root.rglob("*"))}
    return {
        str(path): (
            stat.st_ino,
            stat.st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path, stat in found.items()
    }
