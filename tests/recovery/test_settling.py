"""What settling a job costs, and what is found where another hand was at the files."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import DamagedJournal
from milepost.journal.storage.files.recovery.head import SLOT_BYTES
from milepost.journal.storage.files.storage import FileStorage
from tests.recovery.damages import DAMAGES, JOB, begin
from tests.support.faults import FaultyDisk, head_of, journal_of, put

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.disk.disk import Stat
    from milepost.journal.storage.files.folders import Durability

MIB = 1024 * 1024
BY_NAME = {each.name: each for each in DAMAGES}


def look(root: Path) -> FaultyDisk:
    """Save once more, as the next process does; return what that took."""
    disk = FaultyDisk(root, syncs=False)
    CheckpointManager(storage=FileStorage(root, disk=disk)).save(JOB, "next", {})
    return disk


def killed_writer(root: Path, events: int, durability: Durability) -> None:
    storage = FileStorage(
        root,
        durability=durability,
        interval_seconds=600,
        disk=FaultyDisk(root, syncs=False),
    )
    manager = CheckpointManager(storage=storage, codec="json")
    for number in range(events):
        manager.save(JOB, "tick", {"n": number, "text": "x" * 2000})


@pytest.mark.parametrize("durability", ["never", "interval"])
def test_settling_reads_each_byte_a_bounded_number_of_times(
    root: Path, durability: Durability
) -> None:
    killed_writer(root, 2000, durability)
    size = journal_of(root, JOB).stat().st_size
    disk = look(root)
    # Looked at, proved again from the medium, folded.
    assert disk.read_bytes <= 3 * size + 2 * MIB
    assert disk.longest_read <= MIB


def test_settling_a_long_tail_of_junk_reads_it_in_pieces(root: Path) -> None:
    begin(root)
    with journal_of(root, JOB).open("ab") as file:
        file.write(b"\0" * 20 * MIB)
    size = journal_of(root, JOB).stat().st_size
    disk = look(root)
    assert disk.longest_read <= 16 * MIB  # a large state may be rotten
    assert disk.read_bytes <= 13 * size
    (kept,) = (root / "salvage").iterdir()
    assert kept.stat().st_size == 20 * MIB


# -- files that another tool took, or put back -----------------------------------------


@pytest.mark.parametrize("name", ["rotated", "rotated and packed", "packed"])
def test_the_command_that_doctor_names_brings_a_journal_back(
    root: Path, name: str
) -> None:
    begin(root)
    BY_NAME[name].ruin(root)
    (found,) = CheckpointManager(root).diagnose(JOB)
    (note,) = (each for each in found.notes if ": " in each)
    _, _, command = note.rpartition(": ")
    subprocess.run(["sh", "-c", command], cwd=root, check=True)
    with CheckpointManager(root) as manager:
        assert len(manager.list(JOB)) == 6
        assert manager.diagnose(JOB)[0].ok


def test_a_compressed_journal_is_named_whatever_packed_it(root: Path) -> None:
    begin(root)
    journal = journal_of(root, JOB)
    packed = journal.with_name("etl.jsonl-20261127.gz")
    packed.write_bytes(gzip.compress(journal.read_bytes()))
    put(journal, b"\xfd7zXZ\0" + journal.read_bytes())
    notes = " ".join(CheckpointManager(root).diagnose(JOB)[0].notes)
    assert "is compressed by xz" in notes
    assert f"{packed.name} is compressed by gzip" in notes


def put_back(root: Path, backup: Path) -> None:
    put(journal_of(root, JOB), journal_of(backup, JOB).read_bytes())
    put(head_of(root, JOB), head_of(backup, JOB).read_bytes())


def test_a_job_that_went_back_is_named_by_all_and_goes_on_with_consent(
    root: Path,
) -> None:
    begin(root)
    backup = root.with_name("backup")
    shutil.copytree(root, backup)
    with CheckpointManager(root) as server:
        for step in ("late", "later"):
            server.save(JOB, step, {})
        put_back(root, backup)
        with pytest.raises(DamagedJournal, match="went back"):
            server.list(JOB)
        with CheckpointManager(root) as other:
            (found,) = other.diagnose(JOB)
            assert (found.verdict.value, found.row) == ("damaged", "R8")
            assert "went back" in found.message
            assert found.lost_events == 2
            with pytest.raises(DamagedJournal):
                other.save(JOB, "next", {})
            other.repair(JOB, accept_loss=True)
            other.save(JOB, "next", {})
        assert [info.step_name for info in server.list(JOB)][-2:] == ["s5", "next"]
        assert server.diagnose(JOB)[0].ok
        assert CheckpointManager(root).verify(JOB)[0].ok


def test_a_job_that_went_back_and_on_again_is_noticed(root: Path) -> None:
    begin(root)
    backup = root.with_name("backup")
    shutil.copytree(root, backup)
    with CheckpointManager(root) as server:
        server.save(JOB, "late", {})
        put_back(root, backup)
        with CheckpointManager(root) as other:
            for step in ("a", "b", "c"):
                other.save(JOB, step, {})
        with pytest.raises(DamagedJournal, match="went back"):
            server.list(JOB)
        assert not CheckpointManager(root).diagnose(JOB)[0].ok
        server.repair(JOB, accept_loss=True)
        assert [info.step_name for info in server.list(JOB)][-3:] == ["a", "b", "c"]


def test_a_head_with_carriage_returns_still_guards(root: Path) -> None:
    begin(root)
    head = head_of(root, JOB)
    put(head, head.read_bytes().replace(b"\n", b"\r\n"))
    assert head.stat().st_size == 2 * SLOT_BYTES + 2
    put(journal_of(root, JOB), journal_of(root, JOB).read_bytes()[:-600])
    with pytest.raises(DamagedJournal):
        CheckpointManager(root).list(JOB)


# -- what was cut, of all jobs ---------------------------------------------------------


def tear(root: Path, *jobs: str) -> None:
    """Leave a torn tail, as a writer does that is killed inside a write."""
    for job in jobs:
        with journal_of(root, job).open("ab") as file:
            file.write(b"torn")


def kept_long_ago(root: Path) -> FaultyDisk:
    """Return a disk that shows every file as changed a minute earlier."""
    disk = FaultyDisk(root, syncs=False)
    real = disk.stat

    def stat(path: Path) -> Stat | None:
        found = real(path)
        if found is None or found.changed_ns is None:
            return found
        return found._replace(changed_ns=found.changed_ns - 60 * 10**9)

    disk.stat = stat  # type: ignore[method-assign]
    return disk


def is_told(manager: CheckpointManager, job: str) -> bool:
    return any(event["type"] == "job.repaired" for event in manager.history(job))


@pytest.mark.parametrize("is_asked", [False, True])
def test_the_names_of_salvage_files_are_listed_once_for_all_jobs(
    root: Path, is_asked: bool
) -> None:
    jobs = [f"job-{n}" for n in range(20)]
    with CheckpointManager(root) as manager:
        for job in jobs:
            manager.save(job, "begin", {})
    tear(root, *jobs)
    with CheckpointManager(root) as manager:
        for job in jobs:
            manager.save(job, "next", {})
            assert is_told(manager, job)
    disk = kept_long_ago(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        for job in jobs:
            if is_asked:
                assert manager.diagnose(job)[0].ok
            else:
                manager.save(job, "again", {})
    assert [call.path for call in disk.of("names")].count("salvage") == 1


def cut_and_die(root: Path, job: str) -> None:
    """Cut a torn tail as another process does that dies before it tells."""
    tear(root, job)
    disk = FaultyDisk(root, syncs=False)
    disk.fail("append", on=f"journals/{job}.jsonl")
    other = CheckpointManager(storage=FileStorage(root, disk=disk))
    assert not is_told(other, job)


@pytest.mark.parametrize("is_old", [True, False])
def test_a_salvage_file_that_another_process_leaves_later_is_told(
    root: Path, is_old: bool
) -> None:
    with CheckpointManager(root) as manager:
        for job in ("a", "b"):
            manager.save(job, "begin", {})
    tear(root, "a")
    CheckpointManager(root).save("a", "next", {})  # makes `salvage`
    disk = kept_long_ago(root) if is_old else FaultyDisk(root, syncs=False)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        manager.save("a", "look", {})
        cut_and_die(root, "b")
        manager.save("b", "next", {})
        assert is_told(manager, "b")


def test_a_folder_that_has_just_changed_is_listed_again(root: Path) -> None:
    """Another change in the same step of the clock would show in no time of it."""
    with CheckpointManager(root) as manager:
        for job in ("a", "b"):
            manager.save(job, "begin", {})
    tear(root, "a")
    CheckpointManager(root).save("a", "next", {})
    disk = FaultyDisk(root, syncs=False)
    before = disk.stat(root / "salvage")
    real = disk.stat
    # The file system's clock stands still.
    disk.stat = lambda path: before if str(path).endswith("salvage") else real(path)  # type: ignore[method-assign]
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        manager.save("a", "look", {})
        cut_and_die(root, "b")
        manager.save("b", "next", {})
        assert is_told(manager, "b")
