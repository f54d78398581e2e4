"""Durable, then visible, then answered; and what a disk that says no leaves behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from milepost import CheckpointManager, journal
from milepost.journal.errors import (
    Conflict,
    MilepostError,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from milepost.journal.storage.files import job_lock
from milepost.journal.storage.files.recovery.head import Extent
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.group_commit import Waiter
from tests.support.faults import (
    Call,
    Child,
    Fault,
    FaultyDisk,
    Medium,
    die,
    head_of,
    in_child,
    journal_of,
    overwrite,
    read_head,
    write_head,
)
from tests.support.namespaces import namespace, needs_namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.storage.files.folders import Durability
    from tests.support.tally import Tally

JOB = "etl"
LINES = "journals/etl.jsonl"
HEAD = "heads/etl"


def on(disk: FaultyDisk, root: Path, **options: Any) -> CheckpointManager:
    return CheckpointManager(storage=FileStorage(root, disk=disk, **options))


def steps(manager: CheckpointManager) -> list[str]:
    return [info.step_name for info in manager.list(JOB)]


def after(disk: FaultyDisk, work: Callable[[], object]) -> list[Call]:
    """Return the calls that change or sync something while `work` runs."""
    disk.calls.clear()
    work()
    return disk.of(
        *("create", "append", "pwrite", "truncate", "sync", "sync_folder"),
        *("rename", "unlink", "lock", "unlock"),
    )


# -- the order -------------------------------------------------------------------------


def test_a_save_writes_syncs_moves_the_head_and_only_then_lets_go(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    assert after(disk, lambda: manager.save(JOB, "two", {})) == [  # I1
        Call("lock", HEAD),
        Call("append", LINES),
        Call("sync", LINES),
        Call("pwrite", HEAD),
        Call("unlock", HEAD),
    ]


def test_the_first_save_also_syncs_every_name_before_the_head_says_so(
    root: Path,
) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save("other", "one", {})
    assert after(disk, lambda: manager.save(JOB, "one", {})) == [
        Call("create", HEAD),
        Call("lock", HEAD),
        Call("pwrite", HEAD),  # its blocks exist from now on
        Call("sync", HEAD),
        Call("sync_folder", "heads"),
        Call("create", LINES),
        Call("append", LINES),
        Call("sync", LINES),
        Call("sync_folder", "journals"),
        Call("pwrite", HEAD),
        Call("pwrite", HEAD),  # the other slot
        Call("sync", HEAD),
        Call("unlock", HEAD),
    ]


def test_a_new_store_is_synced_up_to_the_folder_that_was_there(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    disk = FaultyDisk(root)
    on(disk, root).save(JOB, "one", {})
    synced = {call.path for call in disk.of("sync_folder")}
    # A folder's name lives in its parent: unsynced, a power cut takes the whole store.
    assert {str(tmp_path), str(tmp_path / "a"), str(root)} <= synced  # I1


def test_a_cleanup_of_many_is_one_write_and_one_sync(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    for _ in range(5):
        manager.save(JOB, "step", {})
    calls = after(disk, lambda: manager.cleanup(JOB, keep_last=1))
    journaled = [call for call in calls if not call.path.startswith("records")]
    assert [call.operation for call in journaled].count("append") == 1
    assert calls.count(Call("sync", LINES)) == 1


def test_nothing_shows_in_the_index_before_it_is_on_the_disk(root: Path) -> None:
    disk = FaultyDisk(root)
    manager, seen = on(disk, root), []
    manager.save(JOB, "one", {})

    def look() -> None:  # as a thread of the same process
        reader = threading.Thread(target=lambda: seen.append(steps(manager)))
        reader.start()
        reader.join(30)

    disk.set(Fault("sync", on=LINES, action=look))
    disk.set(Fault("pwrite", on=HEAD, action=look))
    manager.save(JOB, "two", {})
    assert seen == [["one"], ["one"]]  # I2
    assert steps(manager) == ["one", "two"]


@pytest.mark.parametrize("durability", ["interval", "never"])
def test_without_a_sync_before_each_answer_the_head_says_what_is_synced(
    root: Path, durability: Durability
) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root, durability=durability, interval_seconds=600)
    manager.save(JOB, "one", {})
    calls = after(disk, lambda: manager.save(JOB, "two", {}))
    assert Call("sync", LINES) not in calls
    head = read_head(root, JOB)
    assert (head.shown.seq, head.synced.seq, head.durability) == (3, 2, durability)
    manager.close()
    assert read_head(root, JOB).synced.seq == 3


# -- a failed sync ---------------------------------------------------------------------


def fail_a_sync(root: Path, *, loses: bool = False) -> tuple[FaultyDisk, Any]:
    """Return a disk and a manager on which a save has just met a failed sync."""
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    disk.set(Fault("sync", on=LINES, error=errno.EIO, loses=loses))
    with pytest.raises(StorageFailed, match="unknown"):
        manager.save(JOB, "two", {})
    return disk, manager


def test_a_failed_sync_is_never_tried_again(root: Path) -> None:
    disk, manager = fail_a_sync(root)
    inode = journal_of(root, JOB).stat().st_ino
    calls = after(disk, lambda: manager.save(JOB, "three", {}))
    rewritten = calls.index(Call("rename", LINES))
    assert Call("sync", LINES) not in calls[:rewritten]
    assert Call("append", LINES) not in calls[:rewritten]
    assert journal_of(root, JOB).stat().st_ino != inode


@pytest.mark.parametrize("loses", [False, True])
def test_after_a_failed_sync_only_what_the_medium_holds_counts(
    root: Path, *, loses: bool
) -> None:
    _, manager = fail_a_sync(root, loses=loses)
    assert steps(manager) == ["one"]
    manager.save(JOB, "three", {})
    with CheckpointManager(root) as again:
        assert steps(again) == ["one", "three"]  # never what only the cache had
        assert again.verify(JOB, deep=True)[0].ok
        reasons = [e["data"] for e in again.history(JOB, types={"job.repaired"})]
        assert {"reason": "sync_failed"} in reasons


def test_a_failed_sync_is_poison_for_every_process(root: Path) -> None:
    disk, _ = fail_a_sync(root)
    assert read_head(root, JOB).is_poisoned
    other = FaultyDisk(root)
    child = Child(lambda tell: tell(on(other, root).save(JOB, "three", {})))
    assert child.hear() is not None
    assert child.wait() == 0
    assert Call("append", LINES) not in disk.calls[-2:]
    assert not read_head(root, JOB).is_poisoned
    assert steps(CheckpointManager(root)) == ["one", "three"]


def test_what_one_process_synced_outlasts_the_failed_sync_of_another(
    root: Path,
) -> None:
    medium = Medium()
    disks = [FaultyDisk(root, medium=medium) for _ in range(2)]
    synced, unlucky = (on(disk, root) for disk in disks)
    synced.save(JOB, "one", {})
    disks[1].set(Fault("sync", on=LINES, error=errno.EIO, loses=True))
    with pytest.raises(StorageFailed):
        unlucky.save(JOB, "two", {})
    unlucky.save(JOB, "three", {})
    assert steps(synced) == steps(CheckpointManager(root)) == ["one", "three"]  # I1


def test_a_poison_mark_that_cannot_be_set_still_stops_this_process(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    disk.fail("sync", on=LINES)
    disk.fail("pwrite", on=HEAD)
    with pytest.raises(StorageFailed):
        manager.save(JOB, "two", {})
    calls = after(disk, lambda: manager.save(JOB, "three", {}))
    assert Call("rename", LINES) in calls
    assert steps(CheckpointManager(root)) == ["one", "three"]


@pytest.mark.parametrize("folder", ["journals", "root", "heads"])
def test_a_new_name_that_cannot_be_synced_is_not_acknowledged(
    root: Path, folder: str
) -> None:
    CheckpointManager(root).save("other", "one", {})
    disk = FaultyDisk(root)
    manager = on(disk, root)
    if folder != "root":  # whose names are synced once in a process
        manager.save("other", "two", {})
    disk.fail("sync_folder", on=str(root) if folder == "root" else folder)
    with pytest.raises(StorageFailed):
        manager.save(JOB, "one", {})
    assert steps(CheckpointManager(root)) == []
    manager.save(JOB, "two", {}, expected_seq=0)  # it is still a new job
    assert steps(CheckpointManager(root)) == ["two"]


def test_a_failed_background_sync_is_poison_too(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root, durability="interval", interval_seconds=600)
    manager.save(JOB, "one", {})
    manager.save(JOB, "two", {})
    disk.fail("sync", on=LINES)
    with pytest.raises(StorageFailed):
        manager._store.storage.flush()
    assert read_head(root, JOB).is_poisoned
    manager.save(JOB, "three", {})
    assert steps(CheckpointManager(root)) == ["one", "two", "three"]


def test_one_jobs_failed_sync_does_not_keep_others_from_theirs(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root, durability="interval", interval_seconds=600)
    for job_id in (JOB, "other", "third"):
        manager.save(job_id, "one", {})
        manager.save(job_id, "two", {})
    overwrite(journal_of(root, JOB), 0, b"rot")
    os.truncate(journal_of(root, JOB), 10)
    with pytest.raises(MilepostError):
        manager._store.storage.flush()
    for job_id in ("other", "third"):
        assert read_head(root, job_id).synced.seq == 3  # I10


# -- writes that fail ------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 40, 199])
def test_a_short_write_is_taken_back_and_nothing_was_written(
    root: Path, taken: int
) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    before = journal_of(root, JOB).read_bytes()
    disk.set(Fault("append", on=LINES, taken=taken))
    with pytest.raises(NoSpace, match="nothing was written"):
        manager.save(JOB, "two", {})
    assert journal_of(root, JOB).read_bytes() == before
    manager.save(JOB, "three", {})
    assert steps(CheckpointManager(root)) == ["one", "three"]


def test_a_rollback_is_synced_before_the_next_write(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    disk.set(Fault("append", on=LINES, taken=10))

    def save() -> None:
        with pytest.raises(NoSpace):
            manager.save(JOB, "two", {})

    operations = [c.operation for c in after(disk, save) if c.path == LINES]
    assert operations == ["append", "truncate", "sync"]


@pytest.mark.parametrize("operation", ["truncate", "sync"])
def test_a_rollback_that_fails_is_poison(root: Path, operation: str) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    disk.set(Fault("append", on=LINES, taken=10))
    disk.fail(operation, on=LINES)
    with pytest.raises(StorageFailed, match="unknown"):
        manager.save(JOB, "two", {})
    assert read_head(root, JOB).is_poisoned
    manager.save(JOB, "three", {})
    assert steps(CheckpointManager(root)) == ["one", "three"]


def test_a_first_write_that_found_no_space_leaves_a_job_that_can_be_created(
    root: Path,
) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save("other", "one", {})
    disk.set(Fault("append", on=LINES, taken=100))
    with pytest.raises(NoSpace):
        manager.save(JOB, "one", {})
    assert CheckpointManager(root).list(JOB) == []
    calls = after(disk, lambda: manager.save(JOB, "two", {}, expected_seq=0))
    synced = calls.index(Call("sync_folder", "journals"))  # I1
    assert synced < calls.index(Call("pwrite", HEAD))
    assert steps(CheckpointManager(root)) == ["two"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_head_that_cannot_be_moved_never_answers_nothing_was_written(
    root: Path, error: int
) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    disk.fail("pwrite", on=HEAD, error=error)
    with pytest.raises(StorageFailed) as caught:
        manager.save(JOB, "two", {})
    # The event is on the disk by then: who repeats the save would have it twice.
    assert not isinstance(caught.value, NoSpace)
    manager.save(JOB, "three", {})
    assert steps(CheckpointManager(root)) in (["one", "two", "three"], ["one", "three"])


def test_a_half_written_head_is_put_right_by_the_next_look(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = on(disk, root)
    manager.save(JOB, "one", {})
    disk.set(Fault("pwrite", on=HEAD, taken=100))
    try:
        manager.save(JOB, "two", {})
    except StorageFailed:
        expected = [["one"], ["one", "two"]]
    else:
        expected = [["one", "two"]]  # I1: it was acknowledged
    assert steps(CheckpointManager(root)) in expected


class Outcome(NamedTuple):
    """What a workload was told: acknowledged, promised not to be, and by surprise."""

    saved: list[str]
    refused: list[str]
    crashes: list[str]


def workload(manager: CheckpointManager, *names: str) -> Outcome:
    """Save, list and clean up a little while something goes wrong."""
    outcome = Outcome([], [], [])
    for name in names:
        try:
            manager.save(JOB, name, {"step": name})
            outcome.saved.append(name)
            manager.list(JOB)
            manager.delete(JOB, "no such checkpoint")
        except (NoSpace, ReadOnlyStore):  # they promise that nothing was written
            outcome.refused.extend({name} - {*outcome.saved})
        except StorageFailed:
            continue  # it may be there or not
        except Exception as exc:  # noqa: BLE001 - every other kind is a bug
            outcome.crashes.append(repr(exc))
    return outcome


def problems(root: Path, outcome: Outcome, manager: CheckpointManager) -> list[str]:
    """Return what is wrong after a workload in which a call failed."""
    found = outcome.crashes
    try:
        manager.save(JOB, "after", {})  # the fault is over, so the job goes on
    except MilepostError as exc:
        return [*found, f"does not go on: {exc!r}"]
    with CheckpointManager(root) as again:
        there, seqs = steps(again), [event["seq"] for event in again.history(JOB)]
        sound = again.verify(JOB, deep=True)[0].ok and steps(manager) == there
        if not {*outcome.saved} <= {*there}:  # I1
            found.append(f"acknowledged {outcome.saved}, there is {there}")
        if {*outcome.refused} & {*there}:
            found.append(f"said that {outcome.refused} is not there: {there}")
        if not sound or seqs != [*range(1, len(seqs) + 1)]:  # I2, I3
            found.append(f"seqs {seqs}, here {steps(manager)}, there {there}")
    return found


def nothing_yet(root: Path) -> list[str]:
    del root
    return []


def one_save(root: Path) -> list[str]:
    CheckpointManager(root, durability="never").save(JOB, "zero", {})
    return ["zero"]


def a_torn_tail(root: Path) -> list[str]:
    one_save(root)
    with journal_of(root, JOB).open("ab") as file:
        file.write(b"torn")
    return ["zero"]


def a_poisoned_job(root: Path) -> list[str]:
    one_save(root)
    head = read_head(root, JOB)
    write_head(root, JOB, head._replace(is_poisoned=True))
    return ["zero"]


def a_missing_head(root: Path) -> list[str]:
    one_save(root)
    head_of(root, JOB).unlink()
    return ["zero"]


STARTS = [nothing_yet, one_save, a_torn_tail, a_poisoned_job, a_missing_head]


ERRORS = {
    "append": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "sync": (errno.EIO, errno.ENOSPC),
    "pwrite": (errno.EIO, errno.ENOSPC),
    "sync_folder": (errno.EIO, errno.ENOSPC),
    "create": (errno.ENOSPC, errno.EMFILE, errno.EACCES),
    "open:append": (errno.EMFILE, errno.EACCES, errno.EIO),
    "open:update": (errno.EMFILE, errno.EROFS),
    "open:read": (errno.EMFILE, errno.EACCES),
    "make_folder": (errno.ENOSPC, errno.EROFS),
    "link": (errno.EIO, errno.EMLINK),
    "unlink": (errno.EIO,),
    "stat": (errno.EIO,),
    "names": (errno.EIO,),
    "read": (errno.EIO,),
    "lock": (errno.ENOLCK,),
}
FAILURES = [
    pytest.param(operation, error, marks=[pytest.mark.slow] if nth else [])
    for operation, errors in ERRORS.items()
    for nth, error in enumerate(errors)
]


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("operation", "error"), FAILURES)
def test_whichever_call_fails_nothing_acknowledged_is_lost_and_the_job_goes_on(
    tmp_path: Path,
    operation: str,
    error: int,
    start: Callable[[Path], list[str]],
    tally: Tally,
) -> None:
    found = {}
    for nth in range(1, 200):
        root = tmp_path / str(nth)
        before = start(root)
        disk = FaultyDisk(root, syncs=False)
        fault = disk.fail(operation, nth, error=error)
        manager = on(disk, root)
        outcome = workload(manager, "one", "two")
        if not fault.has_fired:
            break
        outcome.saved.extend(before)
        found[nth] = problems(root, outcome, manager)
    assert not {nth: wrong for nth, wrong in found.items() if wrong}
    tally("calls that failed", len(found))


@pytest.mark.parametrize("second", ["sync", "append", "rename", "pwrite", "truncate"])
def test_whichever_call_fails_after_a_failed_sync_nothing_acknowledged_is_lost(
    tmp_path: Path, second: str, tally: Tally
) -> None:
    found = {}
    for nth in range(1, 30):
        root = tmp_path / str(nth)
        disk = FaultyDisk(root, syncs=False)
        manager = on(disk, root)
        manager.save(JOB, "zero", {})
        disk.fail("sync", on=LINES)
        fault = disk.fail(second, nth)
        outcome = workload(manager, "one", "two", "three")
        if not fault.has_fired:
            break
        outcome.saved.append("zero")
        found[nth] = problems(root, outcome, manager)
    assert not {nth: wrong for nth, wrong in found.items() if wrong}
    tally("calls that failed", len(found))


def test_a_creation_beside_another_processes_creation_does_not_fail(
    root: Path,
) -> None:
    for nth in range(1, 50):
        folder = root / str(nth)
        disk = FaultyDisk(folder, syncs=False)
        rival = CheckpointManager(folder)
        fault = disk.set(Fault("", nth, action=lambda r=rival: r.save("b", "one", {})))  # type: ignore[misc]
        manager = on(disk, folder)
        manager.save("a", "one", {})
        if not fault.has_fired:
            break
        assert [info.job_id for info in manager.jobs()] == ["a", "b"], f"call {nth}"
        assert manager._store.storage.store_id == rival._store.storage.store_id


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation", ["append", "sync", "pwrite", "sync_folder", "stat"]
)
def test_a_writer_killed_at_any_call_loses_nothing_it_acknowledged(
    tmp_path: Path, operation: str, tally: Tally
) -> None:
    for nth in range(1, 60):
        root = tmp_path / str(nth)
        disk = FaultyDisk(root, syncs=False)
        disk.set(Fault(operation, nth, action=die))

        def work(tell: Callable[[Any], None], disk: FaultyDisk = disk) -> None:
            manager = on(disk, disk_root(disk))
            for name in ("one", "two"):
                manager.save(JOB, name, {})
                tell(name)

        child = Child(work)
        acknowledged = child.hear_all()
        survived = child.wait() == 0
        with CheckpointManager(root) as again:
            shown = steps(again)
            assert shown[: len(acknowledged)] == acknowledged, f"call {nth}"  # I1
            again.save(JOB, "after", {})
            assert steps(again) == [*shown, "after"]
            assert again.verify(JOB, deep=True)[0].ok
        if survived:
            break
    tally("processes killed at a call", nth - 1)


def disk_root(disk: FaultyDisk) -> Path:
    return Path(disk._inside)


@pytest.mark.parametrize("taken", [0, 1, 50, 300])
def test_a_recovery_killed_at_any_call_is_finished_by_the_next(
    tmp_path: Path, taken: int, tally: Tally
) -> None:
    for nth in range(1, 80):
        root = tmp_path / str(nth)
        manager = on(FaultyDisk(root, syncs=False), root)
        manager.save(JOB, "one", {})
        with journal_of(root, JOB).open("ab") as file:
            file.write(b"torn" * 99)
        disk = FaultyDisk(root, syncs=False)
        disk.set(Fault("", nth, action=die, taken=taken if nth % 2 else None))
        child = Child(lambda _, d=disk: on(d, disk_root(d)).save(JOB, "two", {}))  # type: ignore[misc]
        survived = child.wait() == 0
        with CheckpointManager(root) as again:
            again.save(JOB, "three", {})
            assert steps(again) in (["one", "three"], ["one", "two", "three"])
            told = again.history(JOB, types={"job.repaired"})
            assert b"torn" * 99 in [
                p.read_bytes() for p in (root / "salvage").iterdir()
            ]
            assert len(told) >= 1, f"call {nth}"
        if survived:
            break
    tally("processes killed at a call", nth - 1)


# -- the real thing --------------------------------------------------------------------


def fill_to(root: Path, limit: int) -> dict[str, Any]:
    """Save under a limit of file sizes until it strikes; then lift it and go on."""
    manager = CheckpointManager(root)
    manager.save(JOB, "one", {})
    size = journal_of(root, JOB).stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + limit, hard))
    try:
        manager.save(JOB, "two", {"text": token_hex(1000)})
        refusal = None
    except NoSpace as exc:
        refusal = str(exc)
    now = journal_of(root, JOB).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    manager.save(JOB, "three", {})
    return {"refusal": refusal, "grown": now - size, "steps": steps(manager)}


@pytest.mark.parametrize("limit", [0, 1, 500])
def test_a_real_short_write_is_taken_back(root: Path, limit: int) -> None:
    found = in_child(lambda: fill_to(root, limit))
    assert "nothing was written" in found["refusal"]
    assert found["grown"] == 0
    assert found["steps"] == ["one", "three"]
    assert steps(CheckpointManager(root)) == ["one", "three"]


FULL_DISK = """
import sys
from pathlib import Path
from secrets import token_hex
from milepost import CheckpointManager
from milepost.journal.errors import NoSpace

