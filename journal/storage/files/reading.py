"""Read access to one job's two files: the journal and its head.

Reading takes no lock and changes nothing.  Readers show acknowledged events only; other
events in the journal are first recovered under the lock.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from milepost.journal.errors import (
    DamagedJournal,
    MilepostError,
    NewerFormat,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from milepost.journal.events.codec import CorruptLine
from milepost.journal.recovery import head as head_codec
from milepost.journal.recovery import recovery
from milepost.journal.recovery.diagnosis import Action, Condition, judge, problem_of
from milepost.journal.recovery.head import Extent
from milepost.journal.recovery.passage import line_number
from milepost.journal.recovery.snapshot import Evidence
from milepost.journal.storage.contract import Stamp
from milepost.journal.storage.files.head_file import HeadFile, OpenFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, Stat
    from milepost.journal.recovery.diagnosis import Facts, Judgement
    from milepost.journal.recovery.head import Head
    from milepost.journal.recovery.salvage import SalvageFolder

Durability = Literal["always", "interval", "never"]


class Folders(NamedTuple):
    """The folders of a store.

    Attributes:
        journals: one journal per job.
        heads: one head per job.
        salvage: bytes that recovery cut, kept until the trash period ends.
        records: records and leases of the store.
    """

    root: Path
    journals: Path
    heads: Path
    salvage: Path
    records: Path

    @classmethod
    def of(cls, root: Path) -> Folders:
        """Return those of the store in `root`."""
        names = ("journals", "heads", "salvage", "records")
        return cls(root, *(root / name for name in names))


class Place(NamedTuple):
    """The location of one job's files, and the settings of their writer.

    Attributes:
        salvage: the folder of the salvage files of all jobs.
        name: of the files, without ending.
        store_id: returns the store's id; None if it is unknown.
        lock_timeout_seconds: how long to wait for another writer.
    """

    disk: Disk
    folders: Folders
    salvage: SalvageFolder
    name: str
    job_id: str
    store_id: Callable[[], str | None]
    durability: Durability
    lock_timeout_seconds: float


def failure(exc: OSError, what: str) -> StorageFailed:
    """Return the error class and hint for `exc`."""
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


def fail(exc: OSError, what: str) -> NoReturn:
    """Raise `exc` as the error of a store, or as it is if it is one already.

    Raises:
        StorageFailed: always, or another `MilepostError`.
    """
    try:
        if isinstance(exc, MilepostError):
            raise exc
        raise failure(exc, what) from exc
    finally:
        # A cycle of `exc` and this frame would keep files open and locked.
        del exc


class ReadableJournal:
    """The files of one job, opened on first use.

    Safe for threads: each keeps a reference to the file that it uses, and a replaced
    file is closed when it is unreferenced.
    """

    def __init__(self, place: Place) -> None:
        self._disk, self._folders = place.disk, place.folders
        self._name, self._job_id = place.name, place.job_id
        self._store_id = place.store_id
        self._path = self._folders.journals / f"{place.name}.jsonl"
        head = self._folders.heads / place.name
        self._head = HeadFile(place.disk, head, place.lock_timeout_seconds)
        self._opened: OpenFile | None = None

    @property
    def inode(self) -> int:
        """The inode of the open journal; 0 if none is open."""
        return 0 if self._opened is None else self._opened.inode

    def stamp(self) -> Stamp | None:
        """Return the stamp of the journal, None if there is no journal."""
        try:
            found = self._disk.stat(self._path)
        except OSError as exc:
            raise failure(exc, f"cannot read {self._path}") from exc
        return None if found is None else Stamp(found.inode, found.size)

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the journal from `offset`.

        Raises:
            StorageFailed: it cannot be opened or read.
        """
        try:
            return self._open_journal().file.read(offset, size)
        except OSError as exc:
            raise failure(exc, f"cannot read {self._path}") from exc

    def extent(self) -> Extent:
        """Return the acknowledged extent, without the lock and without any change.

        Raises:
            DamagedJournal: acknowledged events are missing.
        """
        try:
            raw = self._head.peek()
            head = head_codec.decode(raw)
            found = self._disk.stat(self._path)
            if head is None or head.shown.seq == 0:
                return Extent()
            return self._current_extent(head, raw, found)
        except OSError as exc:
            fail(exc, f"cannot read {self._path}")

    def _current_extent(self, head: Head, raw: bytes, found: Stat | None) -> Extent:
        is_known = found is not None and head.inode == found.inode
        if is_known and found and found.size >= head.shown.size:
            self._open_journal()
            return head.shown
        # The journal was rewritten, copied or truncated.
        facts = self._look(raw, found)
        ruling = judge(facts)
        # Without `shown`, a repair that gives up acknowledged events is unfinished and
        # perhaps not durable, or a power cut took unsynced events: both are refused.
        if facts.shown is None or facts.is_foreign or facts.is_altered:
            raise self._damaged(
                problem_of(facts, ruling) or _mismatch(facts, head.shown)
            )
        return facts.shown

    def _look(
        self,
        raw: bytes | None,
        found: Stat | None,
        trusted: Extent | None = None,
        *,
        is_poisoned: bool = False,
    ) -> Facts:
        """Return the facts about both files; see `recovery.look`."""
        size, inode = (None, 0) if found is None else (found.size, found.inode)
        evidence = Evidence(self._name, raw, size, inode, self.read)
        return recovery.look(
            evidence,
            self._job_id,
            self._store_id(),
            trusted=trusted,
            is_poisoned=is_poisoned,
        )

    def _refuse(self, facts: Facts, ruling: Judgement) -> None:
        """Raise if the judgement allows neither recovery nor a write.

        Raises:
            DamagedJournal: a person must decide.
            NewerFormat: only a newer version may write.
        """
        match ruling.verdict:
            case Condition.NEWER if not _is_kept_as_it_is(facts):
                raise NewerFormat(
                    f"event {facts.newer_seq} of job {self._job_id!r} was written by a "
                    "newer Milepost; only that version can recover this job",
                    hint="upgrade",
                )
            case Condition.JOURNAL_MISSING | Condition.DAMAGED | Condition.FOREIGN:
                problem = problem_of(facts, ruling)
                assert problem is not None, "damage has a place"
                raise self._damaged(problem, is_gone=facts.size == 0)

    def _open_journal(self) -> OpenFile:
        """Return the open journal; open it again if a rewrite has replaced it."""
        opened = self._opened
        found = self._disk.stat(self._path)
        if opened is None or found is None or found.inode != opened.inode:
            opened = self._opened = OpenFile.of(self._disk, self._path, "append")
        return opened

    def _damaged(
        self, problem: CorruptLine, *, is_gone: bool = False
    ) -> DamagedJournal:
        try:
            line = 0 if is_gone else line_number(self.read, problem.offset)
        except StorageFailed:
            line = 0
        return DamagedJournal(
            self._job_id,
            line=line,
            offset=problem.offset,
            expected=problem.expected,
            found=problem.found,
        )


def _is_kept_as_it_is(facts: Facts) -> bool:
    """Return whether recovery has nothing to do, and so nothing to journal."""
    is_poisoned = facts.head is not None and facts.head.is_poisoned
    is_whole = facts.tail is Action.NOTHING and not facts.lost_events
    return is_whole and facts.has_head and not is_poisoned


def _mismatch(facts: Facts, shown: Extent) -> CorruptLine:
    what = f"event {shown.seq} with hash {shown.hash}"
    found = f"event {facts.proven.seq} with hash {facts.proven.hash} as the last"
    return CorruptLine(facts.proven.size, what, found)
