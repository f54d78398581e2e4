"""Where journals live: the contract, and the one that lives in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from milepost.journal.recovery.head import Extent
from milepost.journal.recovery.snapshot import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from milepost.journal.crypto.key_record import KeyRecord
    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.recovery.salvage import Data


_T = TypeVar("_T")
_H = TypeVar("_H")
_H_co = TypeVar("_H_co", covariant=True)


class Stamp(NamedTuple):
    """Changes whenever a journal does; cheap to ask for."""

    inode: int
    size: int


class LockedJob(Protocol):
    """One job, held against every other writer, for as long as its context lasts."""

    @property
    def extent(self) -> Extent:
        """What is acknowledged by now."""

    @property
    def stamp(self) -> Stamp | None:
        """As `Storage.stamp`; nobody else can change it meanwhile."""

    def append(self, data: bytes, *, after: int, last: Extent) -> Extent:
        """Make `data` durable behind event `after`; return what is acknowledged then.

        It lands whole or not at all.

        Args:
            data: whole lines.
            after: the seq that is the journal's last.
            last: seq and hash of the last event in `data`; its size is ignored.

        Raises:
            Conflict: `after` is not the last; nothing was written.
            NoSpace, ReadOnlyStore: nothing was written.
            StorageFailed: outcome unknown; the job takes no writes until it has been
                rewritten from what the medium holds.
        """

    def repairs(self) -> list[JobRepairedData]:
        """Return what recovery did to this job and no event may tell yet.

        Idempotent: a repair is returned until a ``job.repaired`` that names its
        salvage file is in the journal.
        """

    def replace(self, copy: Copy, last: Extent) -> Extent:
        """Put `copy` in the journal's place, durably; return what is acknowledged then.

        Readers see the one or the other, never something between.

        Args:
            copy: what `Storage.copying` began: the same events.
            last: seq and hash of its last event.

        Raises:
            StorageFailed: it may be in place or not; either way nothing is lost.
        """

    def recall(self, seen: Extent) -> None:
        """Acknowledge again what was shown before and is not there any more.

        Somebody put older files back.  From then on every process finds that out.
        """

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """Remove bytes that a recovery kept aside; names that are gone are no error."""


class Unsettled(Protocol):
    """One job, held as it is: nothing of what was left behind has been settled."""

    def evidence(self) -> AbstractContextManager[Evidence]:
        """As `Storage.evidence`, from the medium, while nobody else can write."""

    def keep_aside(self, data: Data, offset: int, lost_events: int) -> str:
        """Keep bytes that will be given up, durably; return under which name.

        Args:
            data: the bytes, or what returns them in pieces.
            offset: where they begin in the journal.
            lost_events: how many acknowledged events go with them.
        """

    def replace(self, copy: Copy, last: Extent) -> Extent:
        """As `LockedJob.replace`; from then on the job is settled."""


class Copy(Protocol):
    """A journal that is to take another's place."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def write(self, data: bytes) -> None:
        """Add whole lines.

        Raises:
            NoSpace: there is no room.
        """

    def sync(self) -> None:
        """Make what was added durable ahead of time; `LockedJob.replace` does too.

        Raises:
            StorageFailed: it cannot be.
        """


class LockScope(Protocol[_H_co]):
    """What holds a job for as long as a `with` lasts; see `during`."""

    def __enter__(self) -> _H_co:
        """Take hold of it."""

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        """Give it back."""

    def release(self) -> None:
        """Give back what is still held; idempotent."""


def during(holding: LockScope[_H], work: Callable[[_H], _T]) -> _T:
    """Return what `work` does while `holding` lasts; given back twice, as a `Mutex`."""
    try:
        with holding as held:
            return work(held)
    finally:
        holding.release()


class Storage(Protocol):
    """Journals as bytes.

    tests/storage/test_storage_contract.py is this text made executable.

    A journal is a run of whole lines; `Extent` says how far it goes.  What `append`
    returned survives a crash and is seen by every other process that asks.
    """

    @property
    def store_id(self) -> str | None:
        """What binds journals to this store; None until the first `create`."""

    def create(self) -> str:
        """Make the store if it is not there, durably; return its id.

        Raises:
            ReadOnlyStore, UnsupportedFolder, StorageFailed: it cannot be.
        """

    def key_record(self) -> KeyRecord | None:
        """Return what is recorded of the store's keys; None: it is not encrypted.

        Cheap, for it is asked at each write.

        Raises:
            NewerFormat, StorageFailed: it cannot be read.
        """

    def change_key_record(
        self, change: Callable[[KeyRecord | None], KeyRecord]
    ) -> KeyRecord:
        """Record durably what `change` makes of what is recorded; return that.

        No two changes happen at once, and whoever asks afterwards is told of it.

        Raises:
            LockTimeout: another change takes too long.
            NoSpace, ReadOnlyStore, StorageFailed: it is as it was.
        """

    def wait_for_writers(self) -> None:
        """Return once every write has ended that is under way now.

        Raises:
            LockTimeout: one takes too long.
        """

    def job_ids(self) -> list[str]:
        """Return every job that has a journal or should have one, sorted."""

    def stamp(self, job_id: str) -> Stamp | None:
        """Return what changes whenever the job's journal does; None: no journal."""

    def extent(self, job_id: str) -> Extent:
        """Return what is acknowledged, seq 0 for an unknown job.

        Raises:
            DamagedJournal: the journal no longer holds what was acknowledged.
        """

    def read(self, job_id: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, fewer at the end of the journal."""

    def exclusive(self, job_id: str, *, wait: bool = True) -> LockScope[LockedJob]:
        """Hold the job against every other writer, in this process and in others.

        Whatever an earlier writer left behind is settled first.

        Raises:
            Busy: it is held, and `wait` is false.
            LockTimeout: it was held for too long.
            NestedCall: this very thread holds it.
            DamagedJournal: what was left behind cannot be settled without loss.
        """

    def evidence(self, job_id: str) -> AbstractContextManager[Evidence]:
        """Look at a job's files as they are; nothing is settled or changed.

        Raises:
            StorageFailed: they cannot be read.
        """

    def unsettled(self, job_id: str) -> LockScope[Unsettled]:
        """Hold the job as `exclusive` does, but settle nothing: for a repair.

        Raises:
            LockTimeout: it was held for too long.
            NewerFormat: its head was written by a newer version.
            ReadOnlyStore, StorageFailed: it cannot be.
        """

    def copying(self, job_id: str) -> AbstractContextManager[Copy]:
        """Begin a journal that is to take the job's; it vanishes if it does not.

        Without the lock: others read and write meanwhile.

        Raises:
            Busy: another one is on its way.
            NoSpace, StorageFailed: it cannot be written.
        """

    def sweep(self, job_id: str) -> None:
        """Remove what a `copying` that died has left; nothing if it is alive.

        Raises:
            StorageFailed: it cannot be removed.
        """

    def repairs(self, job_id: str) -> list[JobRepairedData]:
        """Return what recovery did to this job, as far as it left bytes aside."""

    def flush(self) -> None:
        """Make everything that was acknowledged durable, whatever the mode."""

    def close(self) -> None:
        """Flush and let go of every file and lock."""
