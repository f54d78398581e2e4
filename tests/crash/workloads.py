"""What is done to a store while it is watched: each workload is a few public calls."""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from random import Random
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.batch import Batch
from milepost.journal.errors import Conflict, NoSpace, StorageFailed
from milepost.journal.states import line_codec
from tests.crash import executions
from tests.crash.ledger import NO_PROMISE, STORE, Ledger, Violation
from tests.crash.session import ROOT, Moment, Session, forget_attempts
from tests.crash.simdisk import Content, Fault, SimDisk, World
from tests.support import threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost import CheckpointManager
    from milepost.journal.storage.files.folders import Durability

    Then = Callable[[Session, CheckpointManager], None]

JOB = "job"
_PATIENCE_TURNS = 10_000_000


class Recording(NamedTuple):
    """A workload that was run once, with the machine after each of its operations."""

    name: str
    trace: list[Moment]
    ledger: Ledger
    jobs: tuple[str, ...]
    durability: Durability
    is_damaged: bool = False
    then: Then | None = None


class Workload(NamedTuple):
    """What is done, to which jobs, and what else is done after a crash."""

    script: Callable[[Session], None]
    jobs: tuple[str, ...] = (JOB,)
    durability: Durability = "always"
    is_damaged: bool = False
    then: Then | None = None


def record(name: str) -> Recording:
    """Run a workload on a new machine and return what was seen."""
    workload = WORKLOADS[name]
    world = World()
    disk = SimDisk(world)
    disk.make_folder(ROOT.parent)
    world.settle()
    session = Session(
        world, Ledger(), NO_PROMISE, durability=workload.durability, is_recovery=False
    )
    try:
        workload.script(session)
    finally:
        forget_attempts()
    return Recording(
        name,
        session.trace,
        session.ledger,
        workload.jobs,
        workload.durability,
        workload.is_damaged,
        workload.then,
    )


def _begun(session: Session) -> CheckpointManager:
    """Return the manager of a job with two checkpoints that is safely on the disk."""
    manager = session.open()
    session.save(manager, JOB, {"rows": 1})
    session.save(manager, JOB, {"rows": 2})
    session.quiet()
    return manager


def create(session: Session) -> None:
    manager = session.open()
    session.save(manager, JOB, {"rows": 1})
    session.save(manager, JOB, {"rows": 2})
    manager.close()


def save(session: Session) -> None:
    manager = _begun(session)
    session.save(manager, JOB, {"rows": 3})
    session.save(manager, JOB, {"rows": 4}, metadata={"by": 1}, tags=["t"])
    session.save(manager, JOB, {"rows": 5})
    session.save(manager, JOB, {"rows": 6})


def save_a_large_state(session: Session) -> None:
    """A state over more than two sectors: junk inside it can look like JSON."""
    manager = _begun(session)
    letters = [chr(c) for c in range(32, 127) if chr(c) not in '"\\']
    noise = "".join(Random(3).choices(letters, k=1800))  # stays JSON: no codec helps
    session.save(manager, JOB, {"text": noise})
    session.save(manager, JOB, {"text": noise[:700]})


def save_a_long_event_line(session: Session) -> None:
    """Labels over more than two sectors: junk inside them can look like JSON."""
    manager = _begun(session)
    session.save(manager, JOB, {"rows": 3}, tags=["w" * 300] * 6)


def change(session: Session) -> None:
    manager = _begun(session)
    first, second = (info.checkpoint_id for info in manager.list(JOB))
    manager.restore(JOB, first)
    session.acknowledge(manager, JOB)
    manager.delete(JOB, second)
    session.acknowledge(manager, JOB)
    manager.undelete(JOB, second)
    session.acknowledge(manager, JOB)
    session.save(manager, JOB, {"rows": 3})
    manager.cleanup(JOB, keep_last=1)
    session.acknowledge(manager, JOB)