root = Path(sys.argv[1]) / "store"
ballast = root.parent / "ballast"
ballast.write_bytes(bytes(16384))
manager = CheckpointManager(root)
acknowledged, refused = [], 0
for number in range(200):
    try:
        acknowledged.append(manager.save("etl", f"n{number}", {"text": token_hex(750)}))
    except NoSpace:
        refused += 1
        if refused == 3:
            break
assert refused == 3, refused
assert [i.checkpoint_id for i in CheckpointManager(root).list("etl")] == acknowledged
ballast.unlink()
acknowledged.append(manager.save("etl", "after", {}))
again = CheckpointManager(root)
assert [i.checkpoint_id for i in again.list("etl")] == acknowledged
assert again.verify("etl", deep=True)[0].ok
print(len(acknowledged))
"""


def mounted(folder: Path, mount: str, script: str) -> str:
    """Run Python with something mounted on `folder`, in a namespace of its own."""
    place = str(Path(journal.__file__).parents[2])
    code = textwrap.dedent(script)
    shell = f'{mount} && exec "$0" -P -c "$1" "$2"'
    done = subprocess.run(
        [*namespace(), "sh", "-c", shell, sys.executable, code, str(folder)],
        env={**os.environ, "PYTHONPATH": place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_namespaces
@pytest.mark.parametrize("size", ["128k", "192k"])
def test_a_disk_that_is_really_full_loses_nothing_and_goes_on_once_there_is_room(
    tmp_path: Path, size: str
) -> None:
    mount = f'mount -t tmpfs -o size={size} none "$2"'
    assert int(mounted(tmp_path, mount, FULL_DISK)) > 3


READ_ONLY = """
import json, sys
from pathlib import Path
from milepost import CheckpointManager
from milepost.journal.errors import MilepostError

