"""Bringing a job's two files into agreement after whoever died with them.

`journal.recovery` judges the bytes; this module carries the verdicts out, under the
job's lock.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from journal import journal_copy, recovery, whole_file
from journal.errors import (
    ReadOnlyStore,
    StorageFailed,
)
from journal.event_codec import BadLine, peek
from journal.head import Extent, Head
from journal.readable_journal import ReadableJournal
from journal.recovery import Action
from journal.side_files import SideFiles
from journal.storage import Busy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from journal.disk import File, Stat
    from journal.events import JobRepairedData
    from journal.readable_journal import Durability, Place

_log = logging.getLogger("milepost.journal")

_FIRST_LINE_BYTES = 8192
_PIECE_BYTES = 4 * 1024 * 1024


class SettledJournal(ReadableJournal):
    """Settles what an earlier writer left behind, before another one writes."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._side_files = SideFiles(place.disk, place.folders.side, place.name)
        self._durability: Durability = place.durability
        self._is_settled = False  # first look under the lock is done
        self._is_poisoned = False  # also when the mark in the head could not be set
        self._pending: list[JobRepairedData] = []
        self._may_owe_repairs = True  # until a look found none, or they were told
        self._lost_events = 0
        self._is_shared = False  # the journal has other names, perhaps a snapshot's

    def _settle(self) -> Extent:
        """Bring both files into agreement, under the lock; return the extent."""
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
            return head.shown  # nobody was here since
        self._may_owe_repairs = True  # whoever was here may have died before telling
        has_head = self._head.take_over(raw)
        self._head.secure()
        head = self._head.head
        if found is None or found.size == 0:
            if head.synced.seq or (head.shown.seq and head.durability == "always"):
                raise self._gone(head.shown)
            if head.is_poisoned:
                self._head.clear()
            self._head.head = Head(writing=self._head.head.writing)
            self._is_settled = True
            return Extent()
        with self._opening:
            file = self._open_journal()
        if not self._is_settled:
            self._remove_leftovers()
        if head.inode != found.inode or (not self._is_settled and not head.shown.seq):
            self._sync_names()
        if head.is_poisoned or self._is_poisoned:
            extent = self._heal(head)
        elif self._head.is_new and not has_head:
            extent = self._adopt(file, found.size)
        else:
            extent = self._settle_tail(file, head, found)
        self._head.is_new = False
        self._is_settled = True
        return extent

    def _remove_leftovers(self) -> None:
        """Remove what a rewriter who died has left behind."""
        for folder in self._folders[1:]:
            leftover = folder / f"{self._name}.tmp"
            if self._disk.stat(leftover) is not None:
                self._disk.unlink(leftover)
        with suppress(Busy):  # a compaction is on its way
            journal_copy.remove_leftover(self._disk, self._copy_path)

    def _sync_names(self) -> None:
        """Make the names durable that a creator or rewriter may have died with.

        Only where the head does not speak of this very file: before it does, whoever
        moves it has synced them.
        """
        for folder in (
            self._folders.journals,
            self._folders.heads,
            self._folders.root,
            self._folders.root.parent,
        ):
            self._disk.sync_folder(folder)

    def _check_owner(self) -> None:
        """Leave another job's journal alone: nothing in it is ours to repair."""
        line, _, _ = self.read(0, _FIRST_LINE_BYTES).partition(b"\n")
        event = peek(line)
        if event is None or event["type"] != "job.opened":
            return  # for the table to judge
        job_id = event["data"].get("job")
        if job_id != self._job_id:
            raise self._damaged(
                BadLine(0, f"job {self._job_id!r}", f"the journal of job {job_id!r}")
            )

    def _settle_tail(self, file: File, head: Head, found: Stat) -> Extent:
        base, proves = head.shown, head.durability == "always"
        is_given_up = False
        if head.inode != found.inode and head.shown.seq:
            base = self._locate(head.shown)
            is_given_up = base.hash != head.shown.hash
            head = head._replace(shown=base)  # or what was given up would be lost anew
        elif not proves and not self._is_settled:
            base = head.synced  # what came after may be gone with a power cut
        if found.size < base.size:
            raise self._truncated(base, found.size)
        if found.size == base.size and head.inode == found.inode and base == head.shown:
            return base
        data = file.read(base.size, found.size - base.size)
        verdict = recovery.judge_tail(
            data,
            base,
            later_writes_prove=proves,
            # The head may be older than a compaction.
            states_may_be_gone=head.inode != found.inode,
        )
        self._lost_events = max(head.shown.seq - verdict.keep.seq, 0)
        if verdict.action is not Action.NOTHING:
            self._check_owner()
        if verdict.action is not Action.NOTHING and base.seq:
            # Nothing is repaired behind what is not itself intact, and ours.
            self._locate(base, for_repair=True)
        extent = self._carry_out(verdict, data, base)
        if is_given_up:
            # The slot that the next write overwrites acknowledges what was given up,
            # and the one before it perhaps events that no repair names.
            self._head.sync()
        return extent

    def _carry_out(
        self, verdict: recovery.TailVerdict, data: bytes, base: Extent
    ) -> Extent:
        if verdict.action is Action.QUARANTINE:
            assert verdict.problem is not None
            raise self._damaged(verdict.problem)
        keep, file = verdict.keep, self._private_journal()
        if verdict.action is Action.FINISH_LINE:
            file.append(b"\n")
        rest = data[keep.size - base.size :]
        if verdict.action is Action.CUT or self._lost_events:
            # Even nothing is kept, if it is all that is left of acknowledged events:
            # the file's name says how many there were.
            self._keep_aside(rest, keep.size)
        if verdict.action is Action.CUT:
            file.truncate(keep.size)
            _log.warning(
                "job %r: cut %d unacknowledged bytes at byte %d: %s",
                self._job_id,
                len(rest),
                keep.size,
                verdict.problem,
            )
        file.sync(metadata=True)
        # Shown only if the medium has it, not just the page cache.
        file.drop_cache()
        again = file.read(base.size, keep.size - base.size)
        if not (data + b"\n").startswith(again) or len(again) != keep.size - base.size:
            raise StorageFailed(f"{self._path} reads differently after a sync")
        self._move_head(keep, synced=keep)
        return keep

    def _adopt(self, file: File, size: int) -> Extent:
        """Take over a journal that came without its head."""
        data = file.read(0, size)
        verdict = self._judge_headless(data)
        self._owe({"reason": "head_missing"})
        extent = self._carry_out(verdict, data, Extent())
        self._head.sync()
        return extent

    def _judge_headless(self, data: bytes) -> recovery.TailVerdict:
        verdict = recovery.judge_tail(data, Extent(), states_may_be_gone=True)
        if verdict.action is not Action.NOTHING:
            raise self._damaged(
                verdict.problem or BadLine(len(data), "a newline", "the end")
            )
        return verdict

    def _owe(self, repair: JobRepairedData) -> None:
        self._pending.append(repair)
        self._may_owe_repairs = True

    def _keep_aside(self, rest: bytes, offset: int) -> None:
        """Make the bytes that will be cut durable in a file of their own."""
        self._may_owe_repairs = True
        self._side_files.keep(rest, offset, self._lost_events)

    def _heal(self, head: Head) -> Extent:
        """After a failed sync: rewrite the journal from what the medium holds."""
        file = self._writable_journal()
        # The kernel may have marked pages clean that it never wrote, so a retried
        # sync proves nothing; only the medium does.
        file.drop_cache()
        keep, self._lost_events = self._on_the_medium(file, head)
        size = file.stat().size
        if size > keep.size or self._lost_events:
            self._keep_aside(file.read(keep.size, size - keep.size), keep.size)
        whole_file.replace(
            self._disk, self._temporary, self._path, [file.read(0, keep.size)]
        )
        with self._opening:
            self._open_journal()
        self._is_poisoned = False
        self._owe({"reason": "sync_failed"})
        self._move_head(keep, synced=keep)
        self._head.sync()
        return keep

    def _on_the_medium(self, file: File, head: Head) -> tuple[Extent, int]:
        """Return how far the medium holds what was acknowledged, and what it lost."""
        proves = head.durability == "always"
        base = head.shown if proves else head.synced
        shown = head.shown
        if base.seq:
            found = self._locate(base, instead_of=shown)
            shown = shown if found.hash == base.hash else found
            base = found
        data = file.read(base.size, file.stat().size - base.size)
        verdict = recovery.judge_tail(
            data[: data.rfind(b"\n") + 1],
            base,
            later_writes_prove=proves,
            states_may_be_gone=head.inode != file.stat().inode,
        )
        if head.inode == file.stat().inode:
            keep = min(verdict.keep, shown)
            return keep, max(shown.seq - keep.seq, 0)
        # The mark is older than a rewrite that healed it, brought back by a power cut.
        # What follows it was acknowledged since, or may be.
        if verdict.action is Action.QUARANTINE:
            assert verdict.problem is not None
            raise self._damaged(verdict.problem)
        return verdict.keep, max(shown.seq - verdict.keep.seq, 0)

    def repairs(self) -> list[JobRepairedData]:
        """Return what recovery did here, side files and all; see `Held.repairs`."""
        if not self._may_owe_repairs:
            return []
        found = [*self._pending, *self._side_files.repairs()]
        self._may_owe_repairs = bool(found)
        return found

    def _writable_journal(self) -> File:
        """Return the open journal, if this user may write to it by now.

        Raises:
            ReadOnlyStore: not so.
        """
        if self._file is not None and self._is_writable and self._head.is_writable:
            return self._file  # it was the one in place when the lock was taken
        with self._opening:
            if not self._is_writable and self._file is not None:
                self._file.close()
                self._file = None
            file = self._open_journal()
        if not (self._is_writable and self._head.is_writable):
            raise ReadOnlyStore(
                f"cannot write {self._path}: this user may only read it",
                hint="make the folder writable for this user",
            )
        return file

    def _private_journal(self) -> File:
        """Return the open journal, to be written in place: no other name shows it.

        A copy made by hard links (``cp -al``) shares the file with the store.  The
        store takes a file of its own, so that the copy stays what it is.

        Raises:
            ReadOnlyStore: this user may not write to it, or not make one like it.
            OSError: it cannot be copied.
        """
        file = self._writable_journal()
        if not self._is_shared:
            return file
        self._is_settled = False  # until the head speaks of the new file
        whole_file.replace(self._disk, self._temporary, self._path, _pieces(file))
        self._is_shared = False
        with self._opening:
            return self._open_journal()

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


def _pieces(file: File) -> Iterator[bytes]:
    at = 0
    while data := file.read(at, _PIECE_BYTES):
        yield data
        at += len(data)
