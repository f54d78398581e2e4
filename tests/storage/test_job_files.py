"""What only the files of a job can show: other handles, heads, evidence."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import pytest

from milepost import CheckpointManager
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import LockTimeout, NestedCall
from milepost.journal.events.codec import Mark
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.storage import FileStorage
from tests.support.appending import JOB, append, lines, run
from tests.support.faults import FaultyDisk, head_of, in_child, last_hash


def test_another_handle_sees_every_append_at_once(root: Path) -> None:
    here, there = FileStorage(root), FileStorage(root)
    for seq in range(1, 4):
        append(here)
        assert there.job(JOB).position().last.seq == seq
        assert there.job(JOB).version() == here.job(JOB).version()
    append(there)
    with here.job(JOB).hold() as held:
        assert held.position.last.seq == 4
    assert there.store_id == here.store_id


def test_another_handle_that_waits_too_long_says_so(root: Path) -> None:
    here, there = FileStorage(root), FileStorage(root, lock_timeout_seconds=0.01)
    append(here)
    with here.job(JOB).hold():
        with pytest.raises(Busy), there.job(JOB).hold(wait=False):
            pass
        said: list[str] = []

        def wait() -> None:
            try:
                append(there)
            except LockTimeout as exc:
                said.append(str(exc))

        run(wait).join(10)
        assert "another writer" in said[0]
    append(there)


def test_a_thread_is_not_kept_waiting_for_itself_by_another_handle(root: Path) -> None:
    here, there = FileStorage(root), FileStorage(root)
    append(here)
    with here.job(JOB).hold():
        with pytest.raises(NestedCall), there.job(JOB).hold():
            pass
        with pytest.raises(Busy), there.job(JOB).hold(wait=False):
            pass
    append(there)


def test_a_lock_on_a_head_that_was_replaced_excludes_nobody_and_is_not_taken(
    root: Path,
) -> None:
    here, there = FileStorage(root), FileStorage(root)
    append(here)
    head = head_of(root, JOB)
    copy = head.read_bytes()
    head.unlink()
    head.write_bytes(copy)  # `here` still holds the old file open
    with here.job(JOB).hold() as held:
        assert held.position.last.seq == 1
        with pytest.raises(Busy), there.job(JOB).hold(wait=False):
            pass


def test_a_job_that_left_the_cache_while_its_writer_waited_is_written_all_the_same(
    root: Path,
) -> None:
    storage = FileStorage(root)
    append(storage)
    waiting = storage.job(JOB).hold()
    for number in range(250):  # more than are kept open
        storage.job(f"other-{number}").version()
    with waiting as held:
        made = lines(storage, JOB, held.position.last)
        assert held.append(*made) == held.version
    assert storage.job(JOB).position().last.seq == 2


def test_evidence_is_what_is_there_and_asking_for_it_changes_nothing(
    root: Path,
) -> None:
    storage = FileStorage(root)
    data = b"".join(append(storage, count=2))
    version = storage.job(JOB).version()
    with storage.evidence(JOB) as evidence:
        assert evidence.size == len(data)
        assert evidence.read(0, len(data)) == data
        head = head_codec.decode(evidence.head or b"")
    assert head is not None
    assert head.shown == storage.job(JOB).extent()
    assert storage.job(JOB).version() == version
    with storage.evidence("unknown") as nothing:
        assert (nothing.head, nothing.size or 0) == (None, 0)


def test_what_takes_an_unsettled_journals_place_is_acknowledged(root: Path) -> None:
    storage = FileStorage(root)
    job = storage.job(JOB)
    first, *rest = append(storage, count=3)
    kept = b"".join(rest)
    with job.unsettled() as held, job.copying() as copy:
        assert held.keep_aside(kept, len(first), 2).endswith(".damaged")
        copy.write(first)
        held.replace_by(copy, Mark(1, last_hash(first)))
    assert job.extent() == (1, last_hash(first), len(first))
    assert job.repairs() == []  # an event tells of it, or nothing was cut
    append(storage)


def test_a_dropped_handle_closes_its_files_without_a_garbage_collection(
    root: Path,
) -> None:
    def opened() -> int:
        files = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
        return sum(file.is_relative_to(root) for file in files)

    storage = FileStorage(root)
    append(storage)
    job = storage.job(JOB)
    storage.close()
    assert storage.job(JOB) is not job  # this one is listed now, and not opened
    gc.disable()
    try:
        job.position()
        assert opened() == 2
        del job
        assert opened() == 0
    finally:
        gc.enable()


def test_a_job_whose_files_were_closed_is_not_read_again_from_its_start(
    root: Path,
) -> None:
    def read() -> list[str]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        disk = FaultyDisk(root, syncs=False)
        manager = CheckpointManager(storage=FileStorage(root, disk=disk))
        first, *_ = [manager.save(JOB, "step", {"n": n}) for n in range(3)]
        for number in range(60):  # more than are kept open
            manager.save(f"other-{number}", "step", {})
        before = len(disk.of("read"))
        manager.get(JOB, first)
        return [call.path for call in disk.of("read")[before:]]

    assert in_child(read) == [f"journals/{JOB}.jsonl"]
