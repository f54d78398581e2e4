"""One job's two files: the journal, and the head that says how far it is acknowledged.

Order is the design.  Writing: lock, settle what others left, one write, one sync, move
the head, unlock.  `journal.recovery` judges; this module carries the verdicts out.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

from journal import head as head_codec
from journal import recovery
from journal.errors import (
    Conflict,
    DamagedJournal,
    MilepostError,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from journal.event_codec import BadLine, Located, scan
from journal.head import Extent, Head
from journal.head_file import HeadFile, open_either
from journal.recovery import Action
from journal.storage import Busy, Stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from journal.disk import Disk, File, Stat
    from journal.events import JobRepairedData

_log = logging.getLogger("milepost.journal")

Durability = Literal["always", "interval", "never"]
_SCAN_BYTES = 4 * 1024 * 1024


class Folders(NamedTuple):
    """Where the files of a store live."""

    root: Path

    @property
    def journals(self) -> Path:
        """One journal per job."""
        return self.root / "journals"

    @property
    def heads(self) -> Path:
        """One head per job."""
        return self.root / "heads"

    @property
    def side(self) -> Path:
        """Bytes that a recovery cut, kept until the trash period ends."""
        return self.root / "side"


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
        self._durability: Durability = durability
        self._lock_timeout_seconds = lock_timeout_seconds
        self._mutex = threading.Lock()
        self._opening = threading.RLock()
        self._file: File | None = None
        self._inode = 0
        self._is_settled = False  # first look under the lock is done
        self._is_writable = True  # as far as the open journal goes
        self._owner = 0  # the thread that holds the lock, and
        self._held: Stamp | None = None  # what the journal's stamp is meanwhile
        self._pending: list[JobRepairedData] = []
        self._lost_events = 0
        self._may_owe_repairs = True  # until a look found none, or they were told
        self._is_poisoned = False  # also when the mark in the head could not be set

    # -- reading -----------------------------------------------------------------

    def stamp(self) -> Stamp | None:
        """Return what changes whenever the journal does, None if there is none."""
        if self._owner == threading.get_ident():
            return self._held  # nobody else can change it now
        found = self._disk.stat(self._path)
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
            return self._locate(head.shown)
        if found.size < head.shown.size:
            if head.synced.size <= found.size and head.durability != "always":
                return head.synced  # a power cut took what was never synced
            raise self._truncated(head.shown, found.size)
        return head.shown

    def _locate(self, shown: Extent) -> Extent:
        """Find the acknowledged event in a file that the head's sizes do not fit."""
        last, offset, want = Extent(), 0, _SCAN_BYTES
        while last.seq < shown.seq:
            data = self.read(offset, want)
            for event, start, length, _ in self._scan(data, last):
                last = Extent(event["seq"], event["hash"], start + length)
                if last.seq == shown.seq:
                    break
            if last.size == offset:
                if len(data) < want:
                    raise self._truncated(shown, offset + len(data))
                want *= 2
            offset = last.size
        if last.hash != shown.hash:
            raise self._damaged(
                BadLine(
                    last.size, f"event {shown.seq} with hash {shown.hash}", last.hash
                )
            )
        return last

    def _scan(self, data: bytes, after: Extent) -> Iterator[Located]:
        try:
            yield from scan(
                data, seq=after.seq, prev=after.hash or None, offset=after.size
            )
        except BadLine as exc:
            raise self._damaged(exc) from exc

    def _open_journal(self) -> File:
        """Return the open journal; opens it again if a rewrite put another in place."""
        found = self._disk.stat(self._path)
        if self._file is not None and found is not None and found.inode == self._inode:
            return self._file
        if self._file is not None:
            self._file.close()
            self._file = None
        self._file, self._is_writable = open_either(self._disk, self._path, "append")
        self._inode = self._file.stat().inode
        return self._file

    # -- the lock ----------------------------------------------------------------

    @contextmanager
    def exclusive(self, *, wait: bool) -> Iterator[Extent]:
        """Hold the job against all other writers; see `Storage.exclusive`."""
        timeout = self._lock_timeout_seconds if wait else 0
        if not self._mutex.acquire(blocking=wait, timeout=timeout if wait else -1):
            raise self._head.late() if wait else Busy
        try:
            self._head.lock(wait=wait, may_create=lambda: wait or self._is_headless())
            try:
                extent = self._settle()
                self._hold(extent)
                self._owner = threading.get_ident()
                yield extent
            finally:
                self._owner = 0
                self._head.unlock()
        except OSError as exc:
            if isinstance(exc, MilepostError):
                raise
            raise failure(exc, f"cannot write {self._path}") from exc
        finally:
            self._mutex.release()

    def _hold(self, extent: Extent) -> None:
        self._held = Stamp(self._inode, extent.size) if extent.size else None

    def _is_headless(self) -> bool:
        """Tell whether there is a journal to take over, should its head be missing."""
        found = self._disk.stat(self._path)
        return found is not None and found.size > 0

    # -- settling ----------------------------------------------------------------

    def _settle(self) -> Extent:
        """Bring both files into agreement, under the lock; return the extent."""
        raw = self._head.peek()
        found = self._disk.stat(self._path)
        head = self._head.head
        if (
            self._is_settled
            and raw == self._head.raw
            and found is not None
            and found.size == head.shown.size
            and found.inode == head.inode == self._inode
            and not self._is_poisoned
            and not head.is_poisoned
        ):
            return head.shown  # nobody was here since
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
            self._first_look()
        if head.is_poisoned or self._is_poisoned:
            extent = self._heal(head)
        elif self._head.is_new and not has_head:
            extent = self._adopt(file, found.size)
        else:
            extent = self._settle_tail(file, head, found)
        self._head.is_new = False
        self._is_settled = True
        return extent

    def _first_look(self) -> None:
        """What a creator or a rewriter who died may have left half done."""
        leftover = self._path.with_suffix(".tmp")
        if self._disk.stat(leftover) is not None:
            self._disk.unlink(leftover)
        self._disk.sync_folder(self._folders.journals)
        self._disk.sync_folder(self._folders.heads)

    def _settle_tail(self, file: File, head: Head, found: Stat) -> Extent:
        base, proves = head.shown, head.durability == "always"
        if head.inode != found.inode and head.shown.seq:
            base = self._locate(head.shown)
        elif not proves and not self._is_settled:
            base = head.synced  # what came after may be gone with a power cut
        elif found.size < base.size:
            raise self._truncated(base, found.size)
        if found.size < base.size:
            raise self._truncated(base, found.size)
        if found.size == base.size and head.inode == found.inode and base == head.shown:
            return base
        data = file.read(base.size, found.size - base.size)
        verdict = recovery.judge_tail(data, base, later_writes_prove=proves)
        self._lost_events = max(head.shown.seq - verdict.keep.seq, 0)
        return self._carry_out(verdict, data, base)

    def _carry_out(
        self, verdict: recovery.TailVerdict, data: bytes, base: Extent
    ) -> Extent:
        assert self._file is not None
        keep, file = verdict.keep, self._file
        if verdict.action is Action.QUARANTINE:
            assert verdict.problem is not None
            raise self._damaged(verdict.problem)
        if verdict.action is Action.FINISH_LINE:
            file.append(b"\n")
        elif verdict.action is Action.CUT:
            rest = data[keep.size - base.size :]
            self._keep_aside(rest, keep.size)
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
        verdict = recovery.judge_tail(data, Extent())
        if verdict.action is not Action.NOTHING:
            problem = verdict.problem or BadLine(size - 1, "a newline", "the end")
            self._head.remove()  # still headless: nothing was decided
            raise self._damaged(problem)
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
        digest = hashlib.sha256(rest).hexdigest()[:16]
        self._disk.make_folder(self._folders.side)
        name = f"{self._name}.{offset}.{self._lost_events}.{digest}"
        self._write_new(self._folders.side / name, rest)

    def _write_new(self, path: Path, data: bytes) -> None:
        """Write a whole file: temporary, sync, rename, sync the folder."""
        temporary = path.parent / f"{self._name}.tmp"
        if self._disk.stat(temporary) is not None:
            self._disk.unlink(temporary)
        file = self._disk.open(temporary, "append", create=True)
        try:
            if file.append(data) != len(data):
                raise NoSpace(f"no room for {path}; nothing was changed")
            file.sync(metadata=True)
        finally:
            file.close()
        self._disk.rename(temporary, path)
        self._disk.sync_folder(path.parent)

    def _heal(self, head: Head) -> Extent:
        """After a failed sync: rewrite the journal from what the medium holds."""
        assert self._file is not None
        # The kernel may have marked pages clean that it never wrote, so a retried
        # sync proves nothing; only the medium does.
        self._file.drop_cache()
        keep = self._locate(head.shown) if head.shown.seq else Extent()
        size = self._file.stat().size
        if size > keep.size:
            self._keep_aside(self._file.read(keep.size, size - keep.size), keep.size)
        self._write_new(self._path, self._file.read(0, keep.size))
        with self._opening:
            self._open_journal()
        self._is_poisoned = False
        self._owe({"reason": "sync_failed"})
        self._move_head(keep, synced=keep)
        self._head.sync()
        return keep

    def repairs(self) -> list[JobRepairedData]:
        """Return what recovery did here, side files and all; see `Storage.repairs`."""
        if not self._may_owe_repairs:
            return []
        found = list(self._pending)
        for name in sorted(self._disk.names(self._folders.side)):
            parts = name.split(".")
            if parts[0] != self._name or len(parts) != 4:  # noqa: PLR2004
                continue
            stat = self._disk.stat(self._folders.side / name)
            repair: JobRepairedData = {
                "reason": "torn_tail",
                "offset": int(parts[1]),
                "cut_bytes": 0 if stat is None else stat.size,
                "side_file": name,
            }
            if parts[2] != "0":
                repair["lost_events"] = int(parts[2])
            found.append(repair)
        self._may_owe_repairs = bool(found)
        return found

    # -- writing -----------------------------------------------------------------

    def append(self, data: bytes, *, after: int, last: Extent) -> Extent:
        """Make `data` durable behind event `after`; see `Storage.append`."""
        shown = self._head.head.shown
        if shown.seq != after:
            raise Conflict(f"job {self._job_id!r} is at {shown.seq}, not {after}")
        if not (self._is_writable and self._head.is_writable):
            raise ReadOnlyStore(
                f"cannot write {self._path}: this user may only read it",
                hint="make the folder writable for this user",
            )
        is_first = self._held is None
        file = self._file
        if is_first:
            file = self._create_journal()
        assert file is not None, "settling opened it"
        extent = Extent(last.seq, last.hash, shown.size + len(data))
        self._write(file, data, shown.size)
        synced = self._head.head.synced
        if self._durability == "always" or is_first:
            self._sync(file, is_first=is_first)
            synced = extent
        self._move_head(extent, synced=synced)
        if is_first:
            self._head.sync()
        self._pending.clear()
        self._may_owe_repairs = False
        self._hold(extent)
        return extent

    def _create_journal(self) -> File:
        self._disk.make_folder(self._folders.journals)
        is_left_over = self._disk.stat(self._path) is not None  # empty: R2
        with self._opening:
            self._file = self._disk.open(self._path, "append", create=not is_left_over)
            self._inode = self._file.stat().inode
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
                self._disk.sync_folder(self._folders.root)
        except OSError as exc:
            raise self._poison(exc, "cannot sync") from exc

    def _poison(self, exc: OSError, what: str) -> StorageFailed:
        """Stop all writing, in every process: what is on the disk is unknown."""
        self._is_settled, self._is_poisoned = False, True
        head = self._head.head._replace(inode=self._inode, is_poisoned=True)
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
        self._head.write(
            Head(
                shown=shown,
                inode=self._inode,
                durability=self._durability,
                synced=synced,
            )
        )

    def flush(self) -> None:
        """Sync journal and head, if anything acknowledged is not on the disk yet."""
        if self._is_synced or not self._head.is_open:
            return
        with self.exclusive(wait=True) as extent:
            if not self._is_synced and self._file is not None:
                self._sync(self._file, is_first=False)
                self._move_head(extent, synced=extent)

    @property
    def _is_synced(self) -> bool:
        return self._head.head.synced == self._head.head.shown

    def close(self) -> None:
        """Sync the head, so that a power cut finds it fresh, and close both files.

        Waits for a write that is on its way.
        """
        with self._mutex:
            self._close()

    def _close(self) -> None:
        with self._opening:
            if self._is_settled:
                try:
                    self._head.sync()
                except OSError:  # the journal itself is synced; a stale head is legal
                    _log.warning("job %r: cannot sync its head", self._job_id)
            self.forget()

    def try_close(self) -> bool:
        """Close both files unless they are needed; tell whether it is done."""
        is_owed = self._durability == "interval" and not self._is_synced
        if is_owed or not self._mutex.acquire(blocking=False):
            return False
        try:
            self._close()
        finally:
            self._mutex.release()
        return True

    def forget(self) -> None:
        """Close descriptors without a sync or an unlock: what a forked child does."""
        if self._file is not None:
            self._file.close()
        self._head.close()
        self._file = None
        self._is_settled = False
        self._inode = 0

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
