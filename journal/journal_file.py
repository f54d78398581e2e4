"""One job's two files: the journal, and the head that says how far it is acknowledged.

Order is the design.  Writing: lock, settle what others left, one write, one sync, move
the head, unlock.  `journal.recovery` judges; this module carries the verdicts out.
"""

from __future__ import annotations

import errno
import logging
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from journal import evidence, journal_copy, recovery
from journal import head as head_codec
from journal.errors import (
    Conflict,
    DamagedJournal,
    MilepostError,
    NewerFormat,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from journal.event_codec import BadLine, peek, scan
from journal.events import SCHEMA_VERSION
from journal.head import Extent, Head
from journal.head_file import HeadFile, open_either
from journal.journal_copy import JournalCopy
from journal.recovery import Action, gives_up
from journal.side_files import SideFiles, write_whole
from journal.storage import Busy, Stamp

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from journal.disk import Disk, File, Stat
    from journal.events import Event, JobRepairedData
    from journal.evidence import Evidence
    from journal.storage import Copy

_log = logging.getLogger("milepost.journal")

Durability = Literal["always", "interval", "never"]
_FIRST_LINE_BYTES = 8192
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


def _misfit(offset: int, shown: Extent, found: str) -> BadLine:
    return BadLine(offset, f"event {shown.seq} with hash {shown.hash}", found)


class HeldJournal:
    """One job's files while their lock is held; see `Held`."""

    __slots__ = ("_file", "extent")

    def __init__(self, file: JournalFile, extent: Extent) -> None:
        self._file = file
        self.extent = extent

    @property
    def stamp(self) -> Stamp | None:
        """See `Held.stamp`."""
        size = self.extent.size
        return Stamp(self._file.inode, size) if size else None

    def append(self, data: bytes, *, after: int, last: Extent) -> Extent:
        """See `Held.append`."""
        self.extent = self._file.append(data, after=after, last=last)
        return self.extent

    def repairs(self) -> list[JobRepairedData]:
        """See `Held.repairs`."""
        return self._file.repairs()

    def replace(self, copy: Copy, last: Extent) -> Extent:
        """See `Held.replace`."""
        assert isinstance(copy, JournalCopy)
        self.extent = self._file.replace(copy, last)
        return self.extent

    def evidence(self) -> AbstractContextManager[Evidence]:
        """See `Unsettled.evidence`."""
        return self._file.evidence()

    def keep_aside(self, data: bytes, offset: int, lost_events: int) -> str:
        """See `Unsettled.keep_aside`."""
        return self._file.give_up(data, offset, lost_events)

    def remove_side_files(self, names: Iterable[str]) -> None:
        """See `Held.remove_side_files`."""
        self._file.remove_side_files(names)


class _Attempt:
    """A lock that is taken at once or not at all."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise Busy

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


class _Holding:
    """A generator as a context manager, at half of `contextmanager`'s price.

    Each save takes the lock, right after a sync that left the caches cold.
    """

    __slots__ = ("_steps",)

    def __init__(self, steps: Generator[HeldJournal]) -> None:
        self._steps = steps

    def __enter__(self) -> HeldJournal:
        return next(self._steps)

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if exc is None:
            next(self._steps, None)
        else:
            self._steps.throw(exc)


class JournalFile:
    """The files of one job, opened when first needed.

    Safe for threads: `_mutex` is held by the one writer, `_opening` guards descriptors.
    """

    def __init__(
        self,
        disk: Disk,
        folders: Folders,
        name: str,
        job_id: str,
        *,
        durability: Durability,
        lock_timeout_seconds: float,
    ) -> None:
        self._disk = disk
        self._folders = folders
        self._name = name
        self._job_id = job_id
        self._path = folders.journals / f"{name}.jsonl"
        self._head = HeadFile(disk, folders.heads / name, lock_timeout_seconds)
        self._side_files = SideFiles(disk, folders.side, name)
        self._durability: Durability = durability
        self._mutex = threading.Lock()
        self._opening = threading.RLock()
        self._file: File | None = None
        self.inode = 0
        self._is_settled = False  # first look under the lock is done
        self._is_writable = True  # as far as the open journal goes
        self._pending: list[JobRepairedData] = []
        self._lost_events = 0
        self._may_owe_repairs = True  # until a look found none, or they were told
        self._owes_sync = False  # something was acknowledged before its sync
        self._is_poisoned = False  # also when the mark in the head could not be set

    # -- reading -----------------------------------------------------------------

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

    # -- the lock ----------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """Whether a thread of this process writes, or is about to."""
        return self._mutex.locked()

    def exclusive(self, *, wait: bool) -> AbstractContextManager[HeldJournal]:
        """Hold the job against all other writers; see `Storage.exclusive`."""
        return _Holding(self._holding(wait=wait))

    def _holding(self, *, wait: bool) -> Generator[HeldJournal]:
        # A `with` cannot be interrupted between taking the lock and noting it.
        with self._mutex if wait else _Attempt(self._mutex):
            try:
                self._head.lock(wait=wait, may_create=self._may_make_head)
                yield HeldJournal(self, self._settle())
            except OSError as exc:
                if isinstance(exc, MilepostError):
                    raise
                raise failure(exc, f"cannot write {self._path}") from exc
            finally:
                self._head.unlock()

    @contextmanager
    def unsettled(self) -> Iterator[HeldJournal]:
        """Hold the job as it is, for a repair; see `Storage.unsettled`."""
        with self._mutex:
            try:
                self._head.lock(wait=True, may_create=lambda **_: True)
                self._is_settled = False
                self._head.take_over(self._head.read())
                yield HeldJournal(self, Extent())
            except OSError as exc:
                if isinstance(exc, MilepostError):
                    raise
                raise failure(exc, f"cannot repair {self._path}") from exc
            finally:
                if self._head.is_new:  # it would look like a creation that was cut
                    self._head.remove()
                self._head.unlock()

    @contextmanager
    def evidence(self) -> Iterator[Evidence]:
        """Look at both files; only under the lock."""
        root, name = self._folders.root, self._name
        with evidence.of_files(self._disk, root, name, is_held=True) as found:
            # A head that was made to be locked says nothing yet.
            yield found._replace(head=None) if self._head.is_new else found

    def give_up(self, data: bytes, offset: int, lost_events: int) -> str:
        """Keep what a repair takes out of the journal; see `Unsettled.keep_aside`."""
        return self._side_files.keep(data, offset, lost_events, is_damage=True)

    def _may_make_head(self, *, wait: bool) -> bool:
        """Tell whether a missing head may be made: for a new job, or to adopt one.

        Decided before it is made: an empty head beside a bad tail would look like a
        creation that was cut.

        Raises:
            DamagedJournal: the journal has a bad tail, and no head to judge it by.
        """
        found = self._disk.stat(self._path)
        if found is None or found.size == 0:
            return wait
        self._check_owner()
        self._judge_headless(self.read(0, found.size))
        return True

    def _judge_headless(self, data: bytes) -> recovery.TailVerdict:
        verdict = recovery.judge_tail(data, Extent(), states_may_be_gone=True)
        if verdict.action is not Action.NOTHING:
            raise self._damaged(
                verdict.problem or BadLine(len(data), "a newline", "the end")
            )
        return verdict

    # -- settling ----------------------------------------------------------------

    def _settle(self) -> Extent:
        """Bring both files into agreement, under the lock; return the extent."""
        raw = self._head.read()
        found = self._disk.stat(self._path)
        head = self._head.head
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
        head = self._head.head
        if found is None or found.size == 0:
            if head.synced.seq or (head.shown.seq and head.durability == "always"):
                raise self._gone(head.shown)
            self._head.head = Head(writing=head.writing)
            self._is_settled = True
            return Extent()
        with self._opening:
            file = self._open_journal()
        if not self._is_settled:
            self._remove_leftovers()
            if head.shown.seq == 0 or head.inode != found.inode:
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
        for folder in (self._folders.journals, self._folders.side):
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
        keep, file = verdict.keep, self._writable_journal()
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
        temporary = self._folders.journals / f"{self._name}.tmp"
        write_whole(self._disk, temporary, self._path, file.read(0, keep.size))
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

    # -- writing -----------------------------------------------------------------

    def append(self, data: bytes, *, after: int, last: Extent) -> Extent:
        """Make `data` durable behind event `after`; see `Held.append`."""
        shown = self._head.head.shown
        if shown.seq != after:
            raise Conflict(f"job {self._job_id!r} is at {shown.seq}, not {after}")
        is_first = shown.size == 0
        try:
            file = self._create_journal() if is_first else self._writable_journal()
        except OSError as exc:
            if isinstance(exc, MilepostError):
                raise
            raise failure(exc, f"cannot write {self._path}") from exc
        extent = Extent(last.seq, last.hash, shown.size + len(data))
        is_synced = self._durability == "always" or is_first
        # Encoded beforehand: a thread that wakes from a sync is slow at first.
        head = self._next_head(extent, extent if is_synced else self._head.head.synced)
        slot = head_codec.encode(head)
        self._write(file, data, shown.size)
        if is_synced:
            self._sync(file, is_first=is_first)
        else:
            self._owes_sync = True
        try:
            self._head.put(head, slot)
            if is_first:
                self._head.sync()
        except OSError as exc:
            # The journal has the write, so the next look at it will show it.
            self._is_settled = False
            raise StorageFailed(
                f"wrote to {self._path}, but cannot move its head: {exc.strerror}; "
                "the write will be shown once the disk works again",
                hint="look at the disk, then read the job again before you retry",
            ) from exc
        self._pending.clear()
        self._may_owe_repairs = False
        return extent

    @contextmanager
    def copying(self) -> Iterator[JournalCopy]:
        """Begin a journal that is to take this one's place; removed if it does not."""
        try:
            copy = JournalCopy(self._disk, self._copy_path)
            try:
                yield copy
            finally:
                copy.discard()
        except OSError as exc:
            if isinstance(exc, MilepostError):
                raise
            raise failure(exc, f"cannot rewrite {self._path}") from exc

    def sweep(self) -> None:
        """Remove what a rewrite that died has left; see `Storage.sweep`."""
        try:
            with suppress(Busy):
                journal_copy.remove_leftover(self._disk, self._copy_path)
        except OSError as exc:
            raise failure(exc, f"cannot remove {self._copy_path}") from exc

    @property
    def _copy_path(self) -> Path:
        return self._folders.journals / f"{self._name}.copy"

    def replace(self, copy: JournalCopy, last: Extent) -> Extent:
        """Put `copy` in the journal's place; see `Held.replace`."""
        self._is_settled = False
        if not self._head.head.shown.seq:
            self._disk.sync_folder(self._folders.heads)  # as `_create_journal` does
        placed = copy.place(self._path)
        try:
            self._disk.sync_folder(self._folders.journals)
        except OSError as exc:
            raise self._poison(exc, "cannot sync the folder of") from exc
        with self._opening:
            if self._file is not None:
                self._file.close()
            self._file, self.inode = placed, placed.stat().inode
        extent = Extent(last.seq, last.hash, copy.size)
        try:
            self._move_head(extent, synced=extent)
            self._head.sync()
        except OSError as exc:
            raise StorageFailed(
                f"rewrote {self._path}, but cannot move its head: {exc.strerror}",
                hint="look at the disk; nothing is lost",
            ) from exc
        self._owes_sync = self._is_poisoned = self._head.is_new = False
        self._is_settled = True
        return extent

    def remove_side_files(self, names: Iterable[str]) -> None:
        """Remove bytes that were kept aside; see `Held.remove_side_files`."""
        self._side_files.remove(names)

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

    def _create_journal(self) -> File:
        # A head that lost its name would leave a journal that nobody can judge, and
        # whoever made this one may have died before its name was durable.
        self._disk.sync_folder(self._folders.heads)
        self._disk.make_folder(self._folders.journals)
        is_left_over = self._disk.stat(self._path) is not None  # empty: R2
        with self._opening:
            self._file = self._disk.open(self._path, "append", create=not is_left_over)
            self.inode = self._file.stat().inode
        return self._file

    def _write(self, file: File, data: bytes, size: int) -> None:
        try:
            taken = file.append(data)
        except OSError as exc:
            self._roll_back(file, size)
            raise failure(exc, f"cannot append to {self._path}") from exc
        if taken != len(data):
            # Writing the rest in a second call could tear the write in two.
            self._roll_back(file, size)
            raise NoSpace(
                f"{self._path} took {taken} of {len(data)} bytes; nothing was written",
                hint="free some space",
            )

    def _roll_back(self, file: File, size: int) -> None:
        try:
            file.truncate(size)
            file.sync(metadata=True)
        except OSError as exc:
            raise self._poison(exc, "cannot undo a failed write to") from exc

    def _sync(self, file: File, *, is_first: bool) -> None:
        try:
            file.sync(metadata=is_first)
            if is_first:
                # A new file's name lives in its folder: without this a crash can
                # forget the whole journal, acknowledged events included.
                self._disk.sync_folder(self._folders.journals)
        except OSError as exc:
            raise self._poison(exc, "cannot sync") from exc

    def _poison(self, exc: OSError, what: str) -> StorageFailed:
        """Stop all writing, in every process: what is on the disk is unknown."""
        self._is_settled, self._is_poisoned = False, True
        head = self._head.head
        head = head._replace(
            writing=head.writing + 1, inode=self.inode, is_poisoned=True
        )
        try:
            self._head.write(head)
        except OSError:
            _log.exception("job %r: the poison mark itself failed", self._job_id)
        return StorageFailed(
            f"{what} {self._path}: {exc.strerror}; whether the last write is on the "
            "disk is unknown",
            hint="look at the disk; the next write first rewrites the journal from "
            "what the disk really holds",
        )

    def _move_head(self, shown: Extent, *, synced: Extent) -> None:
        self._head.write(self._next_head(shown, synced))

    def _next_head(self, shown: Extent, synced: Extent) -> Head:
        writing = self._head.head.writing + 1
        return Head(writing, shown, self.inode, self._durability, synced)

    def flush(self) -> None:
        """Sync what was acknowledged here, if it is not on the disk yet."""
        if not self._owes_sync:
            return
        with self.exclusive(wait=True) as held:
            if self._head.head.synced != held.extent and self._file is not None:
                self._sync(self._file, is_first=False)
                self._move_head(held.extent, synced=held.extent)
            self._owes_sync = False

    def close(self) -> None:
        """Sync the head, so that a power cut finds it fresh, and close both files.

        Waits for a write that is on its way.
        """
        with self._mutex, self._opening:
            if self._is_settled:
                try:
                    self._head.sync()
                except OSError:  # the journal itself is synced; a stale head is legal
                    _log.warning("job %r: cannot sync its head", self._job_id)
            self._forget()

    def retire(self) -> None:
        """Close both files for want of room; what must be synced is synced first.

        The head need not be: a stale one is legal, and whoever goes through thousands
        of jobs would sync twice for each.  A reader that still has this object opens
        them again, and its end closes them.
        """
        try:
            if self._durability == "interval":
                self.flush()
        except MilepostError as exc:  # not the trouble of the job that needs the room
            _log.warning("job %r: not synced: %s", self._job_id, exc)
        with self._mutex, self._opening:
            self._forget()

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self._head.close()
        self._file = None
        self._is_settled = False
        self.inode = 0

    def after_fork(self) -> None:
        """Close descriptors without a sync or an unlock; this is of no use any more."""
        if self._file is not None:
            self._file.close()
        self._head.after_fork()

    # -- errors ------------------------------------------------------------------

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
