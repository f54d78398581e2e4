"""Crash recovery of a job's journal and head file, under the job's lock.

`milepost.journal.storage.files.recovery.facts` finds the facts,
`milepost.journal.recovery.diagnosis` decides, and these functions act.  They keep no
state: what a process remembers of a job between two locks is a `Memory`.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal.disk import copy_file, whole_file
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import NewerFormat, StorageFailed
from milepost.journal.recovery.diagnosis import Condition
from milepost.journal.storage import removals
from milepost.journal.storage.files import cache
from milepost.journal.storage.files.recovery.facts import origin_of_journal
from milepost.journal.storage.files.recovery.head import Extent, Head
from milepost.journal.storage.files.recovery.judgement import Action, judge, problem_of
from milepost.journal.storage.files.recovery.passage import pieces

if TYPE_CHECKING:
    from milepost.journal.disk.disk import File, Stat
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.storage.files.job_files import JobFiles
    from milepost.journal.storage.files.recovery.judgement import Facts, Judgement
    from milepost.journal.storage.removals import Removal

_log = logging.getLogger("milepost.journal")

# In these rows all bytes behind the trusted event are kept, so that nothing before it
# needs to be read.
_AS_IT_IS = frozenset({"R10", "R11"})


class Memory:
    """What this process remembers of a job's files between two locks.

    Attributes:
        is_settled: recovered, and no write of ours is unfinished.
        is_poisoned: even if the mark in the head could not be written.
        is_shared: the journal has other hard links, as in a snapshot.
        owes_sync: a write was acknowledged before its sync.
        pending: repairs to journal that left no salvage file.
        may_owe_repairs: until none is found, or all are journaled.
    """

    __slots__ = (
        "is_poisoned",
        "is_settled",
        "is_shared",
        "may_owe_repairs",
        "owes_sync",
        "pending",
    )

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget a job that was removed."""
        self.is_settled = self.is_poisoned = self.is_shared = self.owes_sync = False
        self.pending: list[JobRepairedData] = []
        self.may_owe_repairs = True

    def has_written(self) -> None:
        """Note that a write was acknowledged, which journaled all repairs."""
        self.pending.clear()
        self.may_owe_repairs = False
        self.is_settled = True


def is_as_left(files: JobFiles, memory: Memory, raw: bytes, found: Stat | None) -> bool:
    """Return whether no other process wrote since, and nothing is to be recovered.

    Args:
        files: of the job, whose lock is held.
        memory: of them; learns whether the journal has other links.
        raw: the bytes of the head.
        found: the journal.
    """
    head = files.head.head
    memory.is_shared = found is not None and found.links > 1
    return (
        memory.is_settled
        and raw == files.head.raw
        and found is not None
        and found.size == head.shown.size
        and found.inode == head.inode == files.inode
        and not memory.is_poisoned
        and not head.is_poisoned
    )


def settle(files: JobFiles, memory: Memory) -> Extent:
    """Recover both files, under the lock; return the acknowledged extent."""
    raw = files.head.read()
    found = files.stat()
    if is_as_left(files, memory, raw, found):
        return files.head.head.shown
    # Another writer may have crashed before it journaled a repair.
    memory.may_owe_repairs = True
    has_slot = files.head.take_over(raw)
    files.head.secure()
    # A head that this process created for its lock counts as missing, unless
    # another process has written to it since.
    known = raw if has_slot or not files.head.is_new else None
    extent = _settle_as(files, memory, known, found)
    files.head.allocate()
    files.head.begin()
    memory.is_settled = True
    return extent


