"""The storage contract: jobs as sequences of events, and the lock of each job.

Every implementation addresses events by seq.  Where and how their lines are stored is
its own matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from milepost.journal.errors import Conflict
from milepost.journal.events.codec import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from milepost.journal.errors import DamagedJournal
    from milepost.journal.events.codec import Stored
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.recovery.diagnosis import Diagnosis
    from milepost.journal.recovery.steps import Repair
    from milepost.journal.states.access import Vault
    from milepost.journal.storage.changes import Changes
    from milepost.journal.storage.leases import Lease
    from milepost.journal.storage.records import Record
    from milepost.journal.storage.removals import Removal

    # Called with the bytes read since the last call; its exceptions end the reading.
    OnPiece = Callable[[int], object]

# Large enough that most stores fit one page, since a folder has no order to start from.
PAGE_JOBS = 10_000

_T = TypeVar("_T")
_H = TypeVar("_H")
_H_co = TypeVar("_H_co", covariant=True)


class Version(NamedTuple):
    """The version of a job: it changes with every change of the job.

    Attributes:
        generation: changes when stored lines are replaced or removed; a write that
            only appends keeps it.
        size: of the stored lines.
    """

    generation: int
    size: int


class Position(NamedTuple):
    """The acknowledged events of a job.

    Attributes:
        last: the last of them; seq 0 for an unknown job.
        version: the version of the job that ends there; None for an unknown job.
        is_settled: nothing follows them; otherwise `hold` recovers what follows.
    """

    last: Mark = Mark()
    version: Version | None = None
    is_settled: bool = True


class Snapshot(NamedTuple):
    """A fold of a job's first events, encoded: a cache that can be lost at any time.

    Attributes:
        last: the last of these events.
        parts: of the encoded fold.
    """

    last: Mark
    parts: list[bytes]


def refuse_other(job_id: str, last: Mark, expected: Mark) -> None:
    """Refuse a change of a job that is not at the expected event.

    Raises:
        Conflict: its last event is another one.
    """
    if last != expected:
        raise Conflict(f"job {job_id!r} is at {last.seq}, not {expected.seq}")


class Rewrite(Protocol):
    """A copy of a job's lines that will replace them."""

    def copy(
        self,
        until_seq: int,
        lines_of: Callable[[int, bytes], bytes],
        on_piece: OnPiece | None = None,
    ) -> None:
        """Copy the events up to `until_seq`, verified; the lock is not needed.

        Args:
            until_seq: an acknowledged event.
            lines_of: returns the new lines of an event with a state, from its seq and
                its lines; the event line must stay the same.
            on_piece: called with the bytes read since the last call.

        Raises:
            DamagedJournal: the lines differ from what was written.
            NoSpace, StorageFailed: they cannot be copied.
        """

    def follow(self) -> None:
        """Copy later events as they are, until few are left; sync the copy.

        Raises:
            Busy: the job was replaced meanwhile.
            NoSpace, StorageFailed: they cannot be copied.
        """