root = Path(sys.argv[1]) / "store"
manager, found = CheckpointManager(root), {}
for name, call in {
    "list": lambda: [info.step_name for info in manager.list("etl")],
    "save": lambda: manager.save("etl", "more", {}),
    "new": lambda: manager.save("new", "one", {}),
    "delete": lambda: manager.delete("etl", manager.list("etl")[0].checkpoint_id),
    "again": lambda: [info.step_name for info in manager.list("etl")],
    "verify": lambda: manager.verify("etl", deep=True)[0].ok,
    "close": manager.close,
}.items():
    try:
        found[name] = call()
    except MilepostError as exc:
        found[name] = exc.code
print(json.dumps(found))
"""
REFUSED = {
    "list": ["one"],
    "save": "read_only",
    "new": "read_only",
    "delete": "read_only",
    "again": ["one"],
    "verify": True,
    "close": None,
}


def tear(root: Path, tail: str) -> None:
    """Leave behind what a writer that died would have."""
    before = head_of(root, JOB).read_bytes()
    if tail == "torn":
        with journal_of(root, JOB).open("ab") as file:
            file.write(b"torn")
    if tail in {"whole", "unfinished"}:
        CheckpointManager(root).save(JOB, "two", {})
        overwrite(head_of(root, JOB), 0, before)
    if tail == "unsynced":
        head = read_head(root, JOB)
        mode = head._replace(durability="interval", synced=Extent())
        write_head(root, JOB, mode)
    if tail == "unfinished":
        os.truncate(journal_of(root, JOB), journal_of(root, JOB).stat().st_size - 1)


TAILS = ["none", "torn", "whole", "unfinished", "unsynced"]


@needs_namespaces
@pytest.mark.parametrize("tail", TAILS)
def test_a_store_on_a_read_only_mount_is_read_up_to_its_head_and_refuses_writes(
    tmp_path: Path, tail: str
) -> None:
    with CheckpointManager(tmp_path / "store") as manager:
        manager.save(JOB, "one", {})
    tear(tmp_path / "store", tail)
    before = journal_of(tmp_path / "store", JOB).read_bytes()
    mount = 'mount --bind "$2" "$2" && mount -o remount,bind,ro "$2"'
    found = mounted(tmp_path, mount, READ_ONLY)
    assert json.loads(found) == REFUSED
    assert journal_of(tmp_path / "store", JOB).read_bytes() == before


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """A folder that another user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path in folder.rglob("*"):
            path.chmod(0o700)
        shutil.rmtree(folder)


