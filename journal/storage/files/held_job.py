"""A job under its lock: an append is one write, one sync, and a new head.

The order is essential: durable, then acknowledged.
"""

from __future__ import annotations

import logging
from array import array
from contextlib import contextmanager, suppress
from itertools import accumulate
from typing import TYPE_CHECKING

from milepost.journal.disk import copy_file
from milepost.journal.errors import NoSpace, StorageFailed
from milepost.journal.events.codec import Mark
from milepost.journal.storage.contract import Position, Version, refuse_other
from milepost.journal.storage.files import recovering
from milepost.journal.storage.files.failures import fail, failure
from milepost.journal.storage.files.head_file import OpenFile
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery import snapshot
from milepost.journal.storage.files.recovery.head import Extent
from milepost.journal.storage.files.rewriting import JournalRewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from milepost.journal.disk.copy_file import JournalCopy
    from milepost.journal.disk.disk import File
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.storage.contract import Rewrite
    from milepost.journal.storage.files.job_files import JobFiles
    from milepost.journal.storage.files.places import Known
    from milepost.journal.storage.files.recovering import Memory
    from milepost.journal.storage.files.recovery.head import Head
    from milepost.journal.storage.files.recovery.salvage import Data
    from milepost.journal.storage.files.recovery.snapshot import Evidence
    from milepost.journal.storage.removals import Removal

_log = logging.getLogger("milepost.journal")