def _settle_as(
    files: JobFiles, memory: Memory, raw: bytes | None, found: Stat | None
) -> Extent:
    """Carry out the judgement of the files."""
    head = files.head.head
    is_poisoned = head.is_poisoned or memory.is_poisoned
    if is_poisoned and found is not None and found.size:
        # After a failed sync the kernel may mark unwritten pages as clean.  Then a
        # second sync proves nothing, so the journal is read from the medium.
        files.open_journal()
        files.writable_journal().drop_cache()
    trusted = None if is_poisoned else _trusted(memory, head, found)
    facts = files.look(raw, found, trusted, is_poisoned=is_poisoned)
    ruling = judge(facts)
    if trusted is not None and ruling.row not in _AS_IT_IS:
        # Before a repair, the whole journal is verified, not only its tail.
        facts = files.look(raw, found)
        ruling = judge(facts)
    refuse(files, facts, ruling)
    if facts.is_removed:
        if files.head.is_writable:  # otherwise another process completes it
            remove(files, memory)
        return Extent()
    if facts.size == 0:
        if is_poisoned:
            files.head.clear()
        files.head.head = Head(writing=files.head.head.writing)
        return Extent()
    files.open_journal()
    if not memory.is_settled:
        _remove_leftovers(files)
    if head.inode != files.inode or (not memory.is_settled and not head.shown.seq):
        _sync_names(files)
    if ruling.verdict is Condition.POISONED:
        return _heal(files, memory, facts)
    if ruling.verdict is Condition.HEAD_MISSING:
        _owe(memory, {"reason": "head_missing"})
    if facts.proven == trusted == head.shown and facts.tail is Action.NOTHING:
        return facts.proven
    return _carry_out(files, memory, facts)


def _trusted(memory: Memory, head: Head, found: Stat | None) -> Extent | None:
    """Return an acknowledged event at the offset in the head; None if unknown."""
    # In other modes a power cut may have taken events after the last sync, but not
    # events that this process has seen since it started.
    is_durable = head.durability == "always" or memory.is_settled
    last = head.shown if is_durable else head.synced
    is_there = found is not None and head.inode == found.inode
    return last if is_there and found and last.size <= found.size else None


def _remove_leftovers(files: JobFiles) -> None:
    """Remove temporary files of crashed processes."""
    folders = files.folders
    for folder in (folders.journals, folders.heads, folders.salvage):
        leftover = folder / f"{files.name}.tmp"
        if files.disk.stat(leftover) is not None:
            files.disk.unlink(leftover)
    with suppress(Busy):  # a compaction is in progress
        copy_file.remove_leftover(files.disk, files.copy_path)
    files.snapshot.sweep()


def _sync_names(files: JobFiles) -> None:
    """Sync the names of files whose creator or rewriter may have crashed.

    Needed only if the head does not refer to this journal: a writer syncs the names
    before it moves the head.
    """
    for folder in (
        files.folders.journals,
        files.folders.heads,
        files.folders.root,
        files.folders.root.parent,
    ):
        files.disk.sync_folder(folder)


def bury(files: JobFiles, removal: Removal) -> None:
    """Write the tombstone of a job, under its lock.

    Raises:
        StorageFailed: it may be there; the job is whole.
    """
    origin = origin_of_journal(files.read)
    assert origin is not None, "its first line is proven"
    removals.bury(files.store, origin, removal)


def remove(files: JobFiles, memory: Memory) -> None:
    """Remove all files of a job that has a tombstone, durably, under its lock.

    First the head acknowledges nothing any more: the job is unknown.  The journal goes
    last: as long as it is there, the next recovery does this again (R23).  The head
    goes when its lock is released.

    Raises:
        OSError: a file cannot be removed, or a folder not be synced.
    """
    files.head.clear()
    files.salvage_files.remove(files.salvage.names_of(files.name))
    files.snapshot.remove()
    _remove_leftovers(files)
    for folder in (files.folders.salvage, files.folders.snapshots):
        if files.disk.stat(folder) is not None:
            files.disk.sync_folder(folder)
    files.disk.unlink(files.path)
    files.disk.sync_folder(files.folders.journals)
    cache.drop(files.disk, files.folders)
    files.opened = None
    files.count_removal()
    files.head.is_spent = True
    memory.forget()


def _carry_out(files: JobFiles, memory: Memory, facts: Facts) -> Extent:
    """Cut the journal to its proven part, durably, and acknowledge that."""
    keep, file = facts.proven, private_journal(files, memory)
    if facts.tail is Action.FINISH_LINE:
        file.append(b"\n")
    if facts.tail is Action.CUT or facts.lost_events:
        # Even an empty file is kept if acknowledged events are missing, because its
        # name records their number.
        _keep_aside(files, memory, keep.size, facts)
    if facts.tail is Action.CUT:
        file.truncate(keep.size)
        _log.warning(
            "job %r: cut %d unacknowledged bytes at byte %d: %s",
            files.job_id,
            facts.size - keep.size,
            keep.size,
            facts.problem,
        )
    file.sync(metadata=True)
    # Events are shown only if they are on the medium, not just in the page cache.
    file.drop_cache()
    if files.look(files.head.raw, file.stat(), facts.base).proven != keep:
        raise StorageFailed(f"{files.path} reads differently after a sync")
    files.move_head(keep, synced=keep)
    if facts.head is None:
        files.move_head(keep, synced=keep)  # a torn write must leave a valid slot
    if facts.head is None or facts.is_given_up:
        # Until this is durable, the next write must not overwrite the other slot: a
        # power cut could leave one that acknowledges events that were given up.
        files.head.sync()
    return keep


