"""The store in memory: reference implementation of the contract, also for tests."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.clock import boot_seconds
from milepost.journal.process.mutex import Mutex
from milepost.journal.recovery.diagnosis import Condition, Diagnosis
from milepost.journal.recovery.steps import Repair
from milepost.journal.storage import changes
from milepost.journal.storage.contract import PAGE_JOBS
from milepost.journal.storage.leases import Holder, Tenure, check_ttl
from milepost.journal.storage.memory_job import MemoryJob
from milepost.journal.storage.records import (
    Stored,
    check_name,
    check_value,
    check_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from milepost.journal.states.access import Vault
    from milepost.journal.storage.changes import Changes


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


class _Seat:
    """The state of one lease, shared by its contenders.

    Attributes:
        owner: the contender that took it last, until it releases it.
        tenure: the last one, until it is forgotten.
    """

    def __init__(self) -> None:
        self.owner: _MemoryLease | None = None
        self.tenure: Tenure | None = None


class _MemoryLease:
    """A lease in memory; ends with the process."""

    def __init__(
        self,
        seat: _Seat,
        ttl_seconds: float | None,
        guard: Mutex,
        steady: Callable[[], float],
    ) -> None:
        self._seat = seat
        self._ttl_seconds = math.inf if ttl_seconds is None else ttl_seconds
        self._guard = guard
        self._steady = steady

    @property
    def fence(self) -> int | None:
        """See `Lease.fence`."""
        tenure = self._mine()
        return None if tenure is None else tenure.holder.fence

    def acquire(self, who: str) -> bool:
        """See `Lease.acquire`."""
        return self._guard.hold(partial(self._acquire, who))

    def _acquire(self, who: str) -> bool:
        seat = self._seat
        if not self.is_live():
            before = None if seat.tenure is None else seat.tenure.holder
            seat.tenure = self._until(Holder.here(before, who))
            seat.owner = self
        return self.is_held()

    def _until(self, holder: Holder) -> Tenure:
        return Tenure(holder, "", self._steady() + self._ttl_seconds)

    def renew(self) -> bool:
        """See `Lease.renew`."""
        return self._guard.hold(self._renew)

    def _renew(self) -> bool:
        tenure = self._mine()
        if tenure is not None:
            self._seat.tenure = self._until(tenure.holder)
        return tenure is not None

    def is_held(self) -> bool:
        """See `Lease.is_held`."""
        return self._mine() is not None

    def _mine(self) -> Tenure | None:
        tenure = self._seat.tenure
        if tenure is None or not self._is_last(tenure):
            return None
        return tenure if tenure.is_live("", self._steady()) else None

    def _is_last(self, tenure: Tenure) -> bool:
        """Return whether no other took it since; a forked child has only a copy."""
        return self._seat.owner is self and tenure.holder.pid == os.getpid()

    def holder(self) -> Holder | None:
        """See `Lease.holder`."""
        owner, tenure = self._seat.owner, self._seat.tenure
        if owner is None or tenure is None:
            return None
        return tenure.seen("", self._steady())

    def is_live(self) -> bool:
        """See `Lease.is_live`."""
        found = self.holder()
        return found is not None and not found.is_expired

    def release(self, *, forget: bool = False) -> None:
        """See `Lease.release`."""
        self._guard.hold(partial(self._release, forget=forget))

    def _release(self, *, forget: bool) -> None:
        tenure = self._seat.tenure
        if tenure is not None and self._is_last(tenure):
            self._seat.owner = None
            if forget:
                self._seat.tenure = None


class MemoryStorage:
    """A `Storage` in memory that ends with the process.

    Args:
        steady: the clock of the deadlines of leases; tests replace it.
    """

    def __init__(self, *, steady: Callable[[], float] = boot_seconds) -> None:
        self._steady = steady
        self._jobs: dict[str, MemoryJob] = {}
        self._guard = Mutex()
        self._store_id: str | None = None
        self._records: dict[str, _MemoryRecord] = {}
        self._seats: dict[str, _Seat] = {}

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

    def lease(self, name: str, ttl_seconds: float | None = None) -> _MemoryLease:
        """See `Storage.lease`."""
        check_ttl(ttl_seconds)
        seat = self._seats.setdefault(check_name(name), _Seat())
        return _MemoryLease(seat, ttl_seconds, self._guard, self._steady)

    def wait_for_writers(self) -> None:
        """See `Storage.wait_for_writers`."""
        for job in [*self._jobs.values()]:
            job.lock.hold(lambda: None)

    def jobs(self, after: str = "", limit: int = PAGE_JOBS) -> list[str]:
        """See `Storage.jobs`."""
        return sorted(job for job in self._stamps() if job > after)[:limit]

    def changed(self, cursor: str | None) -> Changes:
        """See `Storage.changed`."""
        return changes.since(cursor, self._store_id, self._stamps())

    def _stamps(self) -> dict[str, str]:
        found = ((job_id, job.version()) for job_id, job in [*self._jobs.items()])
        return {job_id: str([*version]) for job_id, version in found if version}

    def job(self, job_id: str) -> MemoryJob:
        """See `Storage.job`."""
        return self._jobs.setdefault(job_id, MemoryJob(job_id, self))

    def recall(self) -> bytes | None:
        """See `Storage.recall`: no other process has a use for it."""
        return None

    def keep(self, value: bytes) -> None:
        """See `Storage.keep`."""

    def repairer(
        self, vault: Vault, clock: Callable[[], datetime], actor: str
    ) -> MemoryRepairer:
        """See `Storage.repairer`."""
        del vault, clock, actor
        return MemoryRepairer(self)

    def flush(self) -> None:
        """See `Storage.flush`."""

    def close(self) -> None:
        """See `Storage.close`."""


class MemoryRepairer:
    """Finds every job sound: no medium damages what is in memory."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    def diagnose(self, job_id: str, *, deep: bool) -> Diagnosis:
        """See `Repairer.diagnose`."""
        del deep
        seq = self._storage.job(job_id).position().last.seq
        return Diagnosis(job_id, Condition.SOUND, acknowledged_seq=seq, proven_seq=seq)

    def repair(self, job_id: str, *, accept_loss: bool, dry_run: bool) -> Repair:
        """See `Repairer.repair`: there is nothing to do."""
        del accept_loss, dry_run
        return Repair(job_id, self.diagnose(job_id, deep=False), ())
