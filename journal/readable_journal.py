"""One job's two files as a reader finds them: the journal, and its head.

Reading takes no lock and changes nothing.  What a head acknowledges is shown, and only
that; whatever else is there is settled first, under the lock.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Literal, NamedTuple

from journal import head as head_codec
from journal.errors import (
    DamagedJournal,
    MilepostError,
    NewerFormat,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from journal.event_codec import BadLine, scan
from journal.events import SCHEMA_VERSION
from journal.head import Extent, Head
from journal.head_file import HeadFile, open_either
from journal.recovery import gives_up
from journal.storage import Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from journal.disk import Disk, File, Stat
    from journal.events import Event

Durability = Literal["always", "interval", "never"]
_SCAN_BYTES = 4 * 1024 * 1024


class Folders(NamedTuple):
    """Where the files of a store live.

    Attributes:
        journals: one journal per job.
        heads: one head per job.
        side: bytes that a recovery cut, kept until the trash period ends.
    """

    root: Path
    journals: Path
    heads: Path
    side: Path

    @classmethod
    def of(cls, root: Path) -> Folders:
        """Return those of the store in `root`."""
        return cls(root, root / "journals", root / "heads", root / "side")


class Place(NamedTuple):
    """Where one job's files are, and how they are written.

    Attributes:
        name: what the files are called.
        lock_timeout_seconds: how long to wait for another writer.
    """

    disk: Disk
    folders: Folders
    name: str
    job_id: str
    durability: Durability
    lock_timeout_seconds: float


def failure(exc: OSError, what: str) -> StorageFailed:
    """Return the error that tells a caller what to do about `exc`."""
    reason = exc.strerror or str(exc)
    match exc.errno:
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return ReadOnlyStore(
                f"{what}: {reason}", hint="make the folder writable for this user"
            )
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return NoSpace(
                f"{what}: {reason}; nothing was written", hint="free some space"
            )
        case errno.ELOOP:
            return StorageFailed(f"{what}: refused, it is a symbolic link")
    return StorageFailed(f"{what}: {reason}")


class ReadableJournal:
    """The files of one job, opened when first needed.

    Safe for threads: `_opening` guards descriptors.

    Attributes:
        inode: of the journal that is open; 0 if none is.
    """

    def __init__(self, place: Place) -> None:
        self._disk, self._folders = place.disk, place.folders
        self._name, self._job_id = place.name, place.job_id
        self._path = self._folders.journals / f"{place.name}.jsonl"
        head = self._folders.heads / place.name
        self._head = HeadFile(place.disk, head, place.lock_timeout_seconds)
        self._opening = threading.RLock()
        self._file: File | None = None
        self.inode = 0
        self._is_writable = True  # as far as the open journal goes

    def stamp(self) -> Stamp | None:
        """Return what changes whenever the journal does, None if there is none."""
        try:
            found = self._disk.stat(self._path)
        except OSError as exc:
            raise failure(exc, f"cannot look at {self._path}") from exc
        return None if found is None else Stamp(found.inode, found.size)

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the journal from `offset`.

        Raises:
            StorageFailed: it cannot be opened or read.
        """
        try:
            with self._opening:
                return self._open_journal().read(offset, size)
        except OSError as exc:
            raise failure(exc, f"cannot read {self._path}") from exc

    def extent(self) -> Extent:
        """Return what is acknowledged, without the lock and without any change.

        Raises:
            DamagedJournal: the file is shorter than what was acknowledged.
        """
        try:
            head = head_codec.decode(self._head.peek())
            found = self._disk.stat(self._path)
            if head is None or head.shown.seq == 0:
                return Extent()
            if found is None or found.size == 0:
                raise self._gone(head.shown)
            with self._opening:
                self._open_journal()
                return self._current_extent(head, found)
        except OSError as exc:
            if isinstance(exc, MilepostError):
                raise
            raise failure(exc, f"cannot read {self._path}") from exc

    def _current_extent(self, head: Head, found: Stat) -> Extent:
        if head.inode != found.inode:
            extent = self._locate(head.shown)
            if extent.hash != head.shown.hash:
                # A repair is on its way, or died: not yet shown, perhaps not durable.
                raise self._damaged(_misfit(extent.size, head.shown, extent.hash))
            return extent
        if found.size < head.shown.size:
            # Perhaps a power cut took what was never synced: under the lock it shows.
            raise self._truncated(head.shown, found.size)
        return head.shown

    def _locate(
        self,
        shown: Extent,
        *,
        for_repair: bool = False,
        instead_of: Extent | None = None,
    ) -> Extent:
        """Find the acknowledged event by reading all up to it, each line verified.

        Or the one that says that a person gave it, or `instead_of`, up.

        Raises:
            DamagedJournal: it is not there, or not with this hash.
            NewerFormat: `for_repair`, and a newer version wrote here.
        """
        last, other = Extent(), None
        if not shown.seq:
            return last
        try:
            for event, last in self._events():
                if for_repair and event["v"] != SCHEMA_VERSION:
                    raise NewerFormat(
                        f"event {event['seq']} of job {self._job_id!r} was written by "
                        "a newer Milepost; only that one may repair what follows",
                        hint="upgrade",
                    )
                if gives_up(event, instead_of or shown):
                    return last  # R21: the head is older than that repair
                if last.seq == shown.seq:
                    if last.hash == shown.hash and not (
                        for_repair and last.size != shown.size
                    ):
                        return last
                    # Another history: that it was given up may stand further down.
                    other = _misfit(last.size, shown, last.hash)
        except BadLine as exc:
            raise self._damaged(other or exc) from exc
        if other is not None:
            raise self._damaged(other)
        raise self._truncated(shown, last.size)

    def _events(self) -> Iterator[tuple[Event, Extent]]:
        """Yield each event of the journal, verified, and how far it goes with it.

        Raises:
            BadLine: a line is not next in the chain.
        """
        last, want = Extent(), _SCAN_BYTES
        while True:
            begin = last
            data = self.read(begin.size, want)
            for event, start, length, _ in scan(
                data, seq=begin.seq, prev=begin.hash or None, offset=begin.size
            ):
                last = Extent(event["seq"], event["hash"], start + length)
                yield event, last
            if len(data) < want:
                return
            if last is begin:
                want *= 2

    def _open_journal(self) -> File:
        """Return the open journal; opens it again if a rewrite put another in place."""
        found = self._disk.stat(self._path)
        if self._file is not None and found is not None and found.inode == self.inode:
            return self._file
        if self._file is not None:
            self._file.close()
            self._file = None
        self._file, self._is_writable = open_either(self._disk, self._path, "append")
        self.inode = self._file.stat().inode
        return self._file

    def _damaged(self, problem: BadLine) -> DamagedJournal:
        try:
            before = self.read(0, problem.offset)
        except StorageFailed:
            before = b""
        return DamagedJournal(
            self._job_id,
            line=before.count(b"\n") + 1,
            offset=problem.offset,
            expected=problem.expected,
            found=problem.found,
        )

    def _gone(self, shown: Extent) -> DamagedJournal:
        return DamagedJournal(
            self._job_id,
            line=0,
            offset=0,
            expected=f"a journal of {shown.seq} events, {shown.size} bytes",
            found="no journal",
        )

    def _truncated(self, shown: Extent, size: int) -> DamagedJournal:
        return self._damaged(
            BadLine(size, f"{shown.seq} events in {shown.size} bytes", "the end")
        )


def _misfit(offset: int, shown: Extent, found: str) -> BadLine:
    return BadLine(offset, f"event {shown.seq} with hash {shown.hash}", found)
