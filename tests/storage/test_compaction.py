"""Bytes that really go: compaction, purge and erase."""

from __future__ import annotations

import errno
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.commands import erasure
from milepost.journal.errors import Conflict, NoSpace, StorageFailed, UnknownCheckpoint
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.compaction import Threshold
from tests.support.faults import (
    Fault,
    FaultyDisk,
    children,
    die,
    head_of,
    journal_of,
    put,
    read_head,
    write_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.support.clock import Clock

JOB = "etl"
DAYS_8 = 8 * 86400.0


def noise(seed: int, size_bytes: int = 3000) -> str:
    """Text that no compression hides: what is on disk can be searched for it."""
    return random.Random(seed).randbytes(size_bytes // 2).hex()


def fill(manager: CheckpointManager, count: int) -> list[str]:
    """Save states that share most of themselves, each with words of its own."""
    return [
        manager.save(JOB, "step", state_of(n), metadata={"of": noise(n + 1)[:90]})
        for n in range(count)
    ]


def state_of(n: int) -> dict[str, Any]:
    return {"n": n, "own": noise(n + 1), "shared": noise(0, 20_000)}


def events_of(root: Path) -> list[bytes]:
    lines = journal_of(root, JOB).read_bytes().splitlines()
    return [line for line in lines if line.startswith(b'{"v"')]


def test_a_head_from_before_a_compaction_takes_what_it_dropped_for_no_damage(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    fill(manager, 2)
    older = head_of(root, JOB).read_bytes()  # as a backup of `heads/` may be
    ids = fill(manager, 20)
    manager.cleanup(JOB, keep_last=2)
    clock.turn(days=8)
    assert manager.compact(JOB) is not None
    events = events_of(root)
    put(head_of(root, JOB), older)
    with CheckpointManager(root) as fresh:
        assert [i.checkpoint_id for i in fresh.list(JOB)] == ids[-2:]
        assert events_of(root) == events  # I4, I9


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


def overlap(manager: CheckpointManager) -> tuple[str, list[str]]:
    """Save a state of many blocks, and after it states of some blocks each.

    Without the first one, blocks that several of the others share are stored often.
    """
    blocks = [noise(n, 4000) for n in range(8)]
    first = manager.save(JOB, "all", {"of": blocks})
    parts = []
    for mask in range(1, 256, 9):
        manager.restore(JOB, first)  # so that the next state is a delta from it
        some = [block for n, block in enumerate(blocks) if mask >> n & 1]
        parts.append(manager.save(JOB, "some", {"of": some}))
    return first, parts


def test_a_compaction_that_frees_nothing_is_skipped_until_a_state_is_overdue(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    first, parts = overlap(manager)
    states = [manager.get(JOB, checkpoint_id).state for checkpoint_id in parts]
    manager.delete(JOB, first)
    clock.turn(days=8)
    before = journal_of(root, JOB).read_bytes()
    done = manager.compact(JOB)
    assert done is not None
    assert done.growth_bytes is not None
    assert (done.dropped, done.bytes_freed) == (0, 0)
    assert journal_of(root, JOB).read_bytes() == before
    assert [p.name for p in (root / "journals").iterdir()] == ["etl.jsonl"]
    clock.turn(days=7)
    late = manager.compact(JOB)
    assert late is not None
    assert (late.dropped, late.growth_bytes) == (1, None)  # I9
    assert late.bytes_freed == -done.growth_bytes
    assert [manager.get(JOB, c).state for c in parts] == states  # I5


@pytest.mark.parametrize("how", ["purged", "due at once", "rewrapped", "erased"])
def test_a_compaction_that_erases_is_never_skipped(
    manager: CheckpointManager, root: Path, clock: Clock, how: str
) -> None:
    first, _ = overlap(manager)
    size = journal_of(root, JOB).stat().st_size
    manager.delete(JOB, first, purge=how == "purged")
    clock.turn(days=8)
    at_once = Threshold(erase_within_seconds=0.0)
    if how == "due at once":
        manager.compact(JOB, threshold=at_once)
    elif how == "rewrapped":
        manager.compact(JOB, rewrap=True)
    elif how == "erased":
        manager.erase(JOB)
    is_smaller = journal_of(root, JOB).stat().st_size < size
    assert is_smaller == (how == "erased")
    assert manager.compact(JOB, threshold=at_once) is None  # I9


def test_a_compaction_that_was_skipped_is_not_tried_again_for_the_same_states(
    root: Path, clock: Clock
) -> None:
    disk = FaultyDisk(root)
    storage = FileStorage(root, disk=disk)
    with CheckpointManager(storage=storage, clock=clock) as manager:
        first, parts = overlap(manager)
        manager.delete(JOB, first)
        clock.turn(days=8)
        skipped = manager.compact(JOB)
        manager.save(JOB, "more", {"n": 1})
        copied = len(disk.of("append"))
        again = manager.compact(JOB)
        assert len(disk.of("append")) == copied
        assert again is not None
        assert skipped is not None
        assert again.growth_bytes == skipped.growth_bytes
        for one in parts:
            manager.delete(JOB, one)
        clock.turn(days=8)
        done = manager.compact(JOB)
        assert done is not None
        assert done.dropped == len(parts) + 1  # I9


def test_states_whose_bases_go_are_deltas_from_those_that_stay(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    chat: list[str] = []
    ids = []
    for n in range(80):
        chat.append(noise(n, 1000))
        ids.append(manager.save(JOB, "turn", {"messages": chat}))
    size = journal_of(root, JOB).stat().st_size
    for checkpoint_id in ids[1:-1:2]:
        manager.delete(JOB, checkpoint_id)
    clock.turn(days=8)
    done = manager.compact(JOB)
    assert done is not None
    assert done.reencoded > 20
    assert done.bytes_after < size
    for n, checkpoint_id in enumerate(ids):
        if n % 2 == 0 or n == 79:
            assert manager.get(JOB, checkpoint_id).state["messages"] == chat[: n + 1]


def pieces_of(root: Path, seq: int) -> list[bytes]:
    """Return what only the state line of save `seq` holds: body, salt, keys, all."""
    lines = journal_of(root, JOB).read_bytes().splitlines()
    line = next(x for x in lines if x.startswith(b'{"state":%d,' % seq))
    cut = [line[at : at + 24] for at in range(20, len(line) - 24, 12)]
    unique = [piece for piece in cut if sum(piece in x for x in lines) == 1]
    assert len(unique) > 40
    return unique


def trash_and_compact(manager: CheckpointManager, clock: Clock, erased: str) -> None:
    manager.delete(JOB, erased)
    clock.turn(days=8)
    manager.compact(JOB)


ERASURES: dict[str, Callable[[CheckpointManager, Clock, str], object]] = {
    "purged": lambda manager, _, c: manager.delete(JOB, c, purge=True),
    "out of its trash period": trash_and_compact,
    "erased": lambda manager, *_: manager.erase(JOB),
}


@pytest.mark.parametrize("erase", ERASURES.values(), ids=ERASURES)
@pytest.mark.parametrize("keys", [None, KeyRing([Key.new("k")])], ids=["plain", "keys"])
@pytest.mark.parametrize(
    "codec",
    ["auto", *(pytest.param(c, marks=pytest.mark.slow) for c in ("json", "zstd"))],
)
def test_no_byte_of_an_erased_state_stays_in_any_file(
    root: Path, clock: Clock, codec: Any, keys: KeyRing | None, erase: Any
) -> None:
    with CheckpointManager(root, clock=clock, codec=codec, keys=keys) as manager:
        ids = fill(manager, 10)
        # The fourth: a delta under "auto", and others are told from it.
        pieces = [*pieces_of(root, 5), noise(4)[:64].encode()]
        erase(manager, clock, ids[3])
        files = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
        assert not [p for p in pieces if any(p in data for data in files)]  # I9
        assert manager.verify(JOB, deep=True)[0].ok
        for n, info in enumerate(manager.list(JOB)):
            kept = state_of(n + (n > 2))
            assert manager.get(JOB, info.checkpoint_id).state == kept  # I5


def test_what_was_purged_is_on_record_and_never_comes_back(
    manager: CheckpointManager,
) -> None:
    ids = fill(manager, 3)
    assert manager.delete(JOB, ids[1], purge=True, reason="asked to")
    with pytest.raises(UnknownCheckpoint):
        manager.get(JOB, ids[1])
    with pytest.raises(Conflict, match="state is erased"):
        manager.undelete(JOB, ids[1])
    assert manager.history(JOB, types=["checkpoint.purged"])[0]["data"] == {
        "checkpoint_id": ids[1],
        "reason": "asked to",
    }


def test_erasing_a_job_removes_its_states_and_keeps_its_record(
    manager: CheckpointManager, root: Path
) -> None:
    ids = fill(manager, 8)
    manager.delete(JOB, ids[2])
    done = manager.erase(JOB, reason="customer left")
    assert done is not None
    assert done.dropped == 8
    assert manager.list(JOB) == []
    assert b'"state":' not in journal_of(root, JOB).read_bytes()
    assert [e["type"] for e in manager.history(JOB)][-2:] == [
        "job.erased",
        "job.compacted",
    ]
    again = manager.save(JOB, "new life", {"n": 1})
    assert manager.latest(JOB) is not None
    assert manager.restore(JOB, again) == {"n": 1}
    assert manager.erase("nobody") is None


def test_a_job_that_has_no_states_can_be_erased_too(
    manager: CheckpointManager,
) -> None:
    fill(manager, 2)
    manager.erase(JOB)
    again = manager.erase(JOB, reason="asked once more")
    assert again is not None
    assert (again.dropped, again.bytes_freed) == (0, 0)
    assert manager.history(JOB)[-1]["type"] == "job.erased"


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
    with pytest.raises(Conflict, match="state is erased"):
        manager.undelete(JOB, ids[1])


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


def write_and_clean(
    root: Path,
    saved: list[str],
    tell: Callable[[Any], object] = bool,
    numbers: Iterable[int] = range(60),
) -> None:
    with CheckpointManager(root, durability="never") as manager:
        for n in numbers:
            saved.append(manager.save(JOB, "more", state_of(n + 100)))
            if n % 3 == 0:
                manager.cleanup(JOB, keep_last=12)
                tell(saved)


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
    numbers = takewhile(lambda n: n < 60 or not done.is_set(), count())
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write_and_clean, root, saved, numbers=numbers)
        reader = pool.submit(read_until, root, done)
        compactions = 0
        while compactions < 3 and not (writer.done() or reader.done()):
            with suppress(Conflict):
                found = owner.compact(JOB)
                compactions += found is not None and found.dropped > 0
        done.set()
        writer.result()
        reader.result()
    assert compactions == 3
    assert owner.verify(JOB, deep=True)[0].ok
    assert {i.checkpoint_id for i in owner.list(JOB)} <= set(saved)


def test_writers_and_readers_in_other_processes_go_on_through_compactions(
    root: Path,
) -> None:
    with CheckpointManager(root, durability="never", trash_seconds=0) as owner:
        fill(owner, 20)

        def read(_: object) -> None:
            with CheckpointManager(root) as manager:
                for _ in range(200):
                    newest = manager.list(JOB)[-1].checkpoint_id
                    with suppress(UnknownCheckpoint):  # cleaned up meanwhile
                        assert manager.get(JOB, newest).state["own"]

        with children(lambda tell: write_and_clean(root, [], tell), read) as (child, _):
            # The writer has cleaned up, and writes on, whenever it says something.
            done = [(saved, owner.compact(JOB)) for saved in iter(child.hear, None)]
        assert any(found is not None for _, found in done)
        assert {i.checkpoint_id for i in owner.list(JOB)[:-3]} <= set(done[-1][0])
        assert owner.verify(JOB, deep=True)[0].ok


def test_a_second_compaction_at_the_same_time_is_told_so(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    ids = fill(manager, 3)
    manager.delete(JOB, ids[0])
    clock.turn(days=8)
    rival = CheckpointManager(root, clock=clock)
    with (
        rival._store.storage.job(JOB).copying(),
        pytest.raises(Conflict, match="another compaction"),
    ):
        manager.compact(JOB)
    assert [p.name for p in (root / "journals").iterdir()] == ["etl.jsonl"]
    assert manager.compact(JOB) is not None
    assert [p.name for p in (root / "journals").iterdir()] == ["etl.jsonl"]


def at_the_copy(root: Path, action: Callable[[], object], operation: str) -> Any:
    """Return a storage that does `action` when a copy is first met by `operation`."""
    disk = FaultyDisk(root)
    disk.set(Fault(operation, on="etl.copy", action=action))
    return FileStorage(root, disk=disk)


@pytest.mark.parametrize("operation", ["append", "sync"])
def test_a_writer_gets_through_while_a_compaction_copies_and_syncs(
    manager: CheckpointManager, root: Path, clock: Clock, operation: str
) -> None:
    ids = fill(manager, 6)
    manager.delete(JOB, ids[0])
    clock.turn(days=8)
    saved: list[str] = []

    def save_and_read() -> None:
        saved.append(manager.save(JOB, "meanwhile", {"n": 1}))
        assert manager.get(JOB, ids[5]).state == state_of(5)

    storage = at_the_copy(root, save_and_read, operation)
    with CheckpointManager(storage=storage, clock=clock) as other:
        assert other.compact(JOB) is not None
        assert other.get(JOB, saved[0]).state == {"n": 1}  # I1
    assert [i.checkpoint_id for i in manager.list(JOB)] == [*ids[1:], *saved]


def test_a_purge_waits_for_a_compaction_that_began_before_it(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    ids = fill(manager, 4)
    copying = ExitStack()
    copying.enter_context(manager._store.storage.job(JOB).copying())
    disk = FaultyDisk(root)  # the rival ends when the purge has met it twice
    disk.set(Fault("lock", 3, on="etl.copy", action=copying.close))
    with CheckpointManager(storage=FileStorage(root, disk=disk), clock=clock) as other:
        assert other.delete(JOB, ids[1], purge=True)
    assert noise(2)[:64].encode() not in journal_of(root, JOB).read_bytes()  # I9
    assert [p.name for p in (root / "journals").iterdir()] == ["etl.jsonl"]


def test_a_purge_that_waited_in_vain_says_what_became_of_it(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = fill(manager, 2)
    monkeypatch.setattr(erasure, "_PAUSES_SECONDS", (0.0, 0.0))
    with (
        manager._store.storage.job(JOB).copying(),
        pytest.raises(
            Conflict, match="deleted, but their states are still on the disk"
        ),
    ):
        manager.delete(JOB, ids[0], purge=True)
    assert [info.checkpoint_id for info in manager.list(JOB)] == ids[1:]
    assert manager.compact(JOB) is not None


def test_what_a_compaction_that_died_left_goes_though_none_is_worth_it_now(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    ids = fill(manager, 4)
    manager.delete(JOB, ids[0])
    clock.turn(days=8)

    def compact(_: object) -> None:
        storage = at_the_copy(root, die, "sync")
        CheckpointManager(storage=storage, clock=clock).compact(JOB)

    with suppress(AssertionError), children(compact):
        pass
    assert (root / "journals" / "etl.copy").exists()
    never = Threshold(min_bytes=10**9, erase_within_seconds=1e9)
    assert manager.compact(JOB, threshold=never) is None
    assert [p.name for p in (root / "journals").iterdir()] == ["etl.jsonl"]


@pytest.mark.parametrize("how", ["purge", "erase"])
def test_an_erasure_takes_torn_tails_that_may_hold_the_same_state(
    root: Path, clock: Clock, how: str
) -> None:
    with CheckpointManager(root, clock=clock) as manager:
        manager.save(JOB, "first", {"n": 1})
    with journal_of(root, JOB).open("ab") as journal:  # a save that a crash cut off
        journal.write(b'{"state":3,"codec":"json","body":"' + noise(8).encode())
    with CheckpointManager(root, clock=clock) as manager:
        again = manager.save(JOB, "again", state_of(7))
        assert noise(8).encode() in next((root / "salvage").iterdir()).read_bytes()
        if how == "purge":
            manager.delete(JOB, again, purge=True)
        else:
            manager.erase(JOB)
        assert manager.verify(JOB)[0].ok
    files = [path for path in root.rglob("*") if path.is_file()]
    assert not [p for p in files if noise(8)[:64].encode() in p.read_bytes()]  # I9


def freed_share(root: Path, seed: int) -> float:
    """Return what part of the bytes that a compaction freed the disk has free now."""
    with CheckpointManager(root, trash_seconds=0, codec="json") as manager:
        for n in range(20):
            manager.save(JOB, "step", {"own": noise(seed + n, 500_000)})
        os.sync()
        before = os.statvfs(root)
        manager.cleanup(JOB, keep_last=1)
        done = manager.compact(JOB)
        assert done is not None
        freed = (os.statvfs(root).f_bfree - before.f_bfree) * before.f_frsize
    return freed / done.bytes_freed


def test_disk_space_is_really_freed(root: Path) -> None:
    # Others may write to the disk meanwhile, so the best of a few rounds counts.
    shares = (freed_share(root, seed) for seed in (0, 100, 200))
    assert any(0.8 < share < 1.2 for share in shares)


def removed_but_open(root: Path) -> list[str]:
    """Return the files of the store that take room though they have no name."""
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # what listed the folder
            links.append(str(fd.readlink()))
    return [x for x in links if x.startswith(str(root)) and x.endswith("(deleted)")]


def test_a_handle_that_looks_again_lets_go_of_the_old_journal(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    ids = fill(manager, 3)
    with CheckpointManager(root, clock=clock) as other:
        other.get(JOB, ids[2])
        manager.delete(JOB, ids[0], purge=True)
        assert len(removed_but_open(root)) == 1
        other.refresh([JOB])  # as the worker and the server do regularly
        assert removed_but_open(root) == []


@pytest.mark.parametrize("more", [0, 1, 40])
@pytest.mark.parametrize("what", ["restore", "save", "list"])
def test_a_rewritten_journal_with_the_old_ones_inode_number_is_folded_anew(
    manager: CheckpointManager, root: Path, clock: Clock, what: str, more: int
) -> None:
    """A file system gives freed numbers away again, perhaps to the third file.

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


@pytest.mark.parametrize("erased", ["purged", "erased"])
def test_an_erasure_without_room_says_what_is_gone_and_what_is_still_there(
    root: Path, clock: Clock, erased: str
) -> None:
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
        one = manager.save(JOB, "one", {"n": 1})
        disk.set(Fault("append", on="etl.copy", error=errno.ENOSPC))
        with pytest.raises(
            StorageFailed, match="deleted, but their states are"
        ) as failed:
            ERASURES[erased](manager, clock, one)
        assert not isinstance(failed.value, NoSpace)  # which says: nothing was written
        assert manager.list(JOB) == []
        done = manager.compact(JOB)
        assert done is not None
        assert done.dropped == 1  # I9
