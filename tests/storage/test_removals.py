"""Removed jobs in a folder: other processes, salvage files, and real losses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.disk.disk import PosixDisk
from milepost.journal.errors import DamagedJournal
from milepost.journal.reading import store_check
from milepost.journal.storage.contract import during
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.removals import Removal
from tests.support.eventually import eventually
from tests.support.faults import (
    Child,
    Fault,
    FaultyDisk,
    head_of,
    in_child,
    journal_of,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.storage.contract import HeldJob

JOB = "etl"


def bury(held: HeldJob) -> None:
    held.remove(Removal(held.position.last, "2026-11-27T05:00:00Z", "me"))


def remove(root: Path) -> None:
    during(FileStorage(root).job(JOB).hold(), bury)


def remove_elsewhere(root: Path) -> None:
    in_child(partial(remove, root))


def ids(manager: CheckpointManager) -> list[str]:
    return [info.checkpoint_id for info in manager.list(JOB)]


def names(root: Path) -> list[str]:
    return [p.name for p in root.rglob("*") if p.is_file() and JOB in p.name]


def test_a_process_that_has_a_job_open_sees_that_another_one_removed_it(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "one", {})
    remove_elsewhere(root)
    assert manager.list(JOB) == []
    assert manager.jobs() == []
    assert manager.verify() == []
    assert names(root) == []
    with pytest.raises(FileNotFoundError):
        manager.restore(JOB, "one")


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_a_job_that_was_removed_begins_anew_in_every_process(
    root: Path, manager: CheckpointManager, saves: int
) -> None:
    for n in range(2):
        manager.save(JOB, "old", {"n": n})

    def begin_anew() -> list[str]:
        remove(root)
        with CheckpointManager(root) as other:
            return [other.save(JOB, "new", {"n": n}) for n in range(saves)]

    made = in_child(begin_anew)
    assert ids(manager) == made
    made.append(manager.save(JOB, "new", {}))
    with CheckpointManager(root) as other:
        assert ids(other) == made
        assert other.verify(JOB, deep=True)[0].ok


def test_a_process_that_saves_without_a_look_begins_anew(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "old", {}, idempotency_key="k")
    remove_elsewhere(root)
    new = manager.save(JOB, "old", {}, idempotency_key="k")
    assert ids(manager) == [new]
    assert [event["seq"] for event in manager.history(JOB)] == [1, 2]


def test_a_process_that_waits_for_the_lock_of_a_removed_job_begins_anew(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "old", {})
    head = PosixDisk().open(head_of(root, JOB), "read")

    def save(tell: Callable[[Any], None]) -> None:
        with CheckpointManager(root) as other:
            tell(other.save(JOB, "new", {}))

    with FileStorage(root).job(JOB).hold() as held:
        waiters = [Child(save) for _ in range(2)]
        eventually(lambda: head.queued(0) is not None)
        bury(held)
    made = [waiter.hear() for waiter in waiters]
    for waiter in waiters:
        assert waiter.wait() == 0
    assert sorted(ids(manager)) == sorted(made)
    assert [event["seq"] for event in manager.history(JOB)] == [1, 2, 3]  # I3


def test_salvage_files_go_with_their_job(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save("other", "one", {})
    manager.save(JOB, "one", {})
    put(journal_of(root, JOB), journal_of(root, JOB).read_bytes() + b"torn")
    assert len(ids(manager)) == 1
    assert [*(root / "salvage").iterdir()]
    remove_elsewhere(root)
    assert names(root) == []  # I9
    assert [info.job_id for info in manager.jobs()] == ["other"]


def lose(root: Path) -> None:
    journal_of(root, JOB).unlink()
    head_of(root, JOB).unlink()


def test_a_loss_that_is_not_recorded_is_damage_at_every_look(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "one", {})
    lose(root)
    for _ in range(2):
        with pytest.raises(DamagedJournal):
            manager.list(JOB)


def test_an_earlier_removal_does_not_explain_a_later_loss(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "one", {})
    remove_elsewhere(root)
    manager.save(JOB, "two", {})
    lose(root)
    with pytest.raises(DamagedJournal):
        manager.list(JOB)


def test_a_removed_job_that_is_put_back_older_than_it_was_seen_is_damage(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "one", {})
    older = journal_of(root, JOB).read_bytes(), head_of(root, JOB).read_bytes()
    manager.save(JOB, "two", {})
    remove_elsewhere(root)
    journal_of(root, JOB).write_bytes(older[0])
    head_of(root, JOB).write_bytes(older[1])
    with pytest.raises(DamagedJournal):
        manager.list(JOB)


def test_a_removal_that_came_to_nothing_does_not_explain_the_loss_of_later_events(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "one", {})
    with FileStorage(root).job(JOB).hold() as held:
        last = held.position.last
    manager.save(JOB, "two", {})
    remove_elsewhere(root)
    # A tombstone of an earlier event, as a process leaves it that dies right then.
    tombstone = next((root / "records").glob("removed-*"))
    text = tombstone.read_bytes()
    tombstone.write_bytes(text.replace(b'"seq": 3', b'"seq": %d' % last.seq))
    with pytest.raises(DamagedJournal):
        manager.list(JOB)


def test_doctor_counts_the_jobs_that_were_removed(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "one", {})
    remove_elsewhere(root)
    assert manager.diagnose() == []
    (found,) = [f for f in store_check.inspect(root) if f.code == "removed_jobs"]
    assert (found.ok, found.message) == (True, "1 job was removed, as records say")


def test_a_job_that_is_removed_at_any_call_of_a_read_is_there_or_unknown(
    tmp_path: Path,
) -> None:
    for nth in range(1, 60):
        root = tmp_path / str(nth)
        with CheckpointManager(root) as writer:
            made = writer.save(JOB, "one", {})
        disk = FaultyDisk(root, syncs=False)
        reader = CheckpointManager(storage=FileStorage(root, disk=disk))
        fault = disk.set(Fault("", nth, action=partial(remove, root)))
        assert ids(reader) in ([], [made]), nth
        if not fault.has_fired:
            break
        assert ids(reader) == []
    assert nth > 5


def test_a_removal_is_durable_step_by_step(root: Path) -> None:
    with CheckpointManager(root) as writer:
        writer.save(JOB, "one", {})
        put(journal_of(root, JOB), journal_of(root, JOB).read_bytes() + b"torn")
        ids(writer)
    disk = FaultyDisk(root)
    with FileStorage(root, disk=disk).job(JOB).hold() as held:
        disk.calls.clear()
        bury(held)
    wanted = ("sync", "rename", "pwrite", "unlink", "sync_folder", "unlock")
    steps = [(c.operation, c.path.split(".")[0]) for c in disk.calls]
    found = [
        (operation, path.strip("/").partition("-")[0])
        for operation, path in steps
        if operation in wanted and "store" not in path
    ]
    assert found[-12] == ("sync_folder", "records")
    assert found[-11:] == [
        *[("pwrite", "heads/etl"), ("sync", "heads/etl")] * 2,
        ("unlink", "salvage/etl"),
        ("sync_folder", "salvage"),
        ("unlink", "journals/etl"),
        ("sync_folder", "journals"),
        ("unlink", "heads/etl"),
        ("sync_folder", "heads"),
        ("unlock", "heads/etl"),
    ]
