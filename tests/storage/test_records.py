"""The files of records, leases and changes: what only a folder can show."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.disk.disk import Stat
from milepost.journal.errors import (
    Conflict,
    LockTimeout,
    NewerFormat,
    NoSpace,
    StorageFailed,
)
from milepost.journal.storage.files.listing import fingerprint
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.records import change
from tests.support.faults import (
    Fault,
    FaultyDisk,
    children,
    head_of,
    in_child,
    journal_of,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB = "etl"
NAME = "plans"


@pytest.fixture
def storage(root: Path) -> FileStorage:
    made = FileStorage(root)
    made.create()
    return made


# -- records ---------------------------------------------------------------------------


def test_a_record_is_durable_before_its_name_and_its_name_before_the_answer(
    root: Path, storage: FileStorage
) -> None:
    assert storage.store_id
    disk = FaultyDisk(root)
    record = FileStorage(root, disk=disk).record(NAME)
    record.compare_and_set(None, b"value")
    steps = disk.of("append", "sync", "rename", "sync_folder")
    assert [step.operation for step in steps] == [
        *("sync_folder", "append", "sync", "rename", "sync_folder"),
    ]
    assert [step.path for step in steps][-4:] == [
        *("records/plans.tmp", "records/plans.tmp"),
        *("records/plans", str(root / "records").removeprefix(f"{root}/")),
    ]


@pytest.mark.parametrize("operation", ["create", "append", "sync", "rename"])
def test_a_write_that_fails_leaves_the_record_as_it_was(
    root: Path, storage: FileStorage, operation: str
) -> None:
    version = storage.record(NAME).compare_and_set(None, b"kept")
    disk = FaultyDisk(root)
    record = FileStorage(root, disk=disk).record(NAME)
    disk.fail(operation, on="plans", error=28)
    with pytest.raises(NoSpace, match="records/plans"):
        record.compare_and_set(version, b"lost")
    assert record.get() == storage.record(NAME).get() == (b"kept", version)
    assert record.compare_and_set(version, b"next")


@pytest.mark.parametrize("operation", ["create", "append", "sync", "rename"])
def test_a_writer_that_dies_leaves_the_old_value_and_no_obstacle(
    root: Path, storage: FileStorage, operation: str
) -> None:
    record = storage.record(NAME)
    version = record.compare_and_set(None, b"kept")
    disk = FaultyDisk(root)

    def die(tell: Callable[[Any], None]) -> None:
        tell("begun")
        disk.set(Fault(operation, on="plans", action=lambda: os._exit(0)))
        FileStorage(root, disk=disk).record(NAME).compare_and_set(version, b"lost")

    with children(die) as (child,):
        assert child.hear_all() == ["begun"]
    assert record.get() == (b"kept", version)
    record.compare_and_set(version, b"next")
    assert [path.name for path in (root / "records").iterdir()] == [NAME]


def test_processes_that_change_one_record_lose_no_update(
    root: Path, storage: FileStorage
) -> None:
    def count(tell: Callable[[Any], None]) -> None:
        record = FileStorage(root).record("ledger")
        for _ in range(20):
            change(record, lambda value: b"%d" % (int(value or b"0") + 1))
        tell("done")

    with children(count, count, count) as running:
        assert [child.hear() for child in running] == ["done"] * 3
    found = storage.record("ledger").get()
    assert found is not None
    assert found.value == b"60"


def test_a_file_written_by_hand_is_a_value_and_each_edit_a_version(
    root: Path, storage: FileStorage
) -> None:
    record, path = storage.record(NAME), root / "records" / NAME
    path.parent.mkdir()
    path.write_bytes(b"by hand\n")
    first = record.get()
    assert first is not None
    assert first.value == b"by hand\n"
    put(path, b"by hanD\n")  # the same file, and as long
    with pytest.raises(Conflict):
        record.compare_and_set(first.version, b"lost")
    second = record.get()
    assert second is not None
    assert second.value == b"by hanD\n"
    record.compare_and_set(second.version, b"next")


def test_a_record_that_does_not_change_is_read_once(
    root: Path, storage: FileStorage
) -> None:
    storage.record(NAME).compare_and_set(None, b"value")
    disk = FaultyDisk(root)
    record = FileStorage(root, disk=disk).record(NAME)
    for _ in range(3):
        assert record.get()
    operations = [call.operation for call in disk.calls if "records" in call.path]
    assert operations == ["stat", "open:read", "fstat", "read", "stat", "stat"]


def test_a_store_that_is_not_there_takes_no_record_and_no_lease(root: Path) -> None:
    storage = FileStorage(root)
    assert storage.record(NAME).get() is None
    assert storage.lease("worker").holder() is None
    with pytest.raises(StorageFailed, match="records/plans: No such file"):
        storage.record(NAME).compare_and_set(None, b"")
    with pytest.raises(StorageFailed, match=r"records/worker\.lock: No such file"):
        storage.lease("worker").acquire("work")
    assert not root.exists()


def test_a_writer_that_hangs_is_waited_for_and_then_named(
    root: Path, storage: FileStorage
) -> None:
    impatient = FileStorage(root, lock_timeout_seconds=0.01).record(NAME)
    disk = FaultyDisk(root)
    said: list[str] = []

    def meanwhile() -> None:
        with pytest.raises(LockTimeout) as caught:
            impatient.compare_and_set(None, b"second")
        said.append(str(caught.value))

    disk.set(Fault("rename", on=NAME, action=meanwhile))
    FileStorage(root, disk=disk).record(NAME).compare_and_set(None, b"first")
    assert "store.json stayed locked" in said[0]
    assert storage.record(NAME).get()


def test_a_file_too_large_for_a_record_is_refused(
    root: Path, storage: FileStorage
) -> None:
    (root / "records").mkdir()
    (root / "records" / NAME).write_bytes(bytes(2 * 1024 * 1024))
    with pytest.raises(StorageFailed, match="records/plans is too large"):
        storage.record(NAME).get()


# -- leases ----------------------------------------------------------------------------


def test_a_holder_that_is_killed_is_followed_at_once_with_a_higher_fence(
    root: Path, storage: FileStorage
) -> None:
    def hold(tell: Callable[[Any], None]) -> None:
        lease = FileStorage(root).lease("worker")
        tell([lease.acquire("work"), lease.fence, os.getpid()])
        os._exit(0)

    lease = storage.lease("worker")
    with children(hold) as (child,):
        held, fence, pid = child.hear()
        assert child.hear() is None, "its end"
    assert (held, fence) == (True, 1)
    assert lease.holder() is None
    assert lease.acquire("work")
    found = lease.holder()
    assert found is not None
    assert (lease.fence, found.fence, found.pid != pid) == (2, 2, True)


def test_a_forked_child_neither_holds_nor_keeps_the_lease_of_its_parent(
    root: Path, storage: FileStorage
) -> None:
    lease = storage.lease("worker")
    assert lease.acquire("work")

    def outlive(tell: Callable[[Any], None]) -> None:
        tell([lease.is_held(), lease.fence])
        assert in_child(lambda: 0) == 0
        tell(FileStorage(root).lease("worker").acquire("work"))
        while FileStorage(root).lease("worker").holder() is not None:
            time.sleep(0)
        tell("free")

    with children(outlive) as (child,):
        assert child.hear() == [False, None]
        assert child.hear() is False, "the parent still holds it"
        assert lease.is_held()
        lease.release()
        assert child.hear() == "free"


@pytest.mark.parametrize("what", ["lock", "folder", "store"])
def test_a_lease_whose_file_was_removed_is_lost_and_can_be_taken_again(
    root: Path, storage: FileStorage, what: str
) -> None:
    lease = storage.lease("worker")
    assert lease.acquire("work")
    removed = {"lock": root / "records/worker.lock", "folder": root / "records"}
    path = removed.get(what, root)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert (lease.is_held(), lease.renew(), lease.fence) == (False, False, None)
    storage.create()
    other = storage.lease("worker")
    assert other.acquire("work")
    assert not lease.acquire("work")
    assert other.fence == (2 if what == "lock" else 1)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", StorageFailed),
        (b"\0" * 9, StorageFailed),
        (b"[]", StorageFailed),
        (b'{"format":1}', StorageFailed),
        (b'{"format":1,"fence":"x"}', StorageFailed),
        (b'{"format":2,"token":7}', NewerFormat),
    ],
)
def test_facts_of_a_holder_that_make_no_sense_are_not_overwritten(
    root: Path, storage: FileStorage, raw: bytes, error: type[Exception]
) -> None:
    (root / "records").mkdir()
    facts = root / "records/worker.lease"
    facts.write_bytes(raw)
    lease = storage.lease("worker")
    with pytest.raises(error, match="'worker'") as caught:
        lease.acquire("work")  # its fence could be an earlier one again
    assert getattr(caught.value, "hint", None)
    assert facts.read_bytes() == raw
    assert not lease.is_held()
    assert lease.holder() is None, "the lock is free again"


# -- changes ---------------------------------------------------------------------------

NOW = 10**18
OLD = NOW - 10**10
JOURNAL, HEAD = Stat(7, 500, changed_ns=OLD), Stat(8, 1024, changed_ns=OLD)


@pytest.mark.parametrize(
    ("journal", "head"),
    [
        (JOURNAL._replace(size=501), HEAD),
        (JOURNAL._replace(inode=9), HEAD),
        (JOURNAL._replace(changed_ns=OLD + 1), HEAD),
        (JOURNAL, HEAD._replace(inode=9)),
        (JOURNAL, HEAD._replace(changed_ns=OLD + 1)),
        (None, HEAD),
        (JOURNAL, None),
        (None, None),
    ],
)
def test_a_change_of_either_file_is_another_fingerprint(
    journal: Stat | None, head: Stat | None
) -> None:
    before = fingerprint(JOURNAL, HEAD, NOW)
    assert before == fingerprint(JOURNAL, HEAD, NOW + 1) is not None
    assert fingerprint(journal, head, NOW) != before


@pytest.mark.parametrize("age_ns", [0, 10**6, 2 * 10**9, -1, -(10**15)])
def test_a_time_that_may_come_again_is_no_fingerprint(age_ns: int) -> None:
    recent = NOW - age_ns
    assert fingerprint(JOURNAL._replace(changed_ns=recent), HEAD, NOW) is None
    assert fingerprint(JOURNAL, HEAD._replace(changed_ns=recent), NOW) is None
    assert fingerprint(JOURNAL._replace(changed_ns=None), HEAD, NOW) is None


@pytest.mark.parametrize("operation", ["append", "sync", "pwrite"])
def test_a_write_that_is_in_progress_is_named_when_it_has_ended(
    root: Path, operation: str
) -> None:
    disk = FaultyDisk(root)
    storage, other = FileStorage(root, disk=disk), FileStorage(root)
    with CheckpointManager(storage=storage) as manager:
        manager.save(JOB, "step", {})
        cursors: list[str] = []
        disk.set(
            Fault(operation, action=lambda: cursors.append(other.changed(None).cursor))
        )
        manager.save(JOB, "step", {})
        assert other.changed(cursors[0]).job_ids == [JOB]


def test_a_rewritten_job_and_a_removed_one_are_named(
    root: Path, storage: FileStorage
) -> None:
    with CheckpointManager(storage=storage, trash_seconds=0) as manager:
        gone, *_ = [manager.save(job, "step", {}) for job in ("a", "b", "c")]
        before = {job: fingerprint_of(root, job) for job in ("a", "b", "c")}
        text = json.dumps({"store": storage.store_id, "jobs": before})
        manager.delete("a", gone, purge=True)
        journal_of(root, "b").unlink()
        head_of(root, "b").unlink()
        assert fingerprint_of(root, "a") != before["a"]
        assert fingerprint_of(root, "c") == before["c"]
        assert storage.changed(text).job_ids[:2] == ["a", "b"]


def fingerprint_of(root: Path, job: str) -> str | None:
    """Return the fingerprint that the files will have when they are old."""
    disk = FaultyDisk(root)
    journal, head = disk.stat(journal_of(root, job)), disk.stat(head_of(root, job))
    return fingerprint(journal, head, 2 * time.time_ns())