def forbid(root: Path) -> None:
    """Let nobody but root write in this folder; reading stays allowed."""
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if stat.S_ISDIR(path.stat().st_mode) else 0o444)


def as_a_user_without_rights(work: Callable[[], Any]) -> Any:
    """Run `work` as somebody whom permissions bind."""

    def run() -> Any:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return work()

    return in_child(run)


def ask_read_only(root: Path) -> dict[str, Any]:
    manager = CheckpointManager(root)
    questions: dict[str, Callable[[], Any]] = {
        "list": lambda: steps(manager),
        "save": lambda: manager.save(JOB, "more", {}),
        "new": lambda: manager.save("new", "one", {}),
        "delete": lambda: manager.delete(JOB, manager.list(JOB)[0].checkpoint_id),
        "again": lambda: steps(manager),
        "verify": lambda: manager.verify(JOB, deep=True)[0].ok,
        "close": manager.close,
    }
    found = {}
    for name, question in questions.items():
        try:
            found[name] = question()
        except MilepostError as exc:
            found[name] = exc.code
    return found


@pytest.mark.parametrize("tail", TAILS)
def test_a_folder_without_write_permission_is_read_and_refuses_writes(
    tail: str,
) -> None:
    with folder_for_all() as folder:
        root = folder / "store"
        with CheckpointManager(root) as manager:
            manager.save(JOB, "one", {})
        tear(root, tail)
        forbid(root)
        before = journal_of(root, JOB).read_bytes()
        found = as_a_user_without_rights(lambda: ask_read_only(root))
        assert found == REFUSED
        assert journal_of(root, JOB).read_bytes() == before