def fork(session: Session) -> None:
    manager = _begun(session)
    source = manager.list(JOB)[1]
    forked = manager.fork(JOB, source.checkpoint_id, "fork")
    session.ledger.states[forked] = {"rows": 2}
    session.acknowledge(manager, "fork")
    session.save(manager, "fork", {"rows": 3})


def log(session: Session) -> None:
    manager = session.open()
    for n in range(2):
        entries = [{"id": f"{n}"}, {"id": f"{n}b"}]
        made = manager.append(JOB, entries, key="id")
        assert made.checkpoint_id is not None
        _noted(session, manager, made.checkpoint_id)
        if n == 0:
            session.quiet()
    manager.pop(JOB)
    _noted(session, manager, manager.list(JOB)[-1].checkpoint_id)
    manager.clear(JOB)
    session.acknowledge(manager, JOB)


def _noted(session: Session, manager: CheckpointManager, checkpoint_id: str) -> None:
    """Promise an append and its entries."""
    state = manager.get(JOB, checkpoint_id).state
    session.ledger.states[checkpoint_id] = state
    session.acknowledge(manager, JOB)


def thread(session: Session) -> None:
    """Writes come before and after their checkpoint, which is replaced and deleted."""
    manager = session.open()
    threads = manager.threads
    threads.put_writes(JOB, "", "1", "task", "", [(0, "a", ("json", b"1"))])
    session.acknowledge(manager, JOB)
    session.put(manager, JOB, 1)
    session.quiet()
    threads.put_writes(JOB, "", "1", "task", "", [(-3, "b", ("json", b"2"))])
    session.acknowledge(manager, JOB)
    session.put(manager, JOB, 1)
    session.put(manager, JOB, 2)
    threads.delete(JOB)
    session.acknowledge(manager, JOB)


def group_commit(session: Session) -> None:
    """While one save is on its way two more queue up: one write holds both."""
    manager = _begun(session)
    queue = manager._store._job(JOB).queue
    threads: list[Thread] = []

    def save_one(rows: int) -> None:
        state = {"rows": rows}
        session.ledger.states[manager.save(JOB, "s", state)] = state

    def meanwhile(kind: str, path: str) -> None:
        if kind != "append" or threads:
            return
        for rows in (4, 5):
            threads.append(Thread(target=save_one, args=(rows,)))
            threads[-1].start()
            for _ in range(_PATIENCE_TURNS):
                if len(queue._waiting) == len(threads):
                    break
        assert len(queue._waiting) == 2, path

    session.meanwhile = meanwhile
    first = Thread(target=save_one, args=(3,))
    first.start()
    first.join()
    for thread in threads:
        thread.join()
    session.meanwhile = None
    session.acknowledge(manager, JOB)
    assert b'"span":[5,6]' in session.content(JOB)


def take_over(session: Session) -> None:
    """A process dies between write and sync; the next one goes on."""
    manager = _begun(session)
    _die_at(session, manager, "append")
    other = session.open()
    session.save(other, JOB, {"rows": 4})
    session.save(other, JOB, {"rows": 5})


def take_over_a_creation(session: Session) -> None:
    """A process dies before anything of its new job was synced."""
    manager = session.open()
    _die_at(session, manager, "append")
    other = session.open()
    session.save(other, JOB, {"rows": 4})


class _Killed(BaseException):
    """The process is gone."""


def _die_at(session: Session, manager: CheckpointManager, kind: str) -> None:
    def meanwhile(done: str, path: str) -> None:
        if done == kind and path.endswith(".jsonl"):
            raise _Killed

    session.meanwhile = meanwhile
    state = {"rows": 3}
    session.ledger.states["?"] = state
    try:  # noqa: SIM105
        manager.save(JOB, "s", state)
    except _Killed:
        pass
    session.meanwhile = None
    session._managers.remove(manager)
    session.world.locks.clear()
    # Its save was never answered, but may well have landed.
    probe = Session(
        session.world.copy(),
        Ledger(session.ledger),
        session.promise,
        durability=session.durability,
        is_recovery=True,
    )
    landed = probe.open().latest(JOB)
    if landed is not None:
        session.ledger.states[landed.checkpoint_id] = state


