"""A small file that is read again only after a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File, Stat

_T = TypeVar("_T")


class _Known(NamedTuple, Generic[_T]):
    """What a file says, and the file.

    It stays open, so that no other file can get its inode.
    """

    file: File
    stat: Stat
    content: _T


class CachedFile(Generic[_T]):
    """What a small file says.  Safe for threads.

    Args:
        disk: the file operations.
        path: of the file.
        most_bytes: its first bytes, which are read.
        parse: returns what they say.
    """

    def __init__(
        self, disk: Disk, path: Path, most_bytes: int, parse: Callable[[bytes], _T]
    ) -> None:
        self._disk = disk
        self._path = path
        self._name = str(path)  # quicker to ask for
        self._most_bytes = most_bytes
        self._parse = parse
        self._known: _Known[_T] | None = None

    def get(self) -> _T | None:
        """Return what the file says, None without one: one `stat` if it is the same.

        Raises:
            OSError: it cannot be read.
            Exception: of `parse`.
        """
        found = self._disk.stat(self._name)
        known = self._known
        if found is None:
            known = None
        elif known is None or known.stat != found:
            known = self._read()
        self._known = known
        return None if known is None else known.content

    def _read(self) -> _Known[_T]:
        file = self._disk.open(self._path, "read")
        try:
            found = file.stat()
            content = self._parse(file.read(0, self._most_bytes))
        except BaseException:
            file.close()
            raise
        return _Known(file, found, content)

    def close(self) -> None:
        """Release the file; the next `get` opens it again."""
        self._known = None
