"""The storage contract: journals as bytes, and the lock of each job."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from milepost.journal.recovery.head import Extent
from milepost.journal.recovery.snapshot import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.recovery.salvage import Data
    from milepost.journal.storage.changes import Changes
    from milepost.journal.storage.leases import Lease
    from milepost.journal.storage.records import Record

# Large enough that most stores fit one page, since a folder has no order to start from.
PAGE_JOBS = 10_000

_T = TypeVar("_T")
_H = TypeVar("_H")
_H_co = TypeVar("_H_co", covariant=True)


class Stamp(NamedTuple):
    """A value that changes with every change of a journal; cheap to get."""

    inode: int
    size: int


class LockedJob(Protocol):
    """A job whose lock excludes every other writer, as long as its scope lasts."""

    @property
    def extent(self) -> Extent:
        """The acknowledged extent."""

    @property
    def stamp(self) -> Stamp | None:
        """As `Storage.stamp`; no other writer can change it meanwhile."""

    def append(self, data: bytes, *, after: int, last: Extent) -> Extent:
        """Append `data` durably after event `after`; return the acknowledged extent.

        The append is atomic.

        Args:
            data: whole lines.
            after: seq of the journal's last event.
            last: seq and hash of the last event in `data`; its size is ignored.

        Raises:
            Conflict: `after` is not the last seq; nothing was written.
            NoSpace, ReadOnlyStore: nothing was written.
            StorageFailed: the outcome is unknown; the job refuses writes until it has
                been rewritten from the medium.
        """

    def repairs(self) -> list[JobRepairedData]:
        """Return recovery actions that may not be journaled as ``job.repaired`` yet.

        Idempotent: a repair is returned until a ``job.repaired`` that names its
        salvage file is in the journal.
        """

    def replace(self, copy: Copy, last: Extent) -> Extent:
        """Replace the journal by `copy` durably; return the acknowledged extent.

        Readers see either the old journal or the new one.

        Args:
            copy: from `Storage.copying`, with the same events.
            last: seq and hash of its last event.

        Raises:
            StorageFailed: the outcome is unknown; either way nothing is lost.
        """

    def recall(self, seen: Extent) -> None:
        """Acknowledge again an extent that was seen before and is now missing.

        Older files were restored.  Every process then detects the missing events.
        """

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """Remove salvage files of this job; missing ones are ignored."""


class Unsettled(Protocol):
    """A locked job on which no crash recovery was done."""

    def evidence(self) -> AbstractContextManager[Evidence]:
        """As `Storage.evidence`, read from the medium under the lock."""

    def keep_aside(self, data: Data, offset: int, lost_events: int) -> str:
        """Write bytes that will be given up to a salvage file; return its name.

        Args:
            data: the bytes, or a function that returns them in pieces.
            offset: their offset in the journal.
            lost_events: number of acknowledged events that are lost with them.
        """

    def replace(self, copy: Copy, last: Extent) -> Extent:
        """As `LockedJob.replace`; the job is then recovered."""


class Copy(Protocol):
    """A new journal that will replace another one."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    def write(self, data: bytes) -> None:
        """Append whole lines.

        Raises:
            NoSpace: the disk is full.
        """

    def sync(self) -> None:
        """Make what was added durable ahead of time; `LockedJob.replace` does too.

        Raises:
            StorageFailed: the sync failed.
        """


class LockScope(Protocol[_H_co]):
    """The context manager of a job's lock; see `during`."""

    def __enter__(self) -> _H_co:
        """Take the lock."""

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        """Release the lock."""

    def release(self) -> None:
        """Release the lock if it is still taken; idempotent."""


def during(scope: LockScope[_H], work: Callable[[_H], _T]) -> _T:
    """Call `work` under the lock, and return its result.

    The lock is released twice, since an exception may interrupt the first release
    (docs/adr/0026).
    """
    try:
        with scope as locked:
            return work(locked)
    finally:
        scope.release()


def every_job(storage: Storage, *, page_jobs: int = PAGE_JOBS) -> Iterator[str]:
    """Yield the jobs of all pages; see `Storage.jobs`.

    Raises:
        StorageFailed: they cannot be listed.
    """
    page = storage.jobs(limit=page_jobs)
    yield from page
    while len(page) == page_jobs:
        page = storage.jobs(page[-1], page_jobs)
        yield from page