def repair(session: Session) -> None:
    """A torn tail is found, cut, kept and journaled; life goes on."""
    manager = _begun(session)
    head = session.world.find(STORE + "/heads/job")
    inode = session.world.find(STORE + "/journals/job.jsonl")
    assert head is not None
    assert inode is not None
    stale, promise = session.world.files[head], session.promise
    manager.save(JOB, "s", {"rows": 3})
    file = session.world.files[inode]
    torn = file.seen[: len(file.seen) - 100]
    session.quiet()
    session._managers.clear()
    session.world.files[inode] = file._replace(durable=torn, changes=(), seen=torn)
    session.world.files[head] = stale
    session.promise = promise
    session.world.locks.clear()
    session.ledger.crashed(session.world, is_power_cut=True)
    other = session.open()
    session.look(other, JOB)
    session.save(other, JOB, {"rows": 4})


def mend(session: Session) -> None:
    """Acknowledged bytes rot, and a person gives up what is behind them."""
    manager = _begun(session)
    promise = session.promise
    session.save(manager, JOB, {"rows": 3})
    session.save(manager, JOB, {"rows": 4}, tags=["t"])
    session.quiet()
    session._managers.clear()
    inode = session.world.find(STORE + "/journals/job.jsonl")
    assert inode is not None
    seen = session.world.files[inode].seen.replace(b'"seq":4,', b'"seq":5,')
    session.world.files[inode] = Content(seen, (), seen)
    session.promise = promise
    session.ledger.crashed(session.world, is_power_cut=True)
    session.is_damaged = True
    other = session.open()
    other.repair(JOB, accept_loss=True)
    session.is_damaged = False
    session.look(other, JOB)
    session.save(other, JOB, {"rows": 5})


def failed_sync(arrived: str) -> Callable[[Session], None]:
    """A sync fails, and the page cache lies about it from then on."""

    def script(session: Session) -> None:
        manager = _begun(session)
        session.world.faults.append(Fault("sync", "job.jsonl", arrived=arrived))
        _expect_failure(manager, session, StorageFailed)
        other = session.open()
        session.look(other, JOB)
        session.save(other, JOB, {"rows": 4})
        session.save(manager, JOB, {"rows": 5})

    return script


def failed_sync_and_a_cache_that_sticks(session: Session) -> None:
    """The kernel takes no advice: only the mark tells the others of the failure."""
    manager = _begun(session)
    session.world.faults.append(Fault("sync", "job.jsonl"))
    _expect_failure(manager, session, StorageFailed)
    session.world.is_cache_sticky = True
    other = session.open()
    session.look(other, JOB)
    session.save(other, JOB, {"rows": 4})


def failed_first_sync(session: Session) -> None:
    manager = session.open()
    session.world.faults.append(Fault("sync", "job.jsonl"))
    _expect_failure(manager, session, StorageFailed)
    session.save(manager, JOB, {"rows": 4})


def short_write(taken: int) -> Callable[[Session], None]:
    """The disk takes a part of a write; nothing of it may ever show."""

    def script(session: Session) -> None:
        manager = _begun(session)
        session.world.faults.append(Fault("append", "job.jsonl", code=0, taken=taken))
        _expect_failure(manager, session, NoSpace)
        session.refuse(JOB)
        session.save(manager, JOB, {"rows": 4})

    return script


def full_disk(session: Session) -> None:
    manager = _begun(session)
    session.world.faults.append(Fault("append", "job.jsonl", errno.ENOSPC))
    _expect_failure(manager, session, NoSpace)
    session.refuse(JOB)
    session.save(manager, JOB, {"rows": 4})