def _owe(memory: Memory, repair: JobRepairedData) -> None:
    memory.pending.append(repair)
    memory.may_owe_repairs = True


def _keep_aside(files: JobFiles, memory: Memory, offset: int, facts: Facts) -> None:
    """Write the bytes that will be cut to a salvage file, durably."""
    memory.may_owe_repairs = True
    rest = partial(pieces, files.read, offset, facts.size)
    files.salvage_files.keep(rest, offset, facts.lost_events)


def _heal(files: JobFiles, memory: Memory, facts: Facts) -> Extent:
    """Rewrite the journal from the medium after a failed sync."""
    assert facts.head is not None
    assert facts.text is not None
    keep = facts.proven
    if facts.head.inode == files.inode:
        # Later events were not acknowledged.  With another inode they may have
        # been: then a power cut brought back a mark older than the rewrite.
        keep = min(keep, facts.head.shown)
    if facts.size > keep.size or facts.lost_events:
        _keep_aside(files, memory, keep.size, facts)
    healed = pieces(facts.text.read, 0, keep.size)
    whole_file.replace(files.disk, files.temporary, files.path, healed)
    files.open_journal()
    memory.is_poisoned = False
    _owe(memory, {"reason": "sync_failed"})
    files.move_head(keep, synced=keep)
    files.head.sync()
    return keep


def repairs(files: JobFiles, memory: Memory) -> list[JobRepairedData]:
    """Return what recovery did here; see `HeldJob.repairs`."""
    if not memory.may_owe_repairs:
        return []
    found = [*memory.pending, *files.salvage_files.repairs()]
    memory.may_owe_repairs = bool(found)
    return found


def private_journal(files: JobFiles, memory: Memory) -> File:
    """Return the open journal for writing in place, without other hard links.

    A copy of the store by hard links (``cp -al``) shares the file.  The journal is
    then replaced by a copy, so that the snapshot does not change.

    Raises:
        ReadOnlyStore: this user may not write to it, or not create one like it.
        OSError: it cannot be copied.
    """
    file = files.writable_journal()
    if not memory.is_shared:
        return file
    memory.is_settled = False  # until the head refers to the new file
    whole = pieces(file.read, 0, file.stat().size)
    whole_file.replace(files.disk, files.temporary, files.path, whole)
    memory.is_shared = False
    return files.open_journal().file


def refuse(files: JobFiles, facts: Facts, ruling: Judgement) -> None:
    """Raise if the judgement allows neither recovery nor a write.

    Raises:
        DamagedJournal: a person must decide.
        NewerFormat: only a newer version may write.
    """
    match ruling.verdict:
        case Condition.NEWER if not _is_kept_as_it_is(facts):
            raise NewerFormat(
                f"event {facts.newer_seq} of job {files.job_id!r} was written by a "
                "newer Milepost; only that version can recover this job",
                hint="upgrade",
            )
        case Condition.JOURNAL_MISSING | Condition.DAMAGED | Condition.FOREIGN:
            problem = problem_of(facts, ruling)
            assert problem is not None, "damage has a place"
            raise files.damaged(problem, is_gone=facts.size == 0)


def may_make_head(files: JobFiles, *, wait: bool) -> bool:
    """Return whether a missing head may be created, for a new or a copied job.

    Decided before it is created: an empty head of a journal with a bad tail would
    look like an interrupted creation.

    Raises:
        DamagedJournal: the journal has a bad tail and no head.
    """
    found = files.stat()
    if found is None or found.size == 0:
        return wait
    facts = files.look(None, found)
    refuse(files, facts, judge(facts))
    return True


def _is_kept_as_it_is(facts: Facts) -> bool:
    """Return whether recovery has nothing to do, and so nothing to journal."""
    is_poisoned = facts.head is not None and facts.head.is_poisoned
    is_whole = facts.tail is Action.NOTHING and not facts.lost_events
    return is_whole and facts.has_head and not is_poisoned
