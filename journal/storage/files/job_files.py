"""One job's two files: the journal and its head, opened on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.errors import DamagedJournal, ReadOnlyStore, StorageFailed
from milepost.journal.events.codec import CorruptLine
from milepost.journal.storage.contract import Version
from milepost.journal.storage.files.failures import failure
from milepost.journal.storage.files.head_file import HeadFile, OpenFile
from milepost.journal.storage.files.recovery.facts import look
from milepost.journal.storage.files.recovery.head import Head
from milepost.journal.storage.files.recovery.passage import line_number
from milepost.journal.storage.files.recovery.salvage import SalvageFiles
from milepost.journal.storage.files.recovery.snapshot import Evidence, has_tombstone
from milepost.journal.storage.files.snapshot_file import SnapshotFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.disk.disk import File, Stat
    from milepost.journal.storage.files.folders import Durability, Place
    from milepost.journal.storage.files.recovery.head import Extent
    from milepost.journal.storage.files.recovery.judgement import Facts


class JobFiles:
    """The files of one job.

    Safe for threads: each keeps a reference to the file that it uses, and a replaced
    file is closed when it is unreferenced.

    Args:
        place: their location.
        lists: counts the job among those that have files open, unless it is listed;
            returns whether it is listed now.

    Attributes:
        name: of the files, without ending.
        path: of the journal.
        copy_path: of a copy that will replace the journal.
        temporary: of a copy that recovery makes.
        salvage: the folder of the salvage files of all jobs.
        salvage_files: those of this job.
        head: the head file, which is also the lock.
        snapshot: the snapshot of the job's fold.
        store: has the store's records.
        preparing: see `JobLock.try_take`.
        opened: the journal, if it is open.
        is_listed: the job counts among those that have files open.
    """

    def __init__(self, place: Place, lists: Callable[[], bool]) -> None:
        self.disk, self.folders = place.disk, place.folders
        self.name, self.job_id = place.name, place.job_id
        self.durability: Durability = place.durability
        self.path = self.folders.journals / f"{self.name}.jsonl"
        self._journal = str(self.path)  # quicker to ask for
        self.copy_path = self.folders.journals / f"{self.name}.copy"
        self.temporary = self.folders.journals / f"{self.name}.tmp"
        self.salvage = place.salvage
        self.salvage_files = SalvageFiles(place.disk, place.salvage, place.name)
        head = self.folders.heads / place.name
        self.head = HeadFile(place.disk, head, place.lock_timeout_seconds)
        self.snapshot = SnapshotFile(
            place.disk, place.folders, place.name, place.job_id
        )
        self.opened: OpenFile | None = None
        self.is_listed = False
        self.store = place.store
        self.preparing = place.preparing
        self._store_id = place.store_id
        self._removed = place.removed
        self._lists = lists

    @property
    def inode(self) -> int:
        """The inode of the open journal; 0 if none is open."""
        return 0 if self.opened is None else self.opened.inode

    def stat(self) -> Stat | None:
        """Return the inode and size of the journal; None if there is none.

        Raises:
            OSError: it cannot be read.
        """
        return self.disk.stat(self._journal)

    def version(self, inode: int, size: int) -> Version:
        """Return the version of the job in a journal of this inode and size.

        The journal of a new job may get the inode of the one that was removed.
        """
        return Version(inode + (self._removed.get(self.job_id, 0) << 64), size)

    def count_removal(self) -> None:
        """Tell the next journal from the one that was just removed."""
        self._removed[self.job_id] += 1

    def count_as_open(self) -> None:
        """Count among the jobs that have files open."""
        if not self.is_listed:
            self.is_listed = self._lists()

    # -- the journal -----------------------------------------------------------------

    def open_journal(self) -> OpenFile:
        """Return the open journal; open it again if a rewrite has replaced it.

        Raises:
            DamagedJournal: there is none: it was lost, or the job is removed just now.
            OSError: it cannot be opened.
        """
        opened = self.opened
        found = self.stat()
        if opened is None or found is None or found.inode != opened.inode:
            self.count_as_open()
            try:
                opened = self.opened = OpenFile.of(self.disk, self.path, "append")
            except FileNotFoundError:
                gone = CorruptLine(0, "a journal", "no journal")
                raise self.damaged(gone, is_gone=True) from None
        return opened

    def writable_journal(self) -> File:
        """Return the open journal for writing; open it again if it was read-only.

        Raises:
            ReadOnlyStore: this user may not write to it.
            OSError: it cannot be opened.
        """
        opened = self.opened  # current, since it was opened under the lock
        if opened is None or not opened.is_writable:
            self.opened = None
            opened = self.open_journal()
        if not (opened.is_writable and self.head.is_writable):
            raise ReadOnlyStore(
                f"cannot write {self.path}: this user may only read it",
                hint="make the folder writable for this user",
            )
        return opened.file

    def create_journal(self) -> File:
        """Create the journal, or reuse an empty one, under the lock; return it open.

        Raises:
            OSError: it cannot be created.
        """
        # A journal whose head lost its name in a crash could not be diagnosed, and the
        # creator of this head may have crashed before it synced the name.
        self.disk.sync_folder(self.folders.heads)
        self.disk.make_folder(self.folders.journals)
        found = self.stat()
        is_left_over = found is not None  # an empty file: R2
        if found is not None and found.links > 1:
            self.disk.unlink(self.path)
            is_left_over = False
        file = self.disk.open(self.path, "append", create=not is_left_over)
        self.head.is_spent = False
        self.opened = OpenFile(file, file.stat().inode, is_writable=True)
        return file

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the journal from `offset`.

        Raises:
            StorageFailed: it cannot be opened or read.
        """
        try:
            return self.open_journal().file.read(offset, size)
        except OSError as exc:
            raise failure(exc, f"cannot read {self.path}") from exc

    # -- the head --------------------------------------------------------------------

    def next_head(self, shown: Extent, synced: Extent) -> Head:
        """Return the head that acknowledges `shown` of the open journal."""
        writing = self.head.head.writing + 1
        return Head(writing, shown, self.inode, self.durability, synced)

    def move_head(self, shown: Extent, *, synced: Extent) -> None:
        """Acknowledge `shown` of the open journal, under the lock, without a sync.

        Raises:
            OSError: the head cannot be written.
        """
        self.head.write(self.next_head(shown, synced))

    # -- both ------------------------------------------------------------------------

    def look(
        self,
        raw: bytes | None,
        found: Stat | None,
        trusted: Extent | None = None,
        *,
        is_poisoned: bool = False,
    ) -> Facts:
        """Return the facts about both files.

        Args:
            raw: the bytes of the head; None if it is missing.
            found: the journal; None if it is missing.
            trusted: see `facts.look`.
            is_poisoned: see `facts.look`.
        """
        size, inode = (None, 0) if found is None else (found.size, found.inode)
        evidence = Evidence(
            self.name, raw, size, inode, self.read, is_removed=self._is_removed
        )
        return look(
            evidence,
            self.job_id,
            self._store_id(),
            trusted=trusted,
            is_poisoned=is_poisoned,
        )

    def _is_removed(self, origin: str) -> bool:
        return has_tombstone(self.disk, self.folders.root, origin)

    def remove_head(self) -> None:
        """Remove the head under its lock, durably; waiters notice, and make another.

        Raises:
            StorageFailed: it may still be there, and acknowledges nothing.
        """
        try:
            self.head.remove()
            self.disk.sync_folder(self.folders.heads)
        except OSError as exc:
            raise failure(exc, f"cannot remove the head of {self.path}") from exc

    def damaged(self, problem: CorruptLine, *, is_gone: bool = False) -> DamagedJournal:
        """Return the error for a problem in the journal, with its line."""
        try:
            line = 0 if is_gone else line_number(self.read, problem.offset)
        except StorageFailed:
            line = 0
        return DamagedJournal(
            self.job_id,
            line=line,
            offset=problem.offset,
            expected=problem.expected,
            found=problem.found,
        )

    def close(self) -> None:
        """Close both files; they are opened again on the next use."""
        self.head.close()
        self.opened = None
        self.is_listed = False

    def after_fork(self) -> None:
        """Close descriptors without a sync or an unlock; the object is not reused."""
        if self.opened is not None:
            self.opened.file.close()
        self.head.after_fork()