def _expect_failure(
    manager: CheckpointManager, session: Session, kind: type[StorageFailed]
) -> None:
    state = {"rows": 3}
    try:
        manager.save(JOB, "s", state)
    except kind:
        content = max(session.ledger.listings, key=len)
        for line in content.splitlines()[-1:]:
            checkpoint_id = line.partition(b'"checkpoint_id":"')[2].partition(b'"')[0]
            session.ledger.states[checkpoint_id.decode()] = state
    else:
        newest = manager.list(JOB)[-1].checkpoint_id
        session.ledger.states[newest] = state
        session.acknowledge(manager, JOB)


def interval(session: Session) -> None:
    """Answers run ahead of syncs."""
    manager = _begun(session)
    session.save(manager, JOB, {"rows": 3})
    session.save(manager, JOB, {"rows": 4})
    session.flush(manager)
    session.save(manager, JOB, {"rows": 5})
    session.save(manager, JOB, {"rows": 6})


def headless(session: Session) -> None:
    """A journal was copied without its head."""
    _begun(session)
    SimDisk(session.world).unlink(ROOT / "heads" / JOB)
    session.world.settle()
    session.trace.clear()
    other = session.open()
    session.look(other, JOB)
    session.save(other, JOB, {"rows": 3})


def rewritten(session: Session) -> None:
    """The journal was rewritten shorter, and its head not yet: same events."""
    manager = _begun(session)
    manager.delete(JOB, manager.list(JOB)[0].checkpoint_id)
    session.acknowledge(manager, JOB)
    session.quiet()
    lines = session.content(JOB).splitlines(keepends=True)
    shorter = b"".join(line for line in lines if not line.startswith(b'{"state":2,'))
    disk, temporary = SimDisk(session.world), ROOT / "journals" / "rewritten"
    session.world.observer = session.world.announce = None
    session._managers.clear()
    disk.open(temporary, "append", create=True).append(shorter)
    disk.rename(temporary, ROOT / "journals" / "job.jsonl")
    session.world.settle()
    session.watch()
    other = session.open()
    session.look(other, JOB)
    session.save(other, JOB, {"rows": 3})


def compact(session: Session) -> None:
    """States that differ little from each other; some go for good."""
    manager = _begun(session)
    manager.trash_seconds = 0
    text = Random(5).randbytes(1100).hex()  # long enough for deltas
    ids = [
        session.save(manager, JOB, {"n": n, "text": text, "own": str(n) * 40})
        for n in range(4)
    ]
    for checkpoint_id in (ids[0], ids[2]):
        manager.delete(JOB, checkpoint_id)
        session.acknowledge(manager, JOB)
    session.quiet()
    assert manager.compact(JOB) is not None
    manager.list(JOB)
    session.acknowledge(manager, JOB)
    session.save(manager, JOB, {"n": 9, "text": text})


def _note(session: Session, manager: CheckpointManager, raw: bytes) -> None:
    """Write, as a later version would, an event of an unknown type with a state."""
    encoded = line_codec.encode_state(raw, None)
    data = {"state_digest": encoded.digest, "state_bytes": encoded.raw_bytes}
    add = partial(Batch.add, type_="task.noted", actor="x", data=data, encoded=encoded)
    manager._store.write(JOB, add)
    session.acknowledge(manager, JOB)


def note_states(session: Session) -> None:
    """The states span more than two sectors: junk inside them can look like JSON."""
    manager = _begun(session)
    text = Random(7).randbytes(700).hex().encode()
    for n in range(2):
        _note(session, manager, b'["%b",%d]' % (text, n))
    session.save(manager, JOB, {"rows": 3})


def compact_noted_states(session: Session) -> None:
    """A compaction keeps the states of events that save no checkpoint."""
    manager = _begun(session)
    manager.trash_seconds = 0
    _note(session, manager, b'["a result"]')
    manager.delete(JOB, manager.list(JOB)[0].checkpoint_id)
    session.acknowledge(manager, JOB)
    session.quiet()
    assert manager.compact(JOB) is not None
    manager.list(JOB)
    session.acknowledge(manager, JOB)