class HeldFileJob:
    """One job's files while their lock is held; see `HeldJob`.

    Args:
        files: the two files.
        memory: what recovery remembers of them.
        known: what readers know of the journal; extended by each write.
        extent: the acknowledged extent.
    """

    __slots__ = ("_files", "_known", "_memory", "extent")

    def __init__(
        self, files: JobFiles, memory: Memory, known: Known, extent: Extent
    ) -> None:
        self._files = files
        self._memory = memory
        self._known = known
        self.extent = extent

    @property
    def position(self) -> Position:
        """See `HeldJob.position`."""
        seq, hash_, _ = self.extent
        return Position(Mark(seq, hash_), self.version)

    @property
    def version(self) -> Version | None:
        """See `HeldJob.version`."""
        size = self.extent.size
        return self._files.version(self._files.inode, size) if size else None

    def append(self, expected: Mark, lines: Sequence[bytes], last: Mark) -> Version:
        """See `HeldJob.append`."""
        files = self._files
        shown = files.head.head.shown
        if shown[:2] != expected:
            refuse_other(files.job_id, Mark(shown.seq, shown.hash), expected)
        data = b"".join(lines)
        is_first = shown.size == 0
        file = self._file_for_append(is_first=is_first)
        extent = Extent(last.seq, last.hash, shown.size + len(data))
        is_synced = files.durability == "always" or is_first
        # False until the end, because an exception may intervene.
        self._memory.is_settled = False
        # Encoded before the sync, since a thread that wakes from one is slow at first.
        head = files.next_head(extent, extent if is_synced else files.head.head.synced)
        slot = head_codec.encode(head)
        try:
            taken = file.append(data)
        except OSError as exc:
            self._roll_back(file, shown.size)
            raise failure(exc, f"cannot append to {files.path}") from exc
        if taken != len(data):
            # A second call for the rest could leave half of the write after a crash.
            self._roll_back(file, shown.size)
            raise NoSpace(
                f"{files.path} took {taken} of {len(data)} bytes; nothing was written",
                hint="free some space",
            )
        if is_synced:
            files.preparing.release()
            self._sync(file, is_first=is_first)
        else:
            self._memory.owes_sync = True
        self._acknowledge(head, slot, is_first=is_first)
        self._memory.has_written()
        ends = accumulate(map(len, lines), initial=shown.size)
        places = self._known.places_of(files.inode)
        places.learn(expected.seq, array("Q", ends))
        self._known.shown = self.extent = extent
        return files.version(files.inode, extent.size)

    def _file_for_append(self, *, is_first: bool) -> File:
        files = self._files
        try:
            if is_first:
                return files.create_journal()
            return recovering.private_journal(files, self._memory)
        except OSError as exc:
            fail(exc, f"cannot write {files.path}")

    def _roll_back(self, file: File, size: int) -> None:
        """Cut a failed write off again."""
        try:
            file.truncate(size)
            file.sync(metadata=True)
            self._memory.is_settled = True
        except OSError as exc:
            raise self._poison(exc, "cannot undo a failed write to") from exc

    def _sync(self, file: File, *, is_first: bool) -> None:
        try:
            file.sync(metadata=is_first)
            if is_first:
                # The name of a new file is in its folder.  Without this sync a crash
                # can lose the whole journal, acknowledged events included.
                self._files.disk.sync_folder(self._files.folders.journals)
        except OSError as exc:
            raise self._poison(exc, "cannot sync") from exc

    def _acknowledge(self, head: Head, slot: bytes, *, is_first: bool) -> None:
        """Move the head after a write."""
        files = self._files
        try:
            files.head.put(head, slot)
            if is_first:
                files.head.write(head._replace(writing=head.writing + 1))
                files.head.sync()  # both slots: a torn write must leave a valid one
        except OSError as exc:
            # The journal has the write, so the next recovery acknowledges it.
            raise StorageFailed(
                f"wrote to {files.path}, but cannot move its head: {exc.strerror}; "
                "the write becomes visible once the disk works again",
                hint="check the disk, then read the job again before you retry",
            ) from exc

    def _poison(self, exc: OSError, what: str) -> StorageFailed:
        """Set the poison mark: no process writes while the medium's content is unknown.

        A failed sync is never retried, since the kernel may have dropped the pages.
        """
        files, memory = self._files, self._memory
        memory.is_settled, memory.is_poisoned = False, True
        head = files.head.head
        head = head._replace(
            writing=head.writing + 1, inode=files.inode, is_poisoned=True
        )
        try:
            files.head.write(head)
        except OSError:
            _log.exception("job %r: the poison mark itself failed", files.job_id)
        return StorageFailed(
            f"{what} {files.path}: {exc.strerror}; whether the last write is on the "
            "disk is unknown",
            hint="check the disk; the next write first rewrites the journal from "
            "the content of the disk",
        )

    def flush(self) -> None:
        """Sync the writes that this process acknowledged before their sync."""
        files = self._files
        if files.head.head.synced != self.extent and files.opened is not None:
            self._sync(files.opened.file, is_first=False)
            files.move_head(self.extent, synced=self.extent)
        self._memory.owes_sync = False

    def repairs(self) -> list[JobRepairedData]:
        """See `HeldJob.repairs`."""
        return recovering.repairs(self._files, self._memory)

    def recall(self, seen: Mark) -> None:
        """See `HeldJob.recall`."""
        files = self._files
        self._memory.is_settled = False
        if files.head.is_writable:
            # Inode 0 matches no file, so every process searches the journal for it.
            places = self._known.places
            size = places.ends[min(seen.seq, places.last)]
            shown = Extent(seen.seq, seen.hash, size)
            files.head.write(files.next_head(shown, shown)._replace(inode=0))
            files.head.sync()

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """See `HeldJob.remove_salvage_files`."""
        self._files.salvage_files.remove(names)

    def remove(self, removal: Removal) -> None:
        """See `HeldJob.remove`."""
        files = self._files
        refuse_other(files.job_id, self.position.last, removal.last)
        self._memory.is_settled = False
        try:
            copy_file.remove_leftover(files.disk, files.copy_path)  # or busy
            recovering.bury(files, removal)
            recovering.remove(files, self._memory)
        except OSError as exc:
            fail(exc, f"cannot remove {files.path}")
        self._known.forget()
        self.extent = Extent()

    # -- rewrites ----------------------------------------------------------------------

    def finish(self, rewrite: Rewrite) -> tuple[int, int]:
        """See `HeldJob.finish`."""
        assert isinstance(rewrite, JournalRewrite)
        rewrite.copy_up_to(self.extent.size)
        return self.extent.size, rewrite.new.size

    def replace(self, rewrite: Rewrite, lines: Sequence[bytes], last: Mark) -> None:
        """See `HeldJob.replace`."""
        assert isinstance(rewrite, JournalRewrite)
        rewrite.new.write(b"".join(lines))
        self.replace_by(rewrite.new, last)

    def replace_by(self, copy: JournalCopy, last: Mark) -> None:
        """Replace the journal by a copy, durably; the job is then recovered.

        Raises:
            StorageFailed: the outcome is unknown; either way nothing is lost.
        """
        files, memory = self._files, self._memory
        memory.is_settled = False
        if not files.head.head.shown.seq:
            files.disk.sync_folder(files.folders.heads)  # as `create_journal` does
        with suppress(OSError):  # one that stays is of another file, which shows
            files.snapshot.remove()
        placed = copy.place()
        placed.unlock()  # otherwise the next rewrite would be refused as busy
        try:
            files.disk.sync_folder(files.folders.journals)
        except OSError as exc:
            raise self._poison(exc, "cannot sync the folder of") from exc
        files.opened = OpenFile(placed, placed.stat().inode, is_writable=True)
        extent = Extent(last.seq, last.hash, copy.size)
        try:
            files.move_head(extent, synced=extent)
            files.head.sync()
        except OSError as exc:
            raise StorageFailed(
                f"rewrote {files.path}, but cannot move its head: {exc.strerror}",
                hint="check the disk; nothing is lost",
            ) from exc
        memory.owes_sync = memory.is_poisoned = False
        files.head.begin()
        memory.is_settled = True
        self.extent = extent

    # -- for a repair, without recovery ------------------------------------------------

    @contextmanager
    def evidence(self) -> Iterator[Evidence]:
        """Return a snapshot of the job's files, read from the medium."""
        files = self._files
        with snapshot.of_files(
            files.disk, files.salvage, files.name, is_held=True
        ) as found:
            # A head that was created for its lock counts as missing.
            yield found._replace(head=None) if files.head.is_new else found

    def keep_aside(self, data: Data, offset: int, lost_events: int) -> str:
        """Write bytes that will be given up to a salvage file; return its name.

        Args:
            data: the bytes, or a function that returns them in pieces.
            offset: their offset in the journal.
            lost_events: number of acknowledged events that are lost with them.
        """
        salvage_files = self._files.salvage_files
        return salvage_files.keep(data, offset, lost_events, is_damage=True)
