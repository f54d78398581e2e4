"""Stores with many jobs: finding a checkpoint, pages of jobs, the cache of `jobs`."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.crypto.keys import Key, KeyRing
from milepost.journal.disk.disk import PosixDisk
from milepost.journal.errors import UnknownCheckpoint
from milepost.journal.reading import summaries
from milepost.journal.storage.contract import during
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.removals import Removal
from tests.support.faults import Fault, in_child, journal_of, overwrite, put
from tests.support.old_disk import OldDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.models import JobInfo
    from milepost.journal.storage.contract import HeldJob

FEW, MANY = 12, 120


@pytest.fixture(autouse=True)
def _always_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the cache of `jobs` after any fold, as if journals were long."""
    monkeypatch.setattr(summaries, "_LEAST_EVENTS", 1)


def name(number: int) -> str:
    return f"job-{number:04}"


def fill(root: Path, count: int) -> list[str]:
    """Save a checkpoint in each of `count` jobs; return their ids."""
    with CheckpointManager(root, durability="never") as manager:
        return [manager.save(name(n), "step", {"n": n}) for n in range(count)]


class Other:
    """A process that changes a store: another one than the one under test."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def do(self, change: Callable[[CheckpointManager], Any]) -> Any:
        def work() -> Any:
            with CheckpointManager(self._root, durability="never") as manager:
                return change(manager)

        return in_child(work)

    def save(self, job_id: str) -> str:
        saved: str = self.do(lambda manager: manager.save(job_id, "step", {}))
        return saved

    def remove(self, job_id: str) -> None:
        in_child(partial(remove, self._root, job_id))


def remove(root: Path, job_id: str) -> None:
    def bury(held: HeldJob) -> None:
        held.remove(Removal(held.position.last, "2026-11-27T05:00:00Z", "me"))

    during(FileStorage(root).job(job_id).hold(), bury)


@pytest.fixture
def other(root: Path) -> Other:
    return Other(root)


def opened(
    root: Path, disk: OldDisk | None = None, **options: Any
) -> CheckpointManager:
    storage = FileStorage(root, disk=disk or OldDisk(root))
    return CheckpointManager(storage=storage, **options)


def counted(disk: OldDisk, call: Callable[[], object]) -> Counter[str]:
    """Return how often `call` makes each operation of the disk."""
    disk.calls.clear()
    call()
    return Counter(operation for operation, _ in disk.calls)


# -- how cost grows ------------------------------------------------------------------

Scene = tuple[CheckpointManager, list[str]]
WARM: dict[str, Callable[[Scene], object]] = {
    "find": lambda scene: scene[0].find(scene[1][7]),
    "find the last": lambda scene: scene[0].find(scene[1][-1]),
    "first page": lambda scene: scene[0].jobs(limit=5),
    "page in the middle": lambda scene: scene[0].jobs(limit=5, after=name(5)),
    "page with a pattern": lambda scene: scene[0].jobs(limit=5, match="job-*"),
    "ids": lambda scene: scene[0].job_ids(),
}


@pytest.mark.parametrize("call", WARM)
def test_what_a_call_does_on_the_disk_does_not_depend_on_the_number_of_jobs(
    tmp_path: Path, call: str
) -> None:
    costs = []
    for count in (FEW, MANY):
        root = tmp_path / str(count)
        ids = fill(root, count)
        disk = OldDisk(root)
        with opened(root, disk) as manager:
            manager.refresh()
            run = partial(WARM[call], (manager, ids))
            run()
            costs.append(counted(disk, run))
    assert costs[0] == costs[1]
    assert costs[0].total() <= 12


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_process_that_starts_lists_jobs_without_reading_a_journal(
    root: Path, count: int
) -> None:
    fill(root, count)
    with opened(root) as manager:
        expected = manager.jobs()
    disk = OldDisk(root)
    with opened(root, disk) as manager:
        cost = counted(disk, manager.jobs)
        assert manager.jobs() == expected
    cost -= Counter({"stat": 2 * count})  # the two files of each job
    assert cost.total() <= 12
    assert cost["open:read"] == 2  # the cache, and the file of the store


def test_a_process_that_knows_most_jobs_looks_only_at_each_of_them(root: Path) -> None:
    fill(root, FEW)
    disk = OldDisk(root)
    with opened(root, disk) as manager:
        manager.refresh()
        fill(root, FEW + 1)
        assert len(manager.jobs()) == FEW + 1
        cost = counted(disk, manager.jobs)
    assert cost["open:read"] == 0
    assert cost["stat"] <= FEW + 4


def test_a_page_of_a_store_that_was_just_opened_reads_only_its_jobs(root: Path) -> None:
    fill(root, MANY)
    disk = OldDisk(root)
    with opened(root, disk) as manager:
        cost = counted(disk, lambda: manager.jobs(limit=3))
    assert cost["open:append"] == 3


def test_a_checkpoint_that_nobody_has_costs_no_read(root: Path) -> None:
    fill(root, MANY)
    disk = OldDisk(root)
    with opened(root, disk) as manager:
        for _ in range(2):
            with pytest.raises(UnknownCheckpoint):
                manager.find("gone")

        def miss() -> None:
            with pytest.raises(UnknownCheckpoint):
                manager.find("gone")

        cost = counted(disk, miss)
    assert {path for _, path in disk.of("read")} <= {"store.json"}
    assert cost["stat"] <= 2 * MANY + 4


# -- finding beside other processes --------------------------------------------------


@pytest.fixture
def reader(root: Path) -> Iterator[CheckpointManager]:
    fill(root, FEW)
    with opened(root) as manager:
        manager.refresh()
        yield manager


def found_in(manager: CheckpointManager, checkpoint_id: str) -> str | None:
    try:
        return manager.find(checkpoint_id).job_id
    except UnknownCheckpoint as exc:
        return "deleted" if exc.deleted_at else None


def test_what_another_process_saves_is_found(
    reader: CheckpointManager, other: Other
) -> None:
    assert found_in(reader, "nobody's") is None
    for job_id in (name(3), "new", name(3)):
        assert found_in(reader, other.save(job_id)) == job_id


def test_what_another_process_deletes_is_not_found(
    reader: CheckpointManager, other: Other
) -> None:
    checkpoint_id = other.save(name(3))
    assert found_in(reader, checkpoint_id) == name(3)
    other.do(lambda manager: manager.delete(name(3), checkpoint_id))
    assert found_in(reader, checkpoint_id) == "deleted"
    other.do(lambda manager: manager.undelete(name(3), checkpoint_id))
    assert found_in(reader, checkpoint_id) == name(3)


def test_of_a_job_that_another_process_removed_nothing_is_found(
    reader: CheckpointManager, other: Other
) -> None:
    checkpoint_id = other.save(name(3))
    assert found_in(reader, checkpoint_id) == name(3)
    other.remove(name(3))
    with pytest.raises(UnknownCheckpoint) as raised:
        reader.find(checkpoint_id)
    assert raised.value.job_id is None
    again = other.save(name(3))
    assert found_in(reader, checkpoint_id) is None
    assert found_in(reader, again) == name(3)


def test_a_checkpoint_that_was_deleted_from_one_job_is_found_in_another(
    root: Path,
) -> None:
    ids = fill(root, 2)
    source = journal_of(root, name(0)).read_bytes()
    assert source
    with opened(root) as manager:
        manager.delete(name(0), ids[0])
        assert found_in(manager, ids[0]) == "deleted"
        assert found_in(manager, ids[1]) == name(1)


def test_a_damaged_job_hides_nothing_and_is_looked_at_again(
    root: Path, other: Other
) -> None:
    ids = fill(root, FEW)
    path = journal_of(root, name(3))
    whole = path.read_bytes()
    overwrite(path, 100, b"\0")
    with opened(root) as manager:
        assert found_in(manager, ids[4]) == name(4)  # I10
        assert found_in(manager, ids[3]) is None
        assert found_in(manager, other.save(name(5))) == name(5)
        overwrite(path, 0, whole)
        assert found_in(manager, ids[3]) == name(3)
        put(path, whole[:-9])  # the view that has it is in memory now
        assert found_in(manager, ids[3]) is None


def test_a_job_that_could_not_be_read_once_is_looked_at_again(root: Path) -> None:
    ids = fill(root, FEW)
    disk = OldDisk(root)
    with opened(root, disk) as manager:
        disk.fail("open:append", on=name(3), error=errno.EMFILE)
        assert found_in(manager, "nobody's") is None
        assert found_in(manager, ids[3]) == name(3)


def test_a_forked_child_finds_what_its_parent_knew(root: Path) -> None:
    ids = fill(root, FEW)
    with opened(root) as manager:
        manager.refresh()
        assert in_child(lambda: [found_in(manager, each) for each in ids]) == [
            name(n) for n in range(FEW)
        ]


def test_a_closed_manager_finds_what_it_knew(root: Path) -> None:
    ids = fill(root, FEW)
    manager = opened(root)
    manager.refresh()
    manager.close()
    assert found_in(manager, ids[3]) == name(3)
    manager.close()


# -- the names of jobs ---------------------------------------------------------------


def test_names_that_come_and_go_are_listed_in_order(
    reader: CheckpointManager, other: Other
) -> None:
    before = [name(n) for n in range(FEW)]
    assert reader.job_ids() == before
    other.save("a" * 300)
    other.save("b")
    assert reader.job_ids() == ["a" * 300, "b", *before]
    other.remove("a" * 300)
    assert reader.job_ids() == ["b", *before]
    assert [info.job_id for info in reader.jobs(limit=2, after="b")] == before[:2]


def test_the_time_of_a_folder_behind_a_symbolic_link_is_its_own(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    (folder / "new").touch()
    assert PosixDisk().stat_folder(link) == PosixDisk().stat_folder(folder)
    assert PosixDisk().stat_folder(tmp_path / "gone") is None


def test_a_job_whose_id_becomes_readable_is_listed_by_it(root: Path) -> None:
    job_id = "é" * 200
    with CheckpointManager(root) as manager:
        manager.save(job_id, "step", {})
    path = journal_of(root, job_id)
    whole = path.read_bytes()
    overwrite(path, 0, b"\0" * 10)
    with opened(root) as manager:
        assert manager.job_ids() == [path.stem]
        overwrite(path, 0, whole)
        assert manager.job_ids() == [job_id]


# -- the cache of `jobs` -------------------------------------------------------------

CACHE = "jobs.cache"


def listed(root: Path, disk: OldDisk | None = None) -> list[JobInfo]:
    """Return the jobs as a process that has just started lists them."""
    with opened(root, disk) as manager:
        return manager.jobs()


def listed_without(root: Path) -> list[JobInfo]:
    """Return them as a process lists them that has no cache."""
    disk = OldDisk(root)
    disk.fail("open:read", on=CACHE)
    disk.fail("create", on="jobs.tmp")
    return listed(root, disk)


def damage(root: Path, _: CheckpointManager, job_id: str) -> None:
    path = journal_of(root, job_id)
    if path.exists():
        overwrite(path, path.stat().st_size // 2, b"\0")


def tear(root: Path, _: CheckpointManager, job_id: str) -> None:
    path = journal_of(root, job_id)
    if path.exists():
        put(path, path.read_bytes() + b'{"torn')


def replaced(root: Path, manager: CheckpointManager, job_id: str) -> None:
    if manager.latest(job_id):
        remove(root, job_id)
        manager.save(job_id, "again", {})


CHANGES: dict[str, Callable[[Path, CheckpointManager, str], object]] = {
    "save": lambda _, m, job: m.save(job, "step", {}),
    "new": lambda _, m, job: m.save(f"{job}-{len(m.job_ids())}", "step", {}),
    "delete": lambda _, m, job: (c := m.latest(job)) and m.delete(job, c),
    "complete": lambda _, m, job: m.complete(job, reason="done"),
    "compact": lambda _, m, job: m.erase(job) and m.compact(job, rewrap=True),
    "remove": lambda root, m, job: m.latest(job) and remove(root, job),
    "replaced": replaced,
    "torn": tear,
    "damaged": damage,
}


@pytest.mark.parametrize("seed", range(12))
def test_the_cache_never_changes_an_answer(root: Path, seed: int) -> None:
    fill(root, 8)
    dice = random.Random(seed)
    for _ in range(25):
        kind, job_id = dice.choice([*CHANGES]), name(dice.randrange(8))
        if kind == "damaged" and dice.random() < 0.5:
            continue
        with CheckpointManager(root, durability="never") as manager:
            try:
                CHANGES[kind](root, manager, job_id)
            except (ValueError, OSError):
                assert any(info.damage for info in listed_without(root))
        # With it first: what recovery does without it would be there already.
        assert listed(root) == listed_without(root), kind
    assert (root / CACHE).exists()


def test_a_job_with_a_torn_tail_is_recovered_by_a_listing_with_a_cache(
    root: Path,
) -> None:
    fill(root, FEW)
    listed(root)
    path = journal_of(root, name(3))
    put(path, path.read_bytes() + b'{"torn')
    assert [info.seq for info in listed(root)][3] == 3  # with its job.repaired


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "a digest alone": lambda raw: raw[:64],
    "without its digest": lambda raw: raw[65:],
    "cut": lambda raw: raw[:-1],
    "longer": lambda raw: raw + b" ",
    "a byte of a row": lambda raw: raw.replace(b'"job-0003",2', b'"job-0003",3'),
    "zeros": lambda raw: bytes(len(raw)),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_cache_counts_as_none(root: Path, spoil: str) -> None:
    fill(root, FEW)
    expected = listed(root)
    raw = (root / CACHE).read_bytes()
    spoiled = SPOILED[spoil](raw)
    assert spoiled != raw
    (root / CACHE).write_bytes(spoiled)
    assert listed(root) == expected
    assert (root / CACHE).read_bytes()[65:] != b""  # and was written again


def test_no_byte_of_the_cache_can_be_changed_unnoticed(root: Path) -> None:
    fill(root, 3)
    expected = listed(root)
    raw = (root / CACHE).read_bytes()
    for at in range(0, len(raw), 5):
        put(root / CACHE, raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert listed(root) == expected


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_something_else_in_place_of_the_cache_does_no_harm(
    root: Path, kind: str
) -> None:
    fill(root, FEW)
    match kind:
        case "folder":
            (root / CACHE / "in").mkdir(parents=True)
        case "fifo":
            os.mkfifo(root / CACHE)
        case "link":
            (root / CACHE).symlink_to(root / "nowhere")
    expected = listed_without(root)
    assert [listed(root), listed(root)] == [expected, expected]


def test_the_cache_of_another_store_counts_as_none(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for root, count in ((here, 3), (there, 4)):
        fill(root, count)
        listed(root)
    (here / CACHE).write_bytes((there / CACHE).read_bytes())
    assert listed(here) == listed_without(here)


def test_the_cache_of_another_version_counts_as_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, FEW)
    expected = listed(root)
    monkeypatch.setattr(summaries, "_RULES", "newer")
    disk = OldDisk(root)
    assert listed(root, disk) == expected
    assert len(disk.of("open:append")) >= FEW  # every journal


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["create", "append", "rename"])
def test_a_store_that_cannot_be_written_is_listed(
    root: Path, operation: str, error: int
) -> None:
    fill(root, FEW)
    disk = OldDisk(root)
    disk.fail(operation, on="jobs.", error=error)
    assert listed(root, disk) == listed_without(root)
    assert [path.name for path in root.glob("jobs.*")] == []


def test_a_draft_that_a_crash_left_is_replaced(root: Path) -> None:
    fill(root, FEW)
    (root / "jobs.tmp").write_bytes(b"half")
    listed(root)
    assert [path.name for path in root.glob("jobs.*")] == [CACHE]


def test_of_a_removed_job_nothing_stays_in_the_cache(root: Path) -> None:
    fill(root, FEW)
    listed(root)
    assert name(3).encode() in (root / CACHE).read_bytes()
    remove(root, name(3))
    assert not (root / CACHE).exists()  # I9


@pytest.mark.parametrize("moment", ["create", "append", "rename"])
def test_of_a_job_that_is_removed_during_a_listing_nothing_stays_in_the_cache(
    root: Path, moment: str
) -> None:
    fill(root, FEW)
    disk = OldDisk(root)
    disk.set(Fault(moment, on="jobs.", action=partial(remove, root, name(3))))
    listed(root, disk)
    assert name(3).encode() not in (root / CACHE).read_bytes()


def test_nothing_that_is_encrypted_stands_in_the_cache(root: Path) -> None:
    keys = KeyRing([Key("k1", b"\x01" * 32)])
    with opened(root, keys=keys) as manager:
        manager.save("job", "step", {"a": "secret one"}, metadata={"b": "secret two"})
    with opened(root) as manager:
        manager.jobs()
    assert b"job" in (root / CACHE).read_bytes()
    assert b"secret" not in (root / CACHE).read_bytes()


def test_the_cache_gives_nobody_more_access_than_a_journal(root: Path) -> None:
    root.mkdir(mode=0o755)
    fill(root, FEW)
    listed(root)
    journal = journal_of(root, name(3)).stat()
    cache = (root / CACHE).stat()
    assert (cache.st_mode, cache.st_gid) == (journal.st_mode, journal.st_gid)


def test_a_small_store_gets_no_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    fill(root, FEW)
    listed(root)
    assert not (root / CACHE).exists()