def compact_a_thread(session: Session) -> None:
    """A message goes for good that is in the prefix of a later state."""
    manager = _begun(session)
    manager.trash_seconds = 0
    thread = threads.Thread(manager, JOB)
    for size_bytes in (2200, 300, 300):
        for step in (partial(thread.say, size_bytes), thread.put):
            checkpoint_id = step()
            session.ledger.states |= thread.states
            session.acknowledge(manager, JOB)
            if size_bytes == 300 and step == thread.put:
                view = manager._reader.view(JOB)
                seq = view.checkpoints[checkpoint_id].seq
                assert manager._reader.read(view, seq).parts.plus
    manager.delete(JOB, [*thread.states][2])
    session.acknowledge(manager, JOB)
    session.quiet()
    assert manager.compact(JOB) is not None
    manager.list(JOB)
    session.acknowledge(manager, JOB)


def hard_linked(session: Session) -> None:
    """A copy by hard links shares both files; two processes go on writing."""
    manager = _begun(session)
    other = session.open()
    session.look(other, JOB)
    disk, copies = SimDisk(session.world), ROOT.parent / "copies"
    journal, head = ROOT / "journals" / "job.jsonl", ROOT / "heads" / JOB
    disk.make_folder(copies)
    for source in (journal, head):
        disk.link(source, copies / source.name)
    session.quiet()
    before = _seen(session, copies)
    session.save(manager, JOB, {"rows": 3})
    session.save(other, JOB, {"rows": 4})
    if _seen(session, copies) != before:
        raise Violation("the copy changed")
    disk.link(journal, copies / "again")
    session.save(manager, JOB, {"rows": 5})
    assert _seen(session, copies)["job.jsonl"] == before["job.jsonl"]


def _seen(session: Session, folder: Path) -> dict[str, bytes]:
    found = session.world.contents().items()
    return {
        path.rpartition("/")[2]: content
        for path, (_, content) in found
        if path.startswith(f"{folder}/")
    }


def take_over_a_rewrite(session: Session) -> None:
    """A process dies when it has renamed a compacted journal; another one goes on."""
    manager, other = _begun(session), session.open()
    session.save(other, JOB, {"rows": 3})
    manager.trash_seconds = 0
    manager.delete(JOB, manager.list(JOB)[0].checkpoint_id)
    session.acknowledge(manager, JOB)
    session.quiet()

    def meanwhile(done: str, path: str) -> None:
        if done == "rename" and path.endswith(".jsonl"):
            raise _Killed

    session.meanwhile = meanwhile
    with suppress(_Killed):
        manager.compact(JOB)
    session.meanwhile = None
    session._managers.remove(manager)
    session.world.locks.clear()
    session.save(other, JOB, {"rows": 4})


def come_and_go(session: Session) -> None:
    """A checkpoint comes back behind a compaction, and leaves the disk in another."""
    manager = _begun(session)
    first, second = (info.checkpoint_id for info in manager.list(JOB))
    session.save(manager, JOB, {"rows": 3})
    for do in (
        lambda: manager.delete(JOB, first),
        lambda: manager.delete(JOB, second, purge=True),
        lambda: manager.undelete(JOB, first),
        lambda: manager.delete(JOB, first),
        lambda: manager.delete(JOB, first, purge=True),
    ):
        assert do()
        manager.list(JOB)  # it has yet to notice a compaction of its own
        session.acknowledge(manager, JOB)
    session.save(manager, JOB, {"rows": 4})


