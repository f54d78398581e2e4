"""The store in memory: reference implementation of the contract, also for tests."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import Conflict, NestedCall
from milepost.journal.process.mutex import Mutex
from milepost.journal.recovery import head as head_codec
from milepost.journal.recovery.head import Extent, Head
from milepost.journal.recovery.salvage import name_of
from milepost.journal.recovery.snapshot import Evidence
from milepost.journal.storage import changes
from milepost.journal.storage.contract import (
    PAGE_JOBS,
    Copy,
    LockedJob,
    LockScope,
    Stamp,
    Unsettled,
)
from milepost.journal.storage.leases import Holder
from milepost.journal.storage.records import (
    Stored,
    check_name,
    check_value,
    check_version,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from milepost.journal.events.vocabulary import JobRepairedData
    from milepost.journal.recovery.salvage import Data
    from milepost.journal.storage.changes import Changes


class _MemoryJournal:
    """One job's bytes, and the interface of its lock holder."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self.lock = Mutex()
        self.data = bytearray()
        self.extent = Extent()
        self.generation = 0
        self.copy: _MemoryCopy | None = None

    @contextmanager
    def evidence(self) -> Iterator[Evidence]:
        """See `Unsettled.evidence`."""
        head = Head(1, self.extent, self.generation, "always", self.extent)
        raw = head_codec.encode(head) if self.extent.seq else None
        name = ids.file_name(self._job_id)
        yield Evidence(name, raw, len(self.data), self.generation, self.read)

    def begin(self, copy: _MemoryCopy) -> None:
        """Register `copy` as the replacement of this journal.

        Raises:
            Busy: another one is registered.
        """
        if self.copy is not None:
            raise Busy
        self.copy = copy

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`."""
        return bytes(self.data[offset : offset + size])

    def keep_aside(self, data: Data, offset: int, lost_events: int) -> str:
        """See `Unsettled.keep_aside`: memory keeps nothing after the process ends."""
        return name_of(self._job_id, data, offset, lost_events, is_damage=True)

    @property
    def stamp(self) -> Stamp | None:
        """See `LockedJob.stamp`."""
        return Stamp(self.generation, self.extent.size) if self.extent.seq else None

    def append(self, data: bytes, *, after: int, last: Extent) -> Extent:
        """See `LockedJob.append`."""
        if self.extent.seq != after:
            raise Conflict(f"job {self._job_id!r} is at {self.extent.seq}, not {after}")
        del self.data[self.extent.size :]  # left by an interrupted append
        self.data += data
        self.extent = Extent(last.seq, last.hash, len(self.data))
        return self.extent

    def repairs(self) -> list[JobRepairedData]:
        """See `LockedJob.repairs`."""
        return []

    def recall(self, seen: Extent) -> None:
        """See `LockedJob.recall`: memory is never restored from a backup."""

    def replace(self, copy: Copy, last: Extent) -> Extent:
        """See `LockedJob.replace`."""
        assert isinstance(copy, _MemoryCopy)
        self.data, self.generation = copy.data, self.generation + 1
        self.extent = Extent(last.seq, last.hash, len(self.data))
        return self.extent

    def remove_salvage_files(self, names: Iterable[str]) -> None:
        """See `LockedJob.remove_salvage_files`: there are none."""


class _MemoryCopy:
    """A new journal that will replace another one."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        """See `Copy.size`."""
        return len(self.data)

    def write(self, data: bytes) -> None:
        """See `Copy.write`."""
        self.data += data

    def sync(self) -> None:
        """See `Copy.sync`: there is no medium."""


class _MemoryLockScope:
    """The lock scope of one job in memory."""

    def __init__(self, journal: _MemoryJournal, *, wait: bool) -> None:
        self._journal = journal
        self._wait = wait
        self._is_mine = False

    def __enter__(self) -> _MemoryJournal:
        lock = self._journal.lock
        if lock.is_mine:
            raise NestedCall.inside()
        self._is_mine = True
        if not lock.acquire(-1 if self._wait else 0):
            raise Busy
        return self._journal

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """See `LockScope.release`."""
        if self._is_mine:
            self._journal.lock.release()


class _MemoryRecord:
    """A record in memory."""

    def __init__(self, name: str, guard: Mutex) -> None:
        self._name = name
        self._guard = guard
        self._stored: Stored | None = None

    def get(self) -> Stored | None:
        """See `Record.get`."""
        return self._stored

    def compare_and_set(self, expected: str | None, value: bytes) -> str:
        """See `Record.compare_and_set`."""
        check_value(self._name, value)
        return self._guard.hold(partial(self._set, expected, value))

    def _set(self, expected: str | None, value: bytes) -> str:
        check_version(self._name, self._stored, expected)
        self._stored = Stored(bytes(value), ids.new_nonce())
        return self._stored.version


class _Tenure:
    """The state of one lease, shared by its contenders."""

    def __init__(self) -> None:
        self.owner: _MemoryLease | None = None
        self.holder: Holder | None = None


class _MemoryLease:
    """A lease in memory; ends with the process."""

    def __init__(self, tenure: _Tenure, guard: Mutex) -> None:
        self._tenure = tenure
        self._guard = guard

    @property
    def fence(self) -> int | None:
        """See `Lease.fence`."""
        holder = self.holder()
        return holder.fence if holder is not None and self.is_held() else None

    def acquire(self, who: str) -> bool:
        """See `Lease.acquire`."""
        return self._guard.hold(partial(self._acquire, who))

    def _acquire(self, who: str) -> bool:
        tenure = self._tenure
        if tenure.owner is None:
            tenure.holder = Holder.here(tenure.holder, who)
            tenure.owner = self
        return self.is_held()

    def renew(self) -> bool:
        """See `Lease.renew`."""
        return self.is_held()

    def is_held(self) -> bool:
        """See `Lease.is_held`: a forked child has a copy, but not the lease."""
        holder = self._tenure.holder
        is_mine = self._tenure.owner is self
        return is_mine and holder is not None and holder.pid == os.getpid()

    def holder(self) -> Holder | None:
        """See `Lease.holder`."""
        return None if self._tenure.owner is None else self._tenure.holder

    def release(self) -> None:
        """See `Lease.release`."""
        if self.is_held():
            self._tenure.owner = None


class MemoryStorage:
    """A `Storage` in memory that ends with the process."""

    def __init__(self) -> None:
        self._journals: dict[str, _MemoryJournal] = {}
        self._guard = Mutex()
        self._store_id: str | None = None
        self._records: dict[str, _MemoryRecord] = {}
        self._tenures: dict[str, _Tenure] = {}

    @property
    def store_id(self) -> str | None:
        """See `Storage.store_id`."""
        return self._store_id

    def create(self) -> str:
        """See `Storage.create`."""
        if self._store_id is None:
            self._store_id = ids.new_nonce()
        return self._store_id

    def record(self, name: str) -> _MemoryRecord:
        """See `Storage.record`."""
        made = _MemoryRecord(check_name(name), self._guard)
        return self._records.setdefault(name, made)

    def lease(self, name: str) -> _MemoryLease:
        """See `Storage.lease`."""
        tenure = self._tenures.setdefault(check_name(name), _Tenure())
        return _MemoryLease(tenure, self._guard)

    def wait_for_writers(self) -> None:
        """See `Storage.wait_for_writers`."""
        for journal in [*self._journals.values()]:
            journal.lock.hold(lambda: None)

    def jobs(self, after: str = "", limit: int = PAGE_JOBS) -> list[str]:
        """See `Storage.jobs`."""
        return sorted(job for job in self._stamps() if job > after)[:limit]

    def changed(self, cursor: str | None) -> Changes:
        """See `Storage.changed`."""
        return changes.since(cursor, self._store_id, self._stamps())

    def _stamps(self) -> dict[str, str]:
        found = ((job, each.stamp) for job, each in [*self._journals.items()])
        return {job: str([*stamp]) for job, stamp in found if stamp is not None}

    def stamp(self, job_id: str) -> Stamp | None:
        """See `Storage.stamp`."""
        found = self._journals.get(job_id)
        return None if found is None else found.stamp

    def extent(self, job_id: str) -> Extent:
        """See `Storage.extent`."""
        found = self._journals.get(job_id)
        return Extent() if found is None else found.extent

    def read(self, job_id: str, offset: int, size: int) -> bytes:
        """See `Storage.read`."""
        return self._journals[job_id].read(offset, size)

    def evidence(self, job_id: str) -> AbstractContextManager[Evidence]:
        """See `Storage.evidence`."""
        found = self._journals.get(job_id)
        return (found or _MemoryJournal(job_id)).evidence()

    def unsettled(self, job_id: str) -> LockScope[Unsettled]:
        """See `Storage.unsettled`."""
        return _MemoryLockScope(self._journals[job_id], wait=True)

    def exclusive(self, job_id: str, *, wait: bool = True) -> LockScope[LockedJob]:
        """See `Storage.exclusive`."""
        found = self._journals.setdefault(job_id, _MemoryJournal(job_id))
        return _MemoryLockScope(found, wait=wait)

    @contextmanager
    def copying(self, job_id: str) -> Iterator[Copy]:
        """See `Storage.copying`."""
        found = self._journals[job_id]
        copy = _MemoryCopy()
        try:
            self._guard.hold(partial(found.begin, copy))
            yield copy
        finally:
            if found.copy is copy:
                found.copy = None

    def sweep(self, job_id: str) -> None:
        """See `Storage.sweep`: a copy ends with its process."""

    def repairs(self, job_id: str) -> list[JobRepairedData]:
        """See `Storage.repairs`."""
        del job_id
        return []

    def flush(self) -> None:
        """See `Storage.flush`."""

    def close(self) -> None:
        """See `Storage.close`."""