class Storage(Protocol):
    """Journals as bytes, and the records and leases of a store.

    tests/storage/test_storage_contract.py is this text made executable.

    A journal is a sequence of whole lines up to an `Extent`.  Once `append` has
    returned, its lines survive a crash and are visible to every other process.
    """

    @property
    def store_id(self) -> str | None:
        """The id that binds journals to this store; None before the first `create`."""

    def create(self) -> str:
        """Create the store durably if it does not exist; return its id.

        Raises:
            ReadOnlyStore, UnsupportedFolder, StorageFailed: it cannot be created.
        """

    def record(self, name: str) -> Record:
        """Return the record `name` of the store, which `create` has created.

        Raises:
            InvalidArgument: not a name: 1 to 100 of ``a-z 0-9 _ -``.
        """

    def lease(self, name: str) -> Lease:
        """Return another contender for the lease `name` of the store.

        Raises:
            InvalidArgument: as `record`.
        """

    def wait_for_writers(self) -> None:
        """Return once every write in progress has ended.

        Raises:
            LockTimeout: a write takes too long.
        """

    def jobs(self, after: str = "", limit: int = PAGE_JOBS) -> list[str]:
        """Return a page of the jobs that have a journal or should have one, sorted.

        A job that is created while pages are read appears if its id sorts after the
        last page so far.  All others appear once.

        Args:
            after: only jobs whose id sorts after this one, by code point.
            limit: the size of a page; only the last one may be smaller.

        Raises:
            StorageFailed: they cannot be listed.
        """

    def changed(self, cursor: str | None) -> Changes:
        """Return the jobs that may have changed since `cursor`, and the next cursor.

        Every job is named whose answers differ from those at the time of the call that
        returned `cursor`, also one that was created or removed since.  Others may be
        named too: a change is named at least once.

        Args:
            cursor: opaque, valid in every process; None: all jobs.  A cursor that is
                not understood counts as None.

        Raises:
            StorageFailed: as `jobs`.
        """

    def stamp(self, job_id: str) -> Stamp | None:
        """Return the stamp of the job's journal; None if there is no journal."""

    def extent(self, job_id: str) -> Extent:
        """Return the acknowledged extent, with seq 0 for an unknown job.

        Raises:
            DamagedJournal: acknowledged events are missing from the journal.
        """

    def read(self, job_id: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, fewer at the end of the journal."""

    def exclusive(self, job_id: str, *, wait: bool = True) -> LockScope[LockedJob]:
        """Lock the job against every other writer, in this process and in others.

        Crash recovery of the job is done first.

        Raises:
            Busy: it is locked, and `wait` is false.
            LockTimeout: it stayed locked for too long.
            NestedCall: this thread has it locked.
            DamagedJournal: it cannot be recovered without loss.
        """

    def evidence(self, job_id: str) -> AbstractContextManager[Evidence]:
        """Take a read-only snapshot of a job's files, without recovery.

        Raises:
            StorageFailed: they cannot be read.
        """

    def unsettled(self, job_id: str) -> LockScope[Unsettled]:
        """Lock the job as `exclusive` does, but without recovery: for a repair.

        Raises:
            LockTimeout: it stayed locked for too long.
            NewerFormat: a newer version wrote its head.
            ReadOnlyStore, StorageFailed: it cannot be locked.
        """

    def copying(self, job_id: str) -> AbstractContextManager[Copy]:
        """Begin a new journal for the job; removed unless it replaces the old one.

        The lock is not taken: other processes read and write meanwhile.

        Raises:
            Busy: another rewrite is in progress.
            NoSpace, StorageFailed: it cannot be written.
        """

    def sweep(self, job_id: str) -> None:
        """Remove the file of a `copying` that crashed; keep one that is in progress.

        Raises:
            StorageFailed: it cannot be removed.
        """

    def repairs(self, job_id: str) -> list[JobRepairedData]:
        """Return the recovery actions of this job that left salvage files."""

    def flush(self) -> None:
        """Make every acknowledged write durable, in any durability mode."""

    def close(self) -> None:
        """Flush, and release all files and locks."""
