"""One life of the program on a simulated machine, watched at every step."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from milepost import CheckpointManager
from milepost.journal.errors import DamagedJournal, StorageFailed
from milepost.journal.storage.contract import during
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.removals import Removal
from milepost.journal.threads import Put
from milepost.journal.workflow import attempts
from tests.crash.ledger import (
    STORE,
    Ledger,
    Promise,
    Violation,
    check_workflows,
    events_of,
    job_at,
    journal_path,
    listing_of,
)
from tests.crash.simdisk import SimDisk, SimPath, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.index.job_view import JobView
    from milepost.journal.storage.contract import HeldJob
    from milepost.journal.storage.files.folders import Durability

ROOT = cast("Path", SimPath(STORE))
_START = datetime(2026, 11, 23, 5, tzinfo=UTC)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make salts, nonces and ids the same in every run with the same seed."""
    random, real = Random(seed), os.urandom
    os.urandom = random.randbytes
    try:
        yield
    finally:
        os.urandom = real


def forget_attempts() -> None:
    """End this process's attempts, as its death does: nothing is written."""
    attempts._table.held.clear()


class Moment(NamedTuple):
    """The machine right after one disk operation, and what was promised by then."""

    label: str
    world: World
    promise: Promise


class QuietStorage(FileStorage):
    """Files without the thread that flushes in the background: the harness flushes."""

    def _start_flusher(self) -> None:
        pass


