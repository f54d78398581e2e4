"""The snapshot of a job's fold in a file: a cache that can be removed at any time.

A file that is not whole, or not of this journal, counts as none.  It is never read in
place of the journal: it only spares folding the events up to its seq.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from milepost.journal.disk import copy_file
from milepost.journal.disk.copy_file import JournalCopy
from milepost.journal.disk.disk import Busy, make_folder_like
from milepost.journal.events.codec import Mark
from milepost.journal.storage.contract import Snapshot
from milepost.journal.storage.files.recovery.head import Extent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from milepost.journal.disk.disk import Disk, File
    from milepost.journal.storage.files.folders import Folders

_FORMAT = 1
_HEADER_BYTES = 8192
_DIGEST_BYTES = 32


class SnapshotFile:
    """The snapshot of one job.

    Args:
        disk: the file operations.
        folders: those of the store.
        name: of the job's files.
        job_id: the job.
    """

    def __init__(self, disk: Disk, folders: Folders, name: str, job_id: str) -> None:
        self._disk = disk
        self._folders = folders
        self._job_id = job_id
        self._path = folders.snapshots / name
        self._copy_path = folders.snapshots / f"{name}.copy"
        self._model = folders.journals / f"{name}.jsonl"

    def read(
        self, inode: int, is_there: Callable[[Extent], bool]
    ) -> tuple[Snapshot, array[int]] | None:
        """Return the snapshot, and where its events end; None if it is of no use.

        Args:
            inode: of the journal.
            is_there: tells whether the journal has the event that ends at an extent.
        """
        try:
            file = self._disk.open(self._path, "read")
        except OSError:
            return None
        try:
            return self._read(file, inode, is_there)
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        finally:
            file.close()

    def _read(
        self, file: File, inode: int, is_there: Callable[[Extent], bool]
    ) -> tuple[Snapshot, array[int]] | None:
        line, newline, _ = file.read(0, _HEADER_BYTES).partition(b"\n")
        header = orjson.loads(line)
        extent = Extent(header["seq"], header["hash"], header["bytes"])
        lengths = header["parts"]
        expected = self._header(extent, inode, lengths)
        size = len(line) + 1 + sum(lengths) + _DIGEST_BYTES
        if header != expected or file.stat().size != size or not is_there(extent):
            return None
        digest = hashlib.sha256(line + newline)
        offset, parts = len(line) + 1, []
        for length in lengths:
            parts.append(part := file.read(offset, length))
            digest.update(part)
            offset += length
        if file.read(offset, _DIGEST_BYTES) != digest.digest():
            return None
        ends = array("Q", parts.pop())
        return Snapshot(Mark(extent.seq, extent.hash), parts), ends

    def _header(
        self, extent: Extent, inode: int, lengths: Sequence[int]
    ) -> dict[str, Any]:
        return {
            "snapshot": _FORMAT,
            "job": self._job_id,
            "seq": extent.seq,
            "hash": extent.hash,
            "inode": inode,
            "bytes": extent.size,
            "order": sys.byteorder,
            "parts": lengths,
        }

    def draft(self, inode: int, snapshot: Snapshot, ends: array[int]) -> JournalCopy:
        """Write and sync the file that `place` gives its name; lock it.

        Raises:
            Busy: another process is writing one.
            NoSpace, ReadOnlyStore: it cannot be created.
            OSError: it cannot be written.
        """
        folders = self._folders
        make_folder_like(self._disk, folders.snapshots, folders.journals)
        copy = JournalCopy(self._disk, self._copy_path, self._path, like=self._model)
        try:
            for data in self._content(inode, snapshot, ends):
                copy.write(data)
            copy.sync()
        except BaseException:
            copy.discard()
            raise
        return copy

    def _content(
        self, inode: int, snapshot: Snapshot, ends: array[int]
    ) -> Iterator[bytes]:
        mark, parts = snapshot.last, [*snapshot.parts, ends.tobytes()]
        extent = Extent(mark.seq, mark.hash, ends[-1])
        header = self._header(extent, inode, [*map(len, parts)])
        digest = hashlib.sha256()
        for data in (orjson.dumps(header) + b"\n", *parts):
            digest.update(data)
            yield data
        yield digest.digest()

    def remove(self) -> None:
        """Remove it, and what a crashed process left of one.

        Raises:
            OSError: it cannot be removed.
        """
        if self._disk.stat(self._path) is not None:
            with suppress(FileNotFoundError):
                self._disk.unlink(self._path)
        self.sweep()

    def sweep(self) -> None:
        """Remove what a crashed process left of one; keep one in progress.

        Raises:
            OSError: it cannot be removed.
        """
        with suppress(Busy):
            copy_file.remove_leftover(self._disk, self._copy_path)