def come_back_during_a_compaction(session: Session) -> None:
    """What a compaction left out is undeleted before it commits: it gives up."""
    manager = _begun(session)
    first, second = (info.checkpoint_id for info in manager.list(JOB))
    other = session.open()  # whose trash period is as long as usual
    manager.trash_seconds = 0
    for checkpoint_id in (first, second):
        manager.delete(JOB, checkpoint_id)
        session.acknowledge(manager, JOB)
    session.quiet()

    def meanwhile(kind: str, path: str) -> None:
        if kind == "sync" and path.endswith(".copy"):
            session.meanwhile = None
            assert other.undelete(JOB, first)
            session.acknowledge(other, JOB)

    session.meanwhile = meanwhile
    try:
        manager.compact(JOB)
    except Conflict:
        assert session.meanwhile is None
    session.look(manager, JOB)
    assert manager.compact(JOB) is not None
    manager.list(JOB)
    session.acknowledge(manager, JOB)
    session.save(manager, JOB, {"rows": 3})


def remove(session: Session) -> None:
    """A job is removed that another process has seen; both go on with a new one."""
    manager, other = _begun(session), session.open()
    session.look(other, JOB)
    session.remove(manager, JOB)
    session.look(other, JOB)
    session.save(other, JOB, {"rows": 3})
    session.save(manager, JOB, {"rows": 4})


def take_over_a_removal(session: Session) -> None:
    """A process dies when its removal is decided; another one that has seen the job."""
    manager, other = _begun(session), session.open()
    session.look(other, JOB)
    session.quiet()

    def meanwhile(done: str, path: str) -> None:
        if done == "pwrite" and path.endswith(f"/heads/{JOB}"):
            raise _Killed

    session.meanwhile = meanwhile
    with suppress(_Killed):
        session.remove(manager, JOB)
    session.meanwhile = None
    session._managers.remove(manager)
    session.world.locks.clear()
    session.look(session.open(), JOB)
    session.leaving = ""
    if session.content(JOB):
        raise Violation("the removal was not completed")
    session.look(other, JOB)
    session.save(other, JOB, {"rows": 3})


WORKLOADS: dict[str, Workload] = {
    "create": Workload(create),
    "save": Workload(save),
    "save a large state": Workload(save_a_large_state),
    "save a long event line": Workload(save_a_long_event_line),
    "repair": Workload(repair),
    "change": Workload(change),
    "fork": Workload(fork, jobs=(JOB, "fork")),
    "log": Workload(log),
    "thread": Workload(thread),
    "group commit": Workload(group_commit),
    "take over": Workload(take_over),
    "take over a creation": Workload(take_over_a_creation),
    "damaged, then repaired": Workload(mend, is_damaged=True),
    "failed sync, nothing arrived": Workload(failed_sync("nothing")),
    "failed sync, zeros arrived": Workload(failed_sync("zeros")),
    "failed sync, half arrived": Workload(failed_sync("half")),
    "failed sync, all arrived": Workload(failed_sync("all")),
    "failed sync, the cache sticks": Workload(failed_sync_and_a_cache_that_sticks),
    "failed first sync": Workload(failed_first_sync),
    "short write": Workload(short_write(100)),
    "short write, all but the newline": Workload(short_write(-1)),
    "full disk": Workload(full_disk),
    "interval": Workload(interval, durability="interval"),
    "headless": Workload(headless),
    "rewritten": Workload(rewritten),
    "compact": Workload(compact),
    "states of other events": Workload(note_states),
    "compact states of other events": Workload(compact_noted_states),
    "compact a thread": Workload(compact_a_thread),
    "hard linked": Workload(hard_linked),
    "take over a rewrite": Workload(take_over_a_rewrite),
    "come and go": Workload(come_and_go),
    "come back during a compaction": Workload(come_back_during_a_compaction),
    "remove": Workload(remove),
    "take over a removal": Workload(take_over_a_removal),
    "execute": Workload(executions.execute, then=executions.go_on),
    "take over an execution": Workload(
        executions.take_over_an_execution, then=executions.go_on
    ),
    "clear executions": Workload(executions.clear_executions, then=executions.go_on),
    "end executions": Workload(executions.end_executions, then=executions.go_on),
}
