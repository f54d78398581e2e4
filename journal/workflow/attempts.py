"""The executions that this process runs: their leases, and the heartbeat.

A lease proves that its process lives; the journal says which attempt it stands for.
The table is one per process, so that every manager of a store knows what its process
runs.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import LeaseLive, LeaseLost, StorageFailed
from milepost.journal.process import forks
from milepost.journal.process.mutex import Mutex

if TYPE_CHECKING:
    from milepost.journal.events.workflow_events import LeaseOwner
    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.leases import Holder, Lease

TTL_SECONDS = 30.0
_BEATS_PER_TTL = 3
_MAX_LOOKING = 10_000

_log = logging.getLogger("milepost.workflow")


class Held(NamedTuple):
    """An attempt of this process.  A lost one stays known until the next begins.

    `is_renewed`: a thread of this process renews its lease; else its caller does, which
    may be on another machine.  `store_id`: of its store.
    """

    lease: Lease
    attempt: int
    ttl_seconds: float
    is_renewed: bool = True
    store_id: str = ""


class _Table:
    """The attempts of this process, by execution: ids are unique in all stores."""

    def __init__(self) -> None:
        self.guard = Mutex()
        self.held: dict[str, Held] = {}
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        forks.watch(self)

    def after_fork(self) -> None:
        """Leave the attempts to the parent."""
        self.__init__()  # type: ignore[misc] # nothing of the parent may stay

    def keep(self, execution_id: str, held: Held) -> None:
        """Add an attempt, whose lease is renewed from now on."""

        def add() -> None:
            # It may have died, or never have started: an exception interrupted that.
            is_alive = self._thread is not None and self._thread.is_alive()
            if not is_alive and held.is_renewed:
                beat = partial(self._beat, self._bell)
                self._thread = threading.Thread(
                    target=beat, name="milepost-heartbeat", daemon=True
                )
                self._thread.start()
            self.held[execution_id] = held
            self._bell.set()

        self.guard.hold(add)

    def leave(self, execution_id: str, held: Held) -> None:
        """Remove an attempt, unless the next one has its place."""

        def remove() -> None:
            if self.held.get(execution_id) is held:
                del self.held[execution_id]

        self.guard.hold(remove)

    def _beat(self, bell: threading.Event) -> None:
        """Renew the leases until none is left."""
        last = time.monotonic()
        while (pause := self.guard.hold(self._pause)) is not None:
            if bell.wait(last + pause - time.monotonic()):
                bell.clear()  # a new one may have a shorter ttl
                if time.monotonic() < last + pause:
                    continue
            last = time.monotonic()
            for execution_id, held in [*self.held.items()]:
                if not held.is_renewed:
                    continue
                try:
                    held.lease.renew()
                except StorageFailed as exc:
                    _log.warning("heartbeat of execution %s: %s", execution_id, exc)

    def _pause(self) -> float | None:
        ttls = [held.ttl_seconds for held in self.held.values() if held.is_renewed]
        if ttls:
            return min(ttls) / _BEATS_PER_TTL
        self._thread = None
        return None


_table = _Table()


class Attempts:
    """The attempts of this process in one store.

    Args:
        storage: of the store.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._mine: set[str] = set()  # begun through this object
        # Contenders that only look; a kept one looks in half the time.
        self._looking: dict[str, Lease] = {}

    def owner(self, who: str) -> LeaseOwner:
        """Return this process, for the journal."""
        return {"who": who, "host": socket.gethostname(), "pid": os.getpid()}

    def of(self, execution_id: str) -> Held | None:
        """Return this process's attempt of an execution, if it has one.

        Raises:
            LeaseLost: it had one, and lost it.
        """
        held = _table.held.get(execution_id)
        if held is not None and self.is_lost(execution_id):
            raise LeaseLost(execution_id, held.attempt, "it was not renewed in time")
        return held

    def held(self, execution_id: str) -> Held | None:
        """Return this process's attempt of an execution, None if it lost it."""
        held = _table.held.get(execution_id)
        return None if held is None or not held.lease.is_held() else held

    def running(self, execution_id: str) -> int | None:
        """Return the attempt by which this process itself runs an execution."""
        held = self.held(execution_id)
        return held.attempt if held is not None and held.is_renewed else None

    def is_mine(self, execution_id: str, attempt: int) -> bool:
        """Return whether this process has this attempt of an execution."""
        held = self.held(execution_id)
        return held is not None and held.attempt == attempt

    def renew(self, execution_id: str, attempt: int) -> bool:
        """Renew the lease of an attempt; return whether this process runs it."""
        held = _table.held.get(execution_id)
        return held is not None and held.attempt == attempt and held.lease.renew()

    def has(self, execution_id: str) -> bool:
        """Return whether this process has, or lost, an attempt of an execution."""
        return execution_id in _table.held

    def is_lost(self, execution_id: str) -> bool:
        """Return whether this process lost its attempt of an execution."""
        held = _table.held.get(execution_id)
        return held is not None and not held.lease.is_held()

    def known(self) -> list[str]:
        """Return the executions that this process has, or lost, an attempt of."""
        store_id = self._storage.store_id
        held = [*_table.held.items()]
        return [name for name, attempt in held if attempt.store_id == store_id]

    @staticmethod
    def of_process() -> list[str]:
        """Return what `known` does, for every store."""
        return [*_table.held]

    def take(
        self, execution_id: str, who: str, ttl_seconds: float = TTL_SECONDS
    ) -> Lease:
        """Take the lease of an execution, for an attempt that the journal begins.

        Raises:
            LeaseLive: another process has it, or another call of this one.
        """
        lease = self._lease(execution_id, ttl_seconds)
        if not lease.acquire(who):
            raise self.live(execution_id, lease.holder())
        return lease

    def keep(self, execution_id: str, held: Held) -> None:
        """Keep the lease of an attempt that the journal knows."""
        for name in [*self._mine]:
            known = _table.held.get(name)
            if known is not None and not known.is_renewed and self.is_lost(name):
                self.drop(name)  # its caller went away
        self._mine.add(execution_id)
        store_id = self._storage.store_id or ""
        _table.keep(execution_id, held._replace(store_id=store_id))

    def drop(self, execution_id: str, attempt: int | None = None) -> None:
        """End this process's attempt of an execution, if it has one.

        May be called again after an exception that interrupted it.

        Args:
            execution_id: the execution.
            attempt: only this one.
        """
        held = _table.held.get(execution_id)
        if held is None or attempt not in (None, held.attempt):
            return
        _end(execution_id, held)
        self._mine.discard(execution_id)

    def holder(self, execution_id: str) -> Holder | None:
        """Return the live holder of a lease, in any process; None if there is none."""
        holder = self._look(execution_id).holder()
        return None if holder is None or holder.is_expired else holder

    def why_dead(self, execution_id: str) -> str | None:
        """Return why a lease is not held; None if it is."""
        lease = self._look(execution_id)
        if lease.is_live():
            return None
        holder = lease.holder()
        if holder is None:
            return "its process ended"
        return "its lease was not renewed in time" if holder.is_expired else None

    def live(self, execution_id: str, holder: Holder | None) -> LeaseLive:
        """Return the error for a lease that another process holds."""
        if holder is None:
            return LeaseLive(execution_id, "another process", None)
        owner = f"{holder.who}, process {holder.pid} on {holder.host}"
        at = holder.deadline
        until = None if at is None else at.isoformat(timespec="seconds")
        return LeaseLive(execution_id, owner, until)

    def close(self) -> None:
        """Give every lease up that was taken through this object.

        Its execution reads as interrupted once the worker or another process notices.
        """
        for execution_id in [*self._mine]:
            self.drop(execution_id)

    def _look(self, execution_id: str) -> Lease:
        lease = self._looking.get(execution_id)
        if lease is None:
            lease = self._lease(execution_id, TTL_SECONDS)
            if len(self._looking) >= _MAX_LOOKING:
                self._looking.clear()  # most of them have ended
            self._looking[execution_id] = lease
        return lease

    def _lease(self, execution_id: str, ttl_seconds: float) -> Lease:
        return self._storage.lease(execution_id, ttl_seconds)


def end_process(storage: Storage) -> None:
    """End the attempts of this process in a store as its death does; for tests."""
    store_id = storage.store_id
    for execution_id, held in [*_table.held.items()]:
        if held.store_id == store_id:
            _end(execution_id, held)


def _end(execution_id: str, held: Held) -> None:
    _forget(held.lease)
    _table.leave(execution_id, held)


def _forget(lease: Lease) -> None:
    try:
        lease.release(forget=True)
    except StorageFailed as exc:
        # As text: a log record that keeps the exception keeps its frames, and files.
        _log.warning("the files of a lease stay: %s", str(exc))
