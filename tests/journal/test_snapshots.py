"""A snapshot opens a job as its events do, or counts for nothing."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import DamagedJournal
from milepost.journal.index import job_view
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store import job as replica
from tests.support.clock import Clock
from tests.support.faults import Fault, FaultyDisk, head_of, journal_of, put
from tests.support.interruptions import JOB as JOB_OF_SCENES
from tests.support.interruptions import Scene, swept
from tests.support.views import whole

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = "job"
# Of the first page in a new process: store.json, the head, the event at the end of the
# snapshot, the snapshot itself (its header, its parts and digest).
_READS = 12


@pytest.fixture(autouse=True)
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a snapshot after each event that is new to a process."""
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1)


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seqs of the events that are folded from now on."""
    seqs: list[int] = []

    def apply(view: Any, event: Any, *stored: Any) -> None:
        seqs.append(event["seq"])
        original(view, event, *stored)

    original = job_view.apply
    monkeypatch.setattr(job_view, "apply", apply)
    return seqs


def snapshot_of(root: Path, job: str = JOB) -> Path:
    return root / "snapshots" / job


def opened(root: Path, **options: Any) -> CheckpointManager:
    return CheckpointManager(root, **options)


def fill(root: Path, clock: Clock, job: str = JOB, count: int = 12) -> list[str]:
    """Make a job with something of each kind."""
    with opened(root, clock=clock) as manager:
        ids = [
            manager.save(
                *(job, f"s{n % 3}", {"n": n}),
                tags=["a"] * (n % 2),
                idempotency_key=f"k{n}" if n % 4 == 0 else None,
                metadata={"n": n} if n == 5 else None,
            )
            for n in range(count)
        ]
        manager.pin(job, ids[1])
        manager.hold(job, ids[2], reason="audit")
        manager.delete(job, ids[3], idempotency_key="r")
        manager.delete(job, ids[4])
        manager.undelete(job, ids[4])
        manager.restore(job, ids[5])
        ids.append(manager.save(job, "branch", {"n": -1}, workflow_name="w"))
        manager.complete(job, failed=True, reason="enough")
    return ids


def answers(root: Path) -> list[object]:
    """What a new process says, and what a fold of all events says, which is equal."""
    with opened(root) as manager:
        view = manager._reader.view(JOB)
        assert whole(view) == whole(manager._store.replay(JOB, until_seq=view.seq))
        infos = manager.list(JOB)
        states = [manager.get(JOB, info.checkpoint_id).state for info in infos]
        return [infos, states, manager.history(JOB), manager.current(JOB)]


def test_a_process_folds_no_event_that_a_snapshot_has(
    root: Path, clock: Clock, folded: list[int]
) -> None:
    fill(root, clock)
    expected = answers(root)
    folded.clear()
    with opened(root) as manager:
        assert manager.list(JOB) == expected[0]
        assert folded == []
        manager.save(JOB, "later", {})
        assert folded == [manager.seq(JOB)]


@pytest.mark.parametrize("count", [10, 1000])
def test_the_first_page_of_a_longer_job_folds_and_reads_no_more(
    root: Path, clock: Clock, count: int, folded: list[int]
) -> None:
    with opened(root, clock=clock, durability="never") as manager:
        for n in range(count):
            manager.save(JOB, "s", {"n": n})
    with opened(root) as manager:
        manager.latest(JOB)
    folded.clear()
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        assert len(manager.page(JOB, limit=5, after_seq=3)) == 5
    assert folded == []
    assert sum(call.operation == "read" for call in disk.calls) == _READS


def test_only_the_events_after_a_snapshot_are_folded(
    root: Path, clock: Clock, folded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, clock)
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 20)
    with opened(root, clock=clock) as manager:
        seq = manager.seq(JOB)
        later = [manager.save(JOB, "later", {"n": n}) for n in range(3)]
        manager.delete(JOB, later[0])
    folded.clear()
    with opened(root) as manager:
        assert manager.latest(JOB)
    assert folded == [*range(seq + 1, seq + 5)]
    assert answers(root)


@pytest.mark.parametrize("durability", ["interval", "never"])
def test_events_that_a_power_cut_may_take_are_in_no_snapshot(
    root: Path, clock: Clock, durability: Any
) -> None:
    manager = opened(root, clock=clock, durability=durability, interval_seconds=3600.0)
    manager.save(JOB, "synced", {})
    manager._store.storage.flush()
    manager.save(JOB, "not synced", {})
    manager.compact(JOB)
    with opened(root) as reader:
        assert len(reader.list(JOB)) == 2
    assert not snapshot_of(root).exists()
    manager._store.storage.flush()
    with opened(root) as reader:
        assert len(reader.list(JOB)) == 2
    assert snapshot_of(root).exists()
    manager.close()


def kept(root: Path) -> object:
    """The snapshot that a new process would begin with."""
    stored = FileStorage(root).job(JOB)
    return stored.snapshot(stored.position())


def test_a_snapshot_with_any_other_byte_or_length_counts_for_nothing(
    root: Path, clock: Clock
) -> None:
    fill(root, clock, count=6)
    path = snapshot_of(root)
    whole_file = path.read_bytes()
    assert kept(root) is not None
    stored = FileStorage(root).job(JOB)
    at = stored.position()
    for place in range(len(whole_file)):
        flipped = bytearray(whole_file)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert stored.snapshot(at) is None, place
        path.write_bytes(whole_file[:place])
        assert stored.snapshot(at) is None, place
    path.write_bytes(whole_file + b"\n")
    assert stored.snapshot(at) is None


def of_another_job(root: Path, clock: Clock) -> None:
    fill(root, clock, "other")
    shutil.copy(snapshot_of(root, "other"), snapshot_of(root))


def newer_than_the_journal(root: Path, clock: Clock) -> None:
    before = {
        path: path.read_bytes() for path in (journal_of(root, JOB), head_of(root, JOB))
    }
    with opened(root, clock=clock) as manager:
        manager.save(JOB, "later", {})
    for path, content in before.items():
        put(path, content)


def older_than_a_compaction(root: Path, clock: Clock) -> None:
    old = snapshot_of(root).read_bytes()
    with opened(root, clock=clock) as manager:
        manager.delete(JOB, manager.list(JOB)[0].checkpoint_id, purge=True, force=True)
    assert not snapshot_of(root).exists()
    snapshot_of(root).write_bytes(old)


def copied_with_its_store(root: Path, clock: Clock) -> None:
    del clock
    shutil.copytree(root, root.parent / "copy")
    shutil.rmtree(root)
    (root.parent / "copy").rename(root)


def of_a_newer_format(root: Path, clock: Clock) -> None:
    del clock
    path = snapshot_of(root)
    path.write_bytes(path.read_bytes().replace(b'{"snapshot":1', b'{"snapshot":2', 1))


def a_folder(root: Path, clock: Clock) -> None:
    del clock
    snapshot_of(root).unlink()
    snapshot_of(root).mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        *(of_another_job, newer_than_the_journal, older_than_a_compaction),
        *(copied_with_its_store, of_a_newer_format, a_folder),
    ],
)
def test_a_snapshot_of_something_else_changes_no_answer(
    root: Path, clock: Clock, spoil: Callable[[Path, Clock], None]
) -> None:
    fill(root, clock)
    spoil(root, clock)
    assert kept(root) is None
    found = answers(root)
    shutil.rmtree(root / "snapshots")
    assert answers(root) == found


def test_a_view_of_another_fold_counts_for_nothing(
    root: Path, clock: Clock, folded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, clock)
    monkeypatch.setattr("milepost.journal.index.snapshot.FOLD", 7)
    folded.clear()
    with opened(root) as manager:
        seq = manager.seq(JOB)
    assert folded == [*range(1, seq + 1)]


def remove_the_job(manager: CheckpointManager) -> None:
    with manager._store.storage.job(JOB).hold() as held:
        from milepost.journal.storage.removals import Removal

        held.remove(
            Removal(held.position.last, "2026-11-23T05:00:00+00:00", "me", None)
        )


def compact_it(manager: CheckpointManager) -> None:
    manager.delete(JOB, manager.list(JOB)[0].checkpoint_id, force=True, purge=True)


def test_a_snapshot_that_is_interrupted_anywhere_stops_nothing(root: Path) -> None:
    def keep(scene: Scene, _: int) -> object:
        return scene.manager.compact(JOB_OF_SCENES)

    problems, events = swept(root, keep, every=9, opcodes=False, open_=Scene)
    assert problems == {}
    assert events > 100


@pytest.mark.parametrize("act", [remove_the_job, compact_it])
def test_a_snapshot_goes_with_the_journal_that_it_is_of(
    root: Path, clock: Clock, act: Callable[[CheckpointManager], object]
) -> None:
    fill(root, clock)
    left = snapshot_of(root).with_suffix(".copy")
    left.write_bytes(b"a crash left it")
    with opened(root, clock=clock) as manager:
        act(manager)
        assert not snapshot_of(root).exists()
        assert not left.exists()


def test_a_job_that_was_rewritten_meanwhile_gets_no_snapshot_of_before(
    root: Path, clock: Clock
) -> None:
    fill(root, clock)
    snapshot_of(root).unlink()
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        manager.list(JOB)
        snapshot_of(root).unlink()
        manager.save(JOB, "later", {})
        with opened(root, clock=clock) as other:
            disk.set(Fault("sync", on="snapshots", action=partial(compact_it, other)))
            manager.close()
    assert not snapshot_of(root).exists()


@pytest.mark.parametrize(
    "operation", ["append", "sync", "rename", "create", "make_folder"]
)
def test_a_snapshot_that_cannot_be_written_fails_nothing(
    root: Path, clock: Clock, operation: str
) -> None:
    ids = fill(root, clock)
    snapshot_of(root).unlink()
    disk = FaultyDisk(root)
    disk.set(Fault(operation, on="snapshots", error=28))
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        assert manager.list(JOB)[-1].checkpoint_id == ids[-1]
    assert [*(root / "snapshots").iterdir()] == []


def test_a_damaged_job_keeps_no_snapshot_and_verification_removes_the_one_it_has(
    root: Path, clock: Clock
) -> None:
    fill(root, clock)
    journal = journal_of(root, JOB)
    put(
        journal,
        journal.read_bytes().replace(b'"step_name":"s1"', b'"step_name":"s2"', 1),
    )
    with opened(root) as manager:
        assert len(manager.list(JOB)) == 12  # opening proves nothing before a snapshot
        assert not manager.verify(JOB)[0].ok
    assert not snapshot_of(root).exists()
    for _ in range(2):
        with opened(root) as manager, pytest.raises(DamagedJournal):
            manager.list(JOB)
    assert not snapshot_of(root).exists()


@pytest.mark.parametrize("step", ["branch", "s0"])
def test_a_job_with_an_unreadable_state_keeps_no_snapshot(
    root: Path, clock: Clock, step: str
) -> None:
    ids = fill(root, clock)
    snapshot_of(root).unlink()
    state = b'{"n":-1}' if step == "branch" else b'{"n":3}'  # a live and a deleted one
    journal = journal_of(root, JOB)
    rotten = state.replace(b"n", b"m")
    put(journal, journal.read_bytes().replace(b'"body":' + state, b'"body":' + rotten))
    with opened(root) as manager:
        assert [info.checkpoint_id for info in manager.list(JOB)][-1] == ids[-1]
    assert not snapshot_of(root).exists()


def test_one_event_that_deletes_many_makes_a_snapshot_due(
    root: Path, clock: Clock, folded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, clock, count=30)
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 20)
    with opened(root, clock=clock) as manager:
        assert manager.cleanup(JOB, keep_last=1) > 20
    folded.clear()
    assert len(answers(root)[0]) < 5  # type: ignore[arg-type] # it is a list
    with opened(root) as manager:
        folded.clear()
        manager.list(JOB)
    assert folded == []


def test_readers_and_maintenance_keep_snapshots_and_memory_has_none(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1000)
    fill(root, clock)
    assert not (root / "snapshots").exists()
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 10)
    for act in (CheckpointManager.list, CheckpointManager.compact):
        manager = opened(root, clock=clock)
        if act is CheckpointManager.compact:
            monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1000)
            manager.list(JOB)
            monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 10)
        act(manager, JOB)
        assert snapshot_of(root).exists()
        snapshot_of(root).unlink()
