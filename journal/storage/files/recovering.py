"""Crash recovery of a job's journal and head file, under the job's lock.

`milepost.journal.storage.files.recovery.facts` finds the facts,
`milepost.journal.recovery.diagnosis` decides, and this module acts.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal.disk import copy_file, whole_file
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import ReadOnlyStore, StorageFailed
from milepost.journal.recovery.diagnosis import Condition
from milepost.journal.storage.files.reading import ReadableJournal
from milepost.journal.storage.files.recovery.head import Extent, Head
from milepost.journal.storage.files.recovery.judgement import Action, judge
from milepost.journal.storage.files.recovery.passage import pieces
from milepost.journal.storage.files.recovery.salvage import SalvageFiles

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.disk.disk import File, Stat
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.storage.files.reading import Durability, Place
    from milepost.journal.storage.files.recovery.judgement import Facts

_log = logging.getLogger("milepost.journal")

# In these rows all bytes behind the trusted event are kept, so that nothing before it
# needs to be read.
_AS_IT_IS = frozenset({"R10", "R11"})


class SettledJournal(ReadableJournal):
    """Recovers a job from a crashed writer before the next write."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._salvage = place.salvage
        self._salvage_files = SalvageFiles(place.disk, place.salvage, place.name)
        self._durability: Durability = place.durability
        self._is_settled = False  # recovered, and no write of ours is unfinished
        self._is_poisoned = False  # even if the mark in the head could not be written
        self._pending: list[JobRepairedData] = []
        self._may_owe_repairs = True  # until none is found, or all are journaled
        self._is_shared = False  # the journal has other hard links, as in a snapshot

    def _settle(self) -> Extent:
        """Recover both files, under the lock; return the acknowledged extent."""
        raw = self._head.read()
        found = self._disk.stat(self._path)
        head = self._head.head
        self._is_shared = found is not None and found.links > 1
        if (
            self._is_settled
            and raw == self._head.raw
            and found is not None
            and found.size == head.shown.size
            and found.inode == head.inode == self.inode
            and not self._is_poisoned
            and not head.is_poisoned
        ):
            return head.shown  # no other process wrote since
        # Another writer may have crashed before it journaled a repair.
        self._may_owe_repairs = True
        has_slot = self._head.take_over(raw)
        self._head.secure()
        # A head that this process created for its lock counts as missing, unless
        # another process has written to it since.
        known = raw if has_slot or not self._head.is_new else None
        extent = self._settle_as(known, found)
        self._head.allocate()
        self._head.begin()
        self._is_settled = True
        return extent

    def _settle_as(self, raw: bytes | None, found: Stat | None) -> Extent:
        """Carry out the judgement of the files."""
        head = self._head.head
        is_poisoned = head.is_poisoned or self._is_poisoned
        if is_poisoned and found is not None and found.size:
            # After a failed sync the kernel may mark unwritten pages as clean.  Then a
            # second sync proves nothing, so the journal is read from the medium.
            self._open_journal()
            self._writable_journal().drop_cache()
        trusted = None if is_poisoned else self._trusted(head, found)
        facts = self._look(raw, found, trusted, is_poisoned=is_poisoned)
        ruling = judge(facts)
        if trusted is not None and ruling.row not in _AS_IT_IS:
            # Before a repair, the whole journal is verified, not only its tail.
            facts = self._look(raw, found)
            ruling = judge(facts)
        self._refuse(facts, ruling)
        if facts.size == 0:
            if is_poisoned:
                self._head.clear()
            self._head.head = Head(writing=self._head.head.writing)
            return Extent()
        self._open_journal()
        if not self._is_settled:
            self._remove_leftovers()
        if head.inode != self.inode or (not self._is_settled and not head.shown.seq):
            self._sync_names()
        if ruling.verdict is Condition.POISONED:
            return self._heal(facts)
        if ruling.verdict is Condition.HEAD_MISSING:
            self._owe({"reason": "head_missing"})
        if facts.proven == trusted == head.shown and facts.tail is Action.NOTHING:
            return facts.proven
        return self._carry_out(facts)

    def _trusted(self, head: Head, found: Stat | None) -> Extent | None:
        """Return an acknowledged event at the offset in the head; None if unknown."""
        # In other modes a power cut may have taken events after the last sync, but not
        # events that this process has seen since it started.
        is_durable = head.durability == "always" or self._is_settled
        last = head.shown if is_durable else head.synced
        is_there = found is not None and head.inode == found.inode
        return last if is_there and found and last.size <= found.size else None

    def _remove_leftovers(self) -> None:
        """Remove temporary files of crashed processes."""
        for folder in self._folders[1:]:
            leftover = folder / f"{self._name}.tmp"
            if self._disk.stat(leftover) is not None:
                self._disk.unlink(leftover)
        with suppress(Busy):  # a compaction is in progress
            copy_file.remove_leftover(self._disk, self._copy_path)

    def _sync_names(self) -> None:
        """Sync the names of files whose creator or rewriter may have crashed.

        Needed only if the head does not refer to this journal: a writer syncs the names
        before it moves the head.
        """
        for folder in (
            self._folders.journals,
            self._folders.heads,
            self._folders.root,
            self._folders.root.parent,
        ):
            self._disk.sync_folder(folder)

    def _carry_out(self, facts: Facts) -> Extent:
        """Cut the journal to its proven part, durably, and acknowledge that."""
        keep, file = facts.proven, self._private_journal()
        if facts.tail is Action.FINISH_LINE:
            file.append(b"\n")
        if facts.tail is Action.CUT or facts.lost_events:
            # Even an empty file is kept if acknowledged events are missing, because its
            # name records their number.
            self._keep_aside(keep.size, facts)
        if facts.tail is Action.CUT:
            file.truncate(keep.size)
            _log.warning(
                "job %r: cut %d unacknowledged bytes at byte %d: %s",
                self._job_id,
                facts.size - keep.size,
                keep.size,
                facts.problem,
            )
        file.sync(metadata=True)
        # Events are shown only if they are on the medium, not just in the page cache.
        file.drop_cache()
        if self._look(self._head.raw, file.stat(), facts.base).proven != keep:
            raise StorageFailed(f"{self._path} reads differently after a sync")
        self._move_head(keep, synced=keep)
        if facts.head is None:
            self._move_head(keep, synced=keep)  # a torn write must leave a valid slot
        if facts.head is None or facts.is_given_up:
            # Until this is durable, the next write must not overwrite the other slot: a
            # power cut could leave one that acknowledges events that were given up.
            self._head.sync()
        return keep

    def _owe(self, repair: JobRepairedData) -> None:
        self._pending.append(repair)
        self._may_owe_repairs = True

    def _keep_aside(self, offset: int, facts: Facts) -> None:
        """Write the bytes that will be cut to a salvage file, durably."""
        self._may_owe_repairs = True
        rest = partial(pieces, self.read, offset, facts.size)
        self._salvage_files.keep(rest, offset, facts.lost_events)

    def _heal(self, facts: Facts) -> Extent:
        """Rewrite the journal from the medium after a failed sync."""
        assert facts.head is not None
        assert facts.text is not None
        keep = facts.proven
        if facts.head.inode == self.inode:
            # Later events were not acknowledged.  With another inode they may have
            # been: then a power cut brought back a mark older than the rewrite.
            keep = min(keep, facts.head.shown)
        if facts.size > keep.size or facts.lost_events:
            self._keep_aside(keep.size, facts)
        healed = pieces(facts.text.read, 0, keep.size)
        whole_file.replace(self._disk, self._temporary, self._path, healed)
        self._open_journal()
        self._is_poisoned = False
        self._owe({"reason": "sync_failed"})
        self._move_head(keep, synced=keep)
        self._head.sync()
        return keep

    def repairs(self) -> list[JobRepairedData]:
        """Return what recovery did here; see `HeldJob.repairs`."""
        if not self._may_owe_repairs:
            return []
        found = [*self._pending, *self._salvage_files.repairs()]
        self._may_owe_repairs = bool(found)
        return found

    def _writable_journal(self) -> File:
        """Return the open journal for writing; open it again if it was read-only.

        Raises:
            ReadOnlyStore: this user may not write to it.
        """
        opened = self._opened  # current, since it was opened under the lock
        if opened is None or not opened.is_writable:
            self._opened = None
            opened = self._open_journal()
        if not (opened.is_writable and self._head.is_writable):
            raise ReadOnlyStore(
                f"cannot write {self._path}: this user may only read it",
                hint="make the folder writable for this user",
            )
        return opened.file

    def _private_journal(self) -> File:
        """Return the open journal for writing in place, without other hard links.

        A copy of the store by hard links (``cp -al``) shares the file.  The journal is
        then replaced by a copy, so that the snapshot does not change.

        Raises:
            ReadOnlyStore: this user may not write to it, or not create one like it.
            OSError: it cannot be copied.
        """
        file = self._writable_journal()
        if not self._is_shared:
            return file
        self._is_settled = False  # until the head refers to the new file
        whole = pieces(file.read, 0, file.stat().size)
        whole_file.replace(self._disk, self._temporary, self._path, whole)
        self._is_shared = False
        return self._open_journal().file

    def _move_head(self, shown: Extent, *, synced: Extent) -> None:
        self._head.write(self._next_head(shown, synced))

    def _next_head(self, shown: Extent, synced: Extent) -> Head:
        writing = self._head.head.writing + 1
        return Head(writing, shown, self.inode, self._durability, synced)

    @property
    def _copy_path(self) -> Path:
        return self._folders.journals / f"{self._name}.copy"

    @property
    def _temporary(self) -> Path:
        return self._folders.journals / f"{self._name}.tmp"