class Session:
    """One or more processes on one machine, until it is cut.

    Args:
        world: the machine.
        ledger: what was issued before; takes what is issued here.
        promise: what was promised before.
        durability: of every manager.
        is_recovery: this is life after a crash, not the workload itself.

    Attributes:
        trace: the machine after each operation that changed anything.
        is_damaged: something rotted, and a person may have yet to repair it.
        leaving: a job that is being removed: nothing is promised of it.
        is_owner_dead: the process of an execution died, and none has followed.
    """

    def __init__(
        self,
        world: World,
        ledger: Ledger,
        promise: Promise,
        *,
        durability: Durability,
        is_recovery: bool,
    ) -> None:
        self.world = world
        self.ledger = ledger
        self.promise = promise
        self.durability: Durability = durability
        self.trace: list[Moment] = []
        self.meanwhile: Callable[[str, str], None] | None = None
        self.is_damaged = False
        self.leaving = ""
        self.is_owner_dead = False
        self._is_recovery = is_recovery
        self._ticks = 0
        self._managers: list[CheckpointManager] = []
        self.watch()

    def watch(self) -> None:
        """Take part in every operation of the machine from now on."""
        self.world.observer = self._happened
        self.world.announce = self._announced

    def _announced(self, path: str, before: bytes | None, data: bytes) -> None:
        if job_at(path) is None:
            return
        if before is None:
            self.ledger.replaced(data)
        else:
            self.ledger.issue(before, data, is_recovery=self._is_recovery)

    def _happened(self, kind: str, path: str) -> None:
        if not self._is_recovery:
            self._ask_bystanders()
        self.trace.append(
            Moment(f"{kind} {path[len(STORE) :]}", self.world.copy(), self.promise)
        )
        if self.meanwhile is not None:
            self.meanwhile(kind, path)

    def now(self) -> datetime:
        """Return a time that moves on with every call."""
        self._ticks += 1
        return _START + timedelta(seconds=self._ticks)

    # -- processes -----------------------------------------------------------------

    def open(
        self, *, is_read_only: bool = False, is_bystander: bool = False
    ) -> CheckpointManager:
        """Return the manager of a new process on this machine."""
        manager = open_on(
            self.world, self.durability, self.now, is_read_only=is_read_only
        )
        if not is_bystander:
            self._managers.append(manager)
        return manager

    def _ask_bystanders(self) -> None:
        """Take down what readers see at this very moment: it must never vanish."""
        is_durable = self.durability == "always"
        for manager in self._managers:  # another thread of the same process
            for job, known in list(manager._store._jobs.items()):
                if known.generation != self.world.find(journal_path(job)):
                    continue  # it has yet to notice that the journal was replaced
                if job == self.leaving:
                    continue
                content = events_of(self.content(job)[: known.view.stored_bytes])
                self.promise = self.promise.with_(job, content, is_durable=is_durable)
        for job in {*self.promise.live, *self._managed_jobs()}:
            world = self.world.copy(keep_locks=True)
            changed: list[str] = []
            world.observer = lambda kind, path, log=changed: log.append(kind + path)
            manager = open_on(world, self.durability, self.now)
            try:
                view = manager._store.view(job)
            except DamagedJournal:
                if self.is_damaged:
                    continue
                raise
            if not changed:  # else it recovered, in a life of its own
                content = events_of(self.content(job)[: view.stored_bytes])
                if self.promise.lags(job, content):
                    continue  # docs/recovery.md: a first look beside a recovery
                self.ledger.check_content(job, content, self.promise)
                self._check_leases(view)
                if job == self.leaving:
                    continue
                self.promise = self.promise.with_(job, content, is_durable=is_durable)

    def _check_leases(self, view: JobView) -> None:
        """Check that every execution that is shown as running has a process."""
        live = view.workflows.live
        for execution in live.values():
            lock = self.world.find(f"{STORE}/records/{execution.execution_id}.lock")
            is_locked = lock in self.world.locks
            if execution.leased and not is_locked and not self.is_owner_dead:
                raise Violation(f"{execution.execution_id} runs without a lease")

    def _managed_jobs(self) -> set[str]:
        return {job for m in self._managers for job in m._store._jobs}

    def kill(self, manager: CheckpointManager) -> None:
        """End a process; the kernel unlocks its files."""
        self._managers.remove(manager)
        forget_attempts()
        self.world.locks.clear()
        self.is_owner_dead = True

    def pass_time(self, seconds: int) -> None:
        """Let the clock go on."""
        self._ticks += seconds

    # -- what a user does, and what is promised then ----------------------------------

    def content(self, job: str) -> bytes:
        """Return the bytes of a job's journal, as programs see them."""
        inode = self.world.find(journal_path(job))
        return b"" if inode is None else self.world.files[inode].seen

    def acknowledge(self, manager: CheckpointManager, job: str) -> None:
        """Promise what a manager has just answered."""
        view = manager._store._jobs[job].view
        content = events_of(self.content(job))
        is_whole = len(self.content(job)) == view.stored_bytes
        if content not in self.ledger.listings or not is_whole:
            raise Violation(f"{job}: answered, but its journal is not whole")
        check_workflows(view)
        self.ledger.expect(content, listing_of(view))
        self.promise = self.promise.with_(
            job, content, is_durable=self.durability == "always"
        )

    def save(
        self, manager: CheckpointManager, job: str, state: dict[str, Any], **more: Any
    ) -> str:
        """Save, and promise it; in a log, append; in a thread, put."""
        kind = manager._store.view(job).kind
        if kind == "thread":
            return self.put(manager, job, 10 + len(self.ledger.states))
        if kind == "log":
            state = {"entries": [state]}
            checkpoint_id = manager.append(job, **state).checkpoint_id or ""
        else:
            checkpoint_id = manager.save(job, "s", state, **more)
        self.ledger.states[checkpoint_id] = state
        self.acknowledge(manager, job)
        return checkpoint_id

    def put(self, manager: CheckpointManager, job: str, number: int) -> str:
        """Put a checkpoint of a thread whose id is a number, and promise it."""
        state = {"n": number, "nth": len(self.ledger.states)}
        value = "json", orjson.dumps(state)
        put = Put("", str(number), None, "s", value, {}, None, None, ())
        manager.threads.put(job, put)
        checkpoint_id = manager.list(job)[-1].checkpoint_id
        self.ledger.states[checkpoint_id] = state
        self.acknowledge(manager, job)
        return checkpoint_id

    def flush(self, manager: CheckpointManager) -> None:
        """Flush, as the background thread does, and promise all of it."""
        manager._store.storage.flush()
        for job, content in self.promise.live.items():
            self.promise = self.promise.with_(job, content, is_durable=True)

    def refuse(self, job: str) -> None:
        """Take down that the last write was answered with "nothing was written"."""
        content = max(self.ledger.listings, key=len)
        assert content != events_of(self.content(job))
        self.promise = self.promise._replace(refused=(*self.promise.refused, content))

    def look(self, manager: CheckpointManager, job: str) -> None:
        """Read a job and check all that it shows."""
        view, content = self.glance(manager, job)
        self.ledger.check_states(manager, view, self.content(job)[: view.stored_bytes])
        self.promise = self.promise.with_(
            job, content, is_durable=self.durability == "always"
        )

    def remove(self, manager: CheckpointManager, job: str) -> None:
        """Remove a job, and promise that it does not come back."""
        opening = events_of(self.content(job)).splitlines(keepends=True)[0]
        self.leaving, self.promise = job, self.promise.without(job)

        def remove(held: HeldJob) -> None:
            held.remove(Removal(held.position.last, "now", "a"))

        during(manager._store.storage.job(job).hold(), remove)
        self.leaving = ""
        refused = (*self.promise.refused, opening)
        self.promise = self.promise._replace(refused=refused)

    def mend(self, manager: CheckpointManager, job: str) -> None:
        """Repair a job that is damaged, as a person does who was interrupted."""
        try:
            manager._store.view(job)
        except DamagedJournal as exc:
            if b'"type":"job.repaired"' in self.promise.live.get(job, b""):
                raise Violation(f"refused, though it was repaired: {exc}") from exc
            manager.repair(job, accept_loss=True)

    def patiently(self, action: Callable[..., object], *args: object) -> None:
        """Do something, and once more if a page cache that lies was found out."""
        if not self.world.lies():
            action(*args)
            return
        try:
            action(*args)
        except StorageFailed:
            action(*args)

    def glance(self, manager: CheckpointManager, job: str) -> tuple[JobView, bytes]:
        """Read a job and check only how far it goes."""
        view = manager._store.view(job)
        content = self.content(job)[: view.stored_bytes]
        if view.seq and not content.endswith(b'"%b"}\n' % str(view.hash).encode()):
            raise Violation(f"{job}: its index is not what is in its journal")
        content = events_of(content)
        self.ledger.check_content(job, content, self.promise)
        return view, content

    def quiet(self) -> None:
        """Let all of it reach the disk; what came before is not explored."""
        self.world.settle()
        for job, content in self.promise.live.items():
            self.promise = self.promise.with_(job, content, is_durable=True)
        self.trace.clear()


def open_on(
    world: World,
    durability: Durability,
    clock: Callable[[], datetime],
    *,
    is_read_only: bool = False,
) -> CheckpointManager:
    """Return a manager of a process of its own."""
    storage = QuietStorage(
        ROOT,
        durability=durability,
        lock_timeout_seconds=0.0,
        disk=SimDisk(world, is_read_only=is_read_only),
    )
    return CheckpointManager(storage=storage, actor="a", clock=clock)