def test_a_store_cannot_be_made_in_a_folder_without_write_permission() -> None:
    def make(root: Path) -> str:
        try:
            return CheckpointManager(root).save(JOB, "one", {})
        except ReadOnlyStore as exc:
            return exc.code

    with folder_for_all() as folder:
        folder.chmod(0o555)
        found = as_a_user_without_rights(lambda: make(folder / "store"))
    assert found == "read_only"


def test_a_folder_that_becomes_writable_is_written_without_a_restart(
    root: Path,
) -> None:
    with CheckpointManager(root) as manager:
        manager.save(JOB, "one", {})
    disk = FaultyDisk(root)
    disk.fail("open:append", error=errno.EROFS)
    disk.fail("open:update", error=errno.EROFS)
    manager = on(disk, root)
    assert steps(manager) == ["one"]
    manager.save(JOB, "two", {})  # the disk takes writes by now
    assert steps(manager) == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_ci", "reason", "expected"),
    [
        ("true", "needs a moon", 1),
        ("true", "this kernel has no moon", 0),
        ("", "needs a moon", 0),
    ],
)
def test_in_ci_a_test_that_needs_what_could_be_there_fails(
    tmp_path: Path, in_ci: str, reason: str, expected: int
) -> None:
    case = tmp_path / "test_case.py"
    case.write_text(f"import pytest\ndef test_it(): pytest.skip({reason!r})\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", str(case)]
    done = subprocess.run(
        [*command, "--confcutdir", str(tmp_path), "--rootdir", str(tmp_path)],
        env={**os.environ, "CI": in_ci, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == expected, done.stdout + done.stderr


def test_a_save_reads_its_head_in_one_system_call(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(root)
    manager.save(JOB, "first", {})
    sizes: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    manager.save(JOB, "second", {})
    assert sizes == [1024]


# -- turns -----------------------------------------------------------------------------


def two_jobs(disk: FaultyDisk, root: Path) -> CheckpointManager:
    manager = on(disk, root)
    for job in ("one", "two"):
        manager.save(job, "first", {})
    return manager


def test_writers_of_two_jobs_prepare_their_writes_in_turns_and_sync_together(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_lock, "_TURN_SECONDS", 60)
    disk = FaultyDisk(root)
    manager = two_jobs(disk, root)
    is_second, overlaps = threading.Event(), list[bool]()
    in_both = threading.Barrier(2, timeout=30)
    meet = Fault("append", action=lambda: overlaps.append(is_second.wait(0.2)))
    for fault in (meet, Fault("append", action=is_second.set)):
        disk.set(fault)
    for job in ("one", "two"):
        disk.set(Fault("sync", on=job, action=in_both.wait))
    with ThreadPoolExecutor() as pool:
        ids = [pool.submit(manager.save, job, "next", {}) for job in ("one", "two")]
        assert [done.result() for done in ids]
    assert overlaps == [False]


def test_a_write_that_hangs_does_not_keep_other_jobs_from_theirs(root: Path) -> None:
    disk = FaultyDisk(root)
    manager = two_jobs(disk, root)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        assert goes_on.wait(30)

    disk.set(Fault("append", on="one", action=hang))
    with ThreadPoolExecutor() as pool:
        hanging = pool.submit(manager.save, "one", "next", {})
        assert hangs.wait(30)
        manager.save("two", "next", {})
        assert not hanging.done()
        goes_on.set()
        assert hanging.result()


# -- answers under one write -----------------------------------------------------------


def test_what_is_refused_inside_a_shared_write_leaves_the_others_whole(
    root: Path,
) -> None:
    manager = CheckpointManager(root)
    manager.save(JOB, "zero", {}, idempotency_key="k")
    answers = together(
        manager,
        lambda: manager.save(JOB, "one", {"n": 1}),
        lambda: manager.save(JOB, "zero", {"other": 1}, idempotency_key="k"),
        lambda: manager.save(JOB, "two", {"n": 2}, expected_seq=1),
        lambda: manager.save(JOB, "three", {"n": 3}),
        lambda: manager.save(JOB, "zero", {}, idempotency_key="k"),
    )
    kinds = [Conflict if isinstance(a, Conflict) else type(a) for a in answers]
    assert kinds == [str, Conflict, Conflict, str, str]
    assert steps(manager) == ["zero", "one", "three"]
    assert [i.parent_id for i in manager.list(JOB)][1:] == [answers[4], answers[0]]


def test_one_key_for_two_saves_in_one_write_is_a_conflict_and_loses_neither(
    root: Path,
) -> None:
    manager = CheckpointManager(root)
    manager.save(JOB, "zero", {})
    answers = together(
        manager,
        lambda: manager.save(JOB, "one", {"n": 1}, idempotency_key="k"),
        lambda: manager.save(JOB, "one", {"n": 1}, idempotency_key="k"),
        lambda: manager.save(JOB, "one", {"n": 2}, idempotency_key="k"),
    )
    assert answers[0] == answers[1]
    assert isinstance(answers[2], Conflict)  # its state is nowhere, so say so
    assert steps(manager) == ["zero", "one"]


def together(manager: CheckpointManager, *calls: Callable[[], Any]) -> list[Any]:
    """Make the calls of several threads at once, so that they share a write."""
    store, requests = manager._store, []
    refused: dict[int, MilepostError] = {}
    write = store.write

    def queue(_: str, request: Any, **__: object) -> Any:
        requests.append(request)
        raise InterruptedError

    store.write = queue  # type: ignore[method-assign]
    for call in calls:
        before = len(requests)
        try:
            with suppress(InterruptedError):
                call()
        except MilepostError as exc:  # refused before it was even queued
            refused[before + len(refused)] = exc
    store.write = write  # type: ignore[method-assign]
    waiters = [Waiter(request, is_shared=True) for request in requests]
    store._job(JOB).commit(deque(waiters))
    answers = iter([waiter.error or waiter.answer[0] for waiter in waiters])
    return [refused.get(n) or next(answers) for n in range(len(calls))]
