"""Bytes that really go: compaction, purge and forget."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from faults import journal_of, put, read_head, write_head

from journal import CheckpointManager
from journal.errors import Conflict, UnknownCheckpoint

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Clock

JOB = "etl"
DAYS_8 = 8 * 86400.0


def noise(seed: int, size_bytes: int = 3000) -> str:
    """Text that no compression hides: what is on disk can be searched for it."""
    return random.Random(seed).randbytes(size_bytes // 2).hex()


def fill(manager: CheckpointManager, count: int) -> list[str]:
    """Save states that share most of themselves, each with words of its own."""
    shared = noise(0, 20_000)
    return [
        manager.save(JOB, "step", {"n": n, "own": noise(n + 1), "shared": shared})
        for n in range(count)
    ]


def state_of(n: int) -> dict[str, Any]:
    return {"n": n, "own": noise(n + 1), "shared": noise(0, 20_000)}


def events_of(root: Path) -> list[bytes]:
    lines = journal_of(root, JOB).read_bytes().splitlines()
    return [line for line in lines if line.startswith(b'{"v"')]


def test_states_of_deleted_checkpoints_leave_the_disk_and_the_others_stay(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    ids = fill(manager, 40)
    manager.cleanup(JOB, keep_last=5)
    assert manager.compact(JOB) is None  # still in its trash period
    clock.turn(days=8)
    before = events_of(root)
    size = journal_of(root, JOB).stat().st_size
    done = manager.compact(JOB)
    assert done is not None
    assert done.dropped == 35
    assert done.bytes_freed > 0.5 * size
    assert events_of(root)[:-1] == before  # I4
    assert journal_of(root, JOB).stat().st_size < size - done.bytes_freed + 500
    for n in range(35, 40):
        assert manager.get(JOB, ids[n]).state == state_of(n)  # I5
    assert manager.verify(JOB, deep=True)[0].ok
    with CheckpointManager(root) as fresh:
        assert [i.checkpoint_id for i in fresh.list(JOB)] == ids[35:]
        assert fresh.verify(JOB, deep=True)[0].ok
        assert fresh.history(JOB)[-1]["type"] == "job.compacted"
    assert manager.compact(JOB) is None


def test_every_second_state_may_go_and_the_rest_still_restores(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    ids = fill(manager, 60)
    for n in range(0, 60, 2):
        manager.delete(JOB, ids[n])
    clock.turn(days=8)
    done = manager.compact(JOB)
    assert done is not None
    assert done.dropped == 30
    for n in range(1, 60, 2):
        assert manager.get(JOB, ids[n]).state == state_of(n)  # I5
    raw = journal_of(root, JOB).read_bytes()
    for n in range(0, 60, 2):
        assert noise(n + 1)[:64].encode() not in raw
    assert manager.save(JOB, "after", state_of(99))
    assert manager.verify(JOB, deep=True)[0].ok


@pytest.mark.parametrize("codec", ["auto", "json", "zstd"])
def test_no_byte_of_a_purged_state_stays_in_any_file(
    root: Path, clock: Clock, codec: Any
) -> None:
    with CheckpointManager(root, clock=clock, codec=codec) as manager:
        ids = fill(manager, 10)
        lines = journal_of(root, JOB).read_bytes().splitlines()
        line = next(x for x in lines if x.startswith(b'{"state":5,'))  # the fourth
        salt = line[line.index(b'"salt":"') + 8 :][:32]
        body = line[line.index(b'"body":') + 8 : -20]
        pieces = [salt, *(body[i : i + 24] for i in range(0, len(body) - 24, 24))]
        unique = [p for p in pieces if sum(p in x for x in lines) == 1]
        assert len(unique) > 20
        assert manager.delete(JOB, ids[3], purge=True, reason="asked to")
        for path in root.rglob("*"):
            if path.is_file():  # I9
                data = path.read_bytes()
                assert not [p for p in unique if p in data]
                assert noise(4)[:64].encode() not in data
        assert manager.verify(JOB, deep=True)[0].ok
        assert manager.get(JOB, ids[4]).state == state_of(4)
        with pytest.raises(UnknownCheckpoint):
            manager.get(JOB, ids[3])
        assert manager.undelete(JOB, ids[3]) is False
        assert manager.history(JOB, types=["checkpoint.purged"])[0]["data"] == {
            "checkpoint_id": ids[3],
            "reason": "asked to",
        }


def test_forgetting_a_job_erases_its_states_and_keeps_its_record(
    manager: CheckpointManager, root: Path
) -> None:
    ids = fill(manager, 8)
    manager.delete(JOB, ids[2])
    done = manager.forget(JOB, reason="customer left")
    assert done is not None
    assert done.dropped == 8
    assert manager.list(JOB) == []
    assert b'"state":' not in journal_of(root, JOB).read_bytes()
    assert [e["type"] for e in manager.history(JOB)][-2:] == [
        "job.forgotten",
        "job.compacted",
    ]
    again = manager.save(JOB, "new life", {"n": 1})
    assert manager.latest(JOB) is not None
    assert manager.restore(JOB, again) == {"n": 1}
    assert manager.forget("nobody") is None


def test_what_was_deleted_can_come_back_until_its_trash_period_ends(
    manager: CheckpointManager, clock: Clock
) -> None:
    ids = fill(manager, 6)
    manager.delete(JOB, ids[1])
    clock.turn(days=4)
    manager.delete(JOB, ids[3])
    clock.turn(days=4)
    done = manager.compact(JOB)
    assert done is not None
    assert done.dropped == 1
    assert manager.undelete(JOB, ids[3])
    assert manager.get(JOB, ids[3]).state == state_of(3)
    assert manager.undelete(JOB, ids[1]) is False


def test_children_of_what_is_gone_descend_from_what_led_to_it(
    manager: CheckpointManager, root: Path
) -> None:
    ids = fill(manager, 5)
    manager.delete(JOB, ids[1], purge=True)
    manager.delete(JOB, ids[2], purge=True)
    for reader in (manager, CheckpointManager(root)):
        parents = {i.checkpoint_id: i.parent_id for i in reader.list(JOB)}
        assert parents[ids[3]] == ids[0]
        assert parents[ids[4]] == ids[3]


def test_current_falls_back_through_what_is_gone(
    manager: CheckpointManager, root: Path
) -> None:
    ids = fill(manager, 5)
    manager.restore(JOB, ids[2])
    manager.delete(JOB, ids[1], purge=True)
    manager.delete(JOB, ids[2], purge=True)
    for reader in (manager, CheckpointManager(root)):
        current = reader.current(JOB)
        assert current is not None
        assert current.checkpoint_id == ids[0]
    manager.delete(JOB, ids[4])
    for reader in (manager, CheckpointManager(root)):
        current = reader.current(JOB)
        assert current is not None
        assert current.checkpoint_id == ids[0]


def write_and_clean(root: Path, saved: list[str]) -> None:
    with CheckpointManager(root, durability="never") as manager:
        for n in range(60):
            saved.append(manager.save(JOB, "more", state_of(n + 100)))
            if n % 3 == 0:
                manager.cleanup(JOB, keep_last=12)


def read_until(root: Path, done: threading.Event) -> None:
    with CheckpointManager(root) as manager:
        while not done.is_set():
            infos = manager.list(JOB)
            assert len(infos) > 5
            manager.history(JOB, limit=30, reverse=True)
            with suppress(UnknownCheckpoint):  # cleaned up meanwhile
                newest = manager.get(JOB, infos[-1].checkpoint_id)
                assert newest.state["own"]


def test_writers_and_readers_of_other_handles_go_on_through_compactions(
    root: Path,
) -> None:
    owner = CheckpointManager(root, durability="never", trash_seconds=0)
    fill(owner, 20)
    done = threading.Event()
    saved: list[str] = []
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write_and_clean, root, saved)
        reader = pool.submit(read_until, root, done)
        compactions = 0
        while not writer.done():
            with suppress(Conflict):
                compactions += owner.compact(JOB) is not None
        done.set()
        writer.result()
        reader.result()
    assert compactions > 2
    assert owner.verify(JOB, deep=True)[0].ok
    assert {i.checkpoint_id for i in owner.list(JOB)} <= set(saved)


def test_a_second_compaction_at_the_same_time_is_told_so(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    ids = fill(manager, 3)
    manager.delete(JOB, ids[0])
    clock.turn(days=8)
    rival = CheckpointManager(root, clock=clock)
    with rival._store.storage.copying(JOB), pytest.raises(Conflict, match="compacted"):
        manager.compact(JOB)
    assert [p.name for p in (root / "journals").iterdir()] == ["etl.jsonl"]
    assert manager.compact(JOB) is not None
    assert [p.name for p in (root / "journals").iterdir()] == ["etl.jsonl"]


def test_disk_space_is_really_freed(root: Path) -> None:
    with CheckpointManager(root, trash_seconds=0, codec="json") as manager:
        for n in range(30):
            manager.save(JOB, "step", {"n": n, "own": noise(n, 100_000)})
        before = os.statvfs(root).f_bfree
        blocks = journal_of(root, JOB).stat().st_blocks
        manager.cleanup(JOB, keep_last=1)
        done = manager.compact(JOB)
        assert done is not None
        assert journal_of(root, JOB).stat().st_blocks < blocks / 10
        assert os.statvfs(root).f_bfree >= before or done.bytes_freed > 2_000_000


@pytest.mark.parametrize("more", [0, 1, 40])
@pytest.mark.parametrize("what", ["restore", "save", "list"])
def test_a_rewritten_journal_that_got_the_old_ones_inode_number_is_folded_anew(
    manager: CheckpointManager, root: Path, clock: Clock, what: str, more: int
) -> None:
    """The third file at a path may have the number that the first one had.

    Then nothing but its bytes says that offsets from before mean other lines now.
    """
    ids = fill(manager, 6)
    journal, kept = journal_of(root, JOB), root / "kept"
    kept.hardlink_to(journal)
    with CheckpointManager(root, clock=clock) as other:
        other.delete(JOB, ids[0])
        clock.turn(days=8)
        assert manager.list(JOB)[0].checkpoint_id == ids[1]
        other.compact(JOB)
        ids += [other.save(JOB, "more", {"n": n}) for n in range(more)]
    rewritten = journal.read_bytes()
    kept.rename(journal)
    put(journal, rewritten)
    inode = journal.stat().st_ino
    write_head(root, JOB, read_head(root, JOB)._replace(inode=inode))

    if what == "restore":
        assert manager.restore(JOB, ids[5]) == state_of(5)  # I5
    if what == "save":
        ids.append(manager.save(JOB, "last", {}))
    assert [info.checkpoint_id for info in manager.list(JOB)] == ids[1:]
    assert manager.get(JOB, ids[1]).state == state_of(1)
    assert manager.verify(JOB, deep=True)[0].ok
