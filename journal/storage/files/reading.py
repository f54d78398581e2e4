"""Read access to one job's two files: the journal and its head.

Reading takes no lock and changes nothing.  Readers show acknowledged events only; other
events in the journal are first recovered under the lock.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, cast

from milepost.journal.errors import (
    DamagedJournal,
    MilepostError,
    NewerFormat,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
    UnreadableState,
)
from milepost.journal.events.codec import CorruptLine, Mark
from milepost.journal.recovery.diagnosis import Condition
from milepost.journal.storage.contract import Position, Version
from milepost.journal.storage.files.head_file import HeadFile, OpenFile
from milepost.journal.storage.files.places import Places
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.facts import look
from milepost.journal.storage.files.recovery.head import Extent
from milepost.journal.storage.files.recovery.judgement import Action, judge, problem_of
from milepost.journal.storage.files.recovery.passage import line_number, walk
from milepost.journal.storage.files.recovery.snapshot import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, Stat
    from milepost.journal.events.codec import Located, Stored
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.storage.contract import OnPiece
    from milepost.journal.storage.files.job_files import JournalFile
    from milepost.journal.storage.files.recovery.head import Head
    from milepost.journal.storage.files.recovery.judgement import Facts, Judgement
    from milepost.journal.storage.files.recovery.salvage import SalvageFolder

Durability = Literal["always", "interval", "never"]

# An event line ends in `<64 hex>"}\n`.
HASH_BYTES, HASH_END_BYTES = 64, 67
# Places are recorded in portions of this many events.
_MOST_UNLEARNED = 4096


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
        has_files_open: called before files are opened, unless the job is listed.
        writes: called before a write.
    """

    disk: Disk
    folders: Folders
    salvage: SalvageFolder
    name: str
    job_id: str
    store_id: Callable[[], str | None]
    durability: Durability
    lock_timeout_seconds: float
    has_files_open: Callable[[JournalFile], None]
    writes: Callable[[], None]


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
        self._places = Places(0)
        self._shown = Extent()  # the acknowledged extent, when it was last looked up
        self._has_files_open = place.has_files_open
        self.is_listed = False  # counts among those that have files open

    @property
    def job_id(self) -> str:
        """The job."""
        return self._job_id

    @property
    def inode(self) -> int:
        """The inode of the open journal; 0 if none is open."""
        return 0 if self._opened is None else self._opened.inode

    def version(self) -> Version | None:
        """See `JobStorage.version`."""
        try:
            found = self._disk.stat(self._path)
        except OSError as exc:
            raise failure(exc, f"cannot read {self._path}") from exc
        return None if found is None else Version(found.inode, found.size)

    def position(self) -> Position:
        """See `JobStorage.position`."""
        found = self.version()
        shown = self.extent()
        if found is None:
            return Position(Mark(shown.seq, shown.hash))
        version = found._replace(size=shown.size)
        is_settled = found.size <= shown.size
        return Position(Mark(shown.seq, shown.hash), version, is_settled)

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
            self._shown = head.shown
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
        self._shown = facts.shown
        return facts.shown

    def _look(
        self,
        raw: bytes | None,
        found: Stat | None,
        trusted: Extent | None = None,
        *,
        is_poisoned: bool = False,
    ) -> Facts:
        """Return the facts about both files; see `look`."""
        size, inode = (None, 0) if found is None else (found.size, found.inode)
        evidence = Evidence(self._name, raw, size, inode, self.read)
        return look(
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

    def _list(self) -> None:
        """Count among the jobs that have files open."""
        if not self.is_listed:
            # A subclass: the storage lists nothing else.
            self._has_files_open(cast("JournalFile", self))

    def _open_journal(self) -> OpenFile:
        """Return the open journal; open it again if a rewrite has replaced it."""
        opened = self._opened
        found = self._disk.stat(self._path)
        if opened is None or found is None or found.inode != opened.inode:
            self._list()
            opened = self._opened = OpenFile.of(self._disk, self._path, "append")
        return opened

    # -- events by seq -------------------------------------------------------------

    def events(
        self, after: Mark, until_seq: int, on_piece: OnPiece | None = None
    ) -> Iterator[Stored]:
        """See `JobStorage.events`."""
        if until_seq <= after.seq:
            return
        for located, _, _ in self.walk(after, until_seq, on_piece):
            event, _, size, fault = located
            if event["seq"] > after.seq:
                yield event, size, fault

    def walk(
        self, after: Mark, until_seq: int, on_piece: OnPiece | None = None
    ) -> Iterator[tuple[Located, bytes, int]]:
        """Yield events from the last known place before `after` on, as `passage.walk`.

        Raises:
            DamagedJournal, StorageFailed: as `events`.
        """
        places = self._places_now()
        seq = min(after.seq, places.last)
        end = places.ends[seq]
        prev = after.hash if seq == after.seq else ""
        start = Extent(seq, prev or self._hash_before(end), end)
        size = self._end_of(until_seq, places)
        first, ends = seq + 1, list[int]()
        try:
            for found in walk(self.read, start, size, on_piece):
                event, offset, length, _ = found[0]
                ends.append(offset + length)
                seq = event["seq"]
                if seq == after.seq and after.hash not in ("", event["hash"]):
                    raise _other(after, event, offset)
                yield found
                if seq >= until_seq and ends[-1] < size:
                    break
                if len(ends) >= _MOST_UNLEARNED:
                    places.learn(first, ends)
                    first, ends = seq + 1, []
        except CorruptLine as exc:
            raise self._damaged(exc) from exc
        finally:
            places.learn(first, ends)

    def _places_now(self) -> Places:
        """Return the places of the file that is the journal now."""
        try:
            inode = self._open_journal().inode
        except OSError as exc:
            raise failure(exc, f"cannot read {self._path}") from exc
        if self._places.inode != inode:
            self._places = Places(inode)
        return self._places

    def _hash_before(self, end: int) -> str:
        """Return the hash of the event that ends at `end`; empty at the start."""
        return self.read(end - HASH_END_BYTES, HASH_BYTES).decode() if end else ""

    def _end_of(self, seq: int, places: Places) -> int:
        """Return a place behind event `seq` up to which the journal can be read."""
        if seq <= places.last:
            return places.ends[seq]
        shown = self._shown if seq <= self._shown.seq else self.extent()
        return shown.size

    def _place_of(self, seq: int) -> tuple[int, int]:
        places = self._places_now()
        if seq > places.last:
            for _ in self.walk(Mark(places.last), seq):
                pass
        if not 0 < seq <= places.last:
            raise UnreadableState(f"event {seq} does not exist")
        return places.of(seq)

    def lines(self, seq: int) -> tuple[bytes, bytes]:
        """See `JobStorage.lines`."""
        lines = self.read(*self._place_of(seq))
        state_line, _, event_line = lines.rstrip(b"\n").rpartition(b"\n")
        return state_line, event_line

    def first_bytes(self, seq: int, most: int) -> bytes:
        """See `JobStorage.first_bytes`."""
        offset, size = self._place_of(seq)
        return self.read(offset, min(size, most))

    def damage(self, after_seq: int, expected: str, found: str) -> DamagedJournal:
        """See `JobStorage.damage`."""
        places = self._places
        offset = places.ends[min(after_seq, places.last)]
        return self._damaged(CorruptLine(offset, expected, found))

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


def _other(after: Mark, event: Event, offset: int) -> CorruptLine:
    """Return the problem of an event that is not the one which the caller knows."""
    expected = f"event {after.seq} with hash {after.hash}"
    return CorruptLine(offset, expected, f"one with hash {event['hash']}")


def _is_kept_as_it_is(facts: Facts) -> bool:
    """Return whether recovery has nothing to do, and so nothing to journal."""
    is_poisoned = facts.head is not None and facts.head.is_poisoned
    is_whole = facts.tail is Action.NOTHING and not facts.lost_events
    return is_whole and facts.has_head and not is_poisoned


def _mismatch(facts: Facts, shown: Extent) -> CorruptLine:
    what = f"event {shown.seq} with hash {shown.hash}"
    found = f"event {facts.proven.seq} with hash {facts.proven.hash} as the last"
    return CorruptLine(facts.proven.size, what, found)