class HeldJob(Protocol):
    """A job whose lock excludes every other writer, as long as its scope lasts."""

    @property
    def position(self) -> Position:
        """The acknowledged events."""

    @property
    def version(self) -> Version | None:
        """The version of `position`."""

    def append(self, expected: Mark, lines: Sequence[bytes], last: Mark) -> Version:
        """Append events durably and atomically; return the new version.

        Args:
            expected: the last acknowledged event.
            lines: per event its state line, if it has one, and its event line.
            last: the last event of `lines`.

        Raises:
            Conflict: `expected` is not the last event; nothing was written.
            NoSpace, ReadOnlyStore: nothing was written.
            StorageFailed: the outcome is unknown; the job refuses writes until it has
                been rewritten from the medium.
        """

    def repairs(self) -> list[JobRepairedData]:
        """Return recovery actions that may not be journaled as ``job.repaired`` yet.

        Idempotent: a repair is returned until a ``job.repaired`` that names its
        salvage file is in the journal.
        """

    def recall(self, seen: Mark) -> None:
        """Acknowledge again an event that was seen before and is now missing.

        Older data was restored.  Every process then detects the missing events.
        """

    def finish(self, rewrite: Rewrite) -> tuple[int, int]:
        """Copy the last events; return the stored bytes of the job and of its copy.

        Raises:
            Busy: the job was replaced meanwhile.
            NoSpace, StorageFailed: they cannot be copied.
        """

    def replace(self, rewrite: Rewrite, lines: Sequence[bytes], last: Mark) -> None:
        """Replace the job's lines by a finished copy and `lines` after it, durably.

        Readers see either the old lines or the new ones.

        Args:
            rewrite: from `JobStorage.rewriting`, after `finish`.
            lines: later events, as for `append`.
            last: the last event of `lines`.

        Raises:
            NoSpace: nothing was replaced.
            StorageFailed: the outcome is unknown; either way nothing is lost.
        """

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """Remove salvage files of this job; missing ones are ignored."""

    def remove(self, removal: Removal) -> None:
        """Remove the job durably: its lines, and all else that is stored of it.

        A tombstone stays, a record of the store (`removals.find`).  Afterwards the job
        is unknown, here and to every process, and the next `append` makes a new one.
        After a crash the job is whole, or the next lock of it completes the removal.

        Raises:
            Conflict: `removal.last` is not the last event; nothing was removed.
            Busy: a rewrite is in progress; nothing was removed.
            StorageFailed: the outcome is unknown, as after a crash.
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


class JobStorage(Protocol):
    """The events of one job, and its lock.

    Once `append` has returned, its events survive a crash and are visible to every
    other process.
    """

    @property
    def job_id(self) -> str:
        """The job."""

    def version(self) -> Version | None:
        """Return the version of the job, None if there is none; cheap.

        Raises:
            StorageFailed: it cannot be read.
        """

    def position(self) -> Position:
        """Return the acknowledged events.

        Raises:
            DamagedJournal: acknowledged events are missing.
            StorageFailed: they cannot be read.
        """

    def events(
        self,
        after: Mark,
        until_seq: int,
        on_piece: OnPiece | None = None,
    ) -> Iterator[Stored]:
        """Read the events after `after` up to `until_seq`, verified, oldest first.

        Args:
            after: an event; without a hash, the stored one counts.
            until_seq: an acknowledged event.
            on_piece: called with the bytes read since the last call.

        Raises:
            DamagedJournal: the events differ from what was written.
            StorageFailed: they cannot be read.
        """

    def lines(self, seq: int) -> tuple[bytes, bytes]:
        """Return the state line and the event line of event `seq`, unverified.

        The state line is empty if there is none.

        Raises:
            UnreadableState: there is no such event.
            StorageFailed: it cannot be read.
        """

    def run(self, seq: int, until_seq: int, most: int) -> list[tuple[bytes, bytes]]:
        """Return the lines of event `seq` and of those after it, as `lines` does.

        One read returns as many as have at most `most` bytes, at least one, and none
        after `until_seq`.

        Raises:
            UnreadableState, StorageFailed: as `lines`.
        """

    def first_bytes(self, seq: int, most: int) -> bytes:
        """Return the first bytes of the lines of event `seq`, at most `most`.

        Raises:
            UnreadableState, StorageFailed: as `lines`.
        """

    def damage(self, after_seq: int, expected: str, found: str) -> DamagedJournal:
        """Return the error for damage after event `after_seq`, with its place."""

    def snapshot(self, at: Position) -> Snapshot | None:
        """Return the kept snapshot, if it is intact and of the first events up to `at`.

        The events are still as they were when it was kept, unless they rotted since.

        Raises:
            DamagedJournal, StorageFailed: the job cannot be read.
        """

    def keep_snapshot(self, snapshot: Snapshot, version: Version) -> None:
        """Replace the kept snapshot; a storage may keep none.

        The lock is not taken while it is written, and nothing is recovered.  Nothing is
        kept if the job was replaced or removed since `version`, or if an event of the
        snapshot may be lost in a power cut.

        Args:
            snapshot: of acknowledged events.
            version: of the job that was folded.

        Raises:
            Busy: the job is locked, or another snapshot of it is being written.
            NoSpace, ReadOnlyStore, StorageFailed: it cannot be written.
        """

    def drop_snapshot(self) -> None:
        """Remove the kept snapshot, if there is one.

        Raises:
            StorageFailed: it cannot be removed.
        """

    def hold(self, *, wait: bool = True) -> LockScope[HeldJob]:
        """Lock the job against every other writer, in this process and in others.

        Crash recovery of the job is done first.

        Raises:
            Busy: it is locked, and `wait` is false.
            LockTimeout: it stayed locked for too long.
            NestedCall: this thread has it locked.
            DamagedJournal: it cannot be recovered without loss.
        """

    def take(self) -> HeldJob | None:
        """Lock the job as `hold` does, if that is possible at once.

        The caller calls `refuse_nested` before, and `let_go` afterwards, whatever this
        returns or raises; twice, since the first may be interrupted (docs/adr/0026).

        Returns:
            The locked job; None if another writer is active or waits, if the job needs
            recovery, or if it cannot be locked: `hold` tells why.
        """

    def let_go(self) -> None:
        """Release the lock of this thread; idempotent."""

    def refuse_nested(self) -> None:
        """Refuse to lock the job again.

        Raises:
            NestedCall: this thread has it locked.
        """

    def rewriting(self) -> AbstractContextManager[Rewrite]:
        """Begin a copy of the job; removed unless it replaces the job.

        The lock is not taken: other processes read and write meanwhile.

        Raises:
            Busy: another rewrite is in progress.
            NoSpace, StorageFailed: it cannot be written.
        """

    def sweep(self) -> None:
        """Remove the copy of a `rewriting` that crashed; keep one in progress.

        Raises:
            StorageFailed: it cannot be removed.
        """

    def repairs(self) -> list[JobRepairedData]:
        """Return the recovery actions of this job that left salvage files."""


class Repairer(Protocol):
    """Diagnoses and repairs the jobs of a store."""

    def diagnose(self, job_id: str, *, deep: bool) -> Diagnosis:
        """Diagnose a job without a change; an unknown one is sound, at seq 0.

        Problems are reported, not raised.

        Args:
            job_id: the job.
            deep: read every live state, not only the checksums of their lines.
        """

    def repair(self, job_id: str, *, accept_loss: bool, dry_run: bool) -> Repair:
        """Repair a job; see `CheckpointManager.repair`."""


class Storage(Protocol):
    """The jobs, records and leases of a store.

    tests/storage/test_storage_contract.py is this text made executable.
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

    def lease(self, name: str, ttl_seconds: float | None = None) -> Lease:
        """Return another contender for the lease `name` of the store.

        Args:
            name: as of a record.
            ttl_seconds: a tenure that is not renewed for so long expires; None: it
                lasts as long as its process.  All contenders of one lease give a ttl,
                or none does.

        Raises:
            InvalidArgument: as `record`, or the ttl is not positive and finite.
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

    def job(self, job_id: str) -> JobStorage:
        """Return the storage of one job; the job need not exist."""

    def recall(self) -> bytes | None:
        """Return the bytes that any process kept last with `keep`; None without any.

        They may be lost at any time, and older ones may come back.
        """

    def keep(self, value: bytes) -> None:
        """Keep a cache of the store, without a lock and without a sync.

        It is lost with the removal of any job.  Errors are ignored.

        Args:
            value: the cache; empty: lose it.
        """

    def repairer(
        self, vault: Vault, clock: Callable[[], datetime], actor: str
    ) -> Repairer:
        """Return what diagnoses and repairs the jobs.

        Args:
            vault: the available keys.
            clock: the source of event times.
            actor: the actor who accepts a loss, for the journal.
        """

    def flush(self) -> None:
        """Make every acknowledged write durable, in any durability mode."""

    def close(self) -> None:
        """Flush, and release all resources and locks."""
