"""The recovery table: one row, one test or more, each named after its row.

Rows are those of docs/recovery.md.  `manager` writes; `again` is what another process
would see that opens the folder afterwards.
"""

from __future__ import annotations

import zlib
from contextlib import contextmanager, suppress
from functools import partial
from signal import SIGKILL
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from milepost import CheckpointManager
from milepost.journal.errors import (
    DamagedJournal,
    MilepostError,
    NewerFormat,
    StorageFailed,
    UnreadableState,
)
from milepost.journal.storage.files.recovery.head import (
    FILE_BYTES,
    SLOT_BYTES,
    SLOTS,
    Extent,
    Head,
    slot_offset,
)
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.removals import Removal
from tests.support.faults import (
    Call,
    Child,
    Fault,
    FaultyDisk,
    die,
    forged,
    head_of,
    journal_of,
    last_hash,
    overwrite,
    put,
    read_head,
    replace,
    write_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.storage.files.folders import Durability

JOB = "etl"
RUINED_LINES = [
    *("flip", "gap", "doubled", "swapped", "no newline"),
    *("cut", "nuls", "crlf", "blank", "bom"),
]
RUINED_STATES = ["rotten", "exchanged", "gone"]
MODES: list[Durability] = ["interval", "never"]


def again(root: Path, disk: FaultyDisk | None = None) -> CheckpointManager:
    """Open the store anew, as another process would."""
    return CheckpointManager(storage=FileStorage(root, disk=disk))


def steps(manager: CheckpointManager) -> list[str]:
    return [info.step_name for info in manager.list(JOB)]


def repairs(manager: CheckpointManager) -> list[Any]:
    return [e["data"] for e in manager.history(JOB, types={"job.repaired"})]


def save(manager: CheckpointManager, *names: str) -> list[str]:
    return [manager.save(JOB, name, {"step": name}) for name in names]


def files(root: Path) -> dict[str, bytes]:
    """Return everything that a change could be seen in."""
    found = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


@contextmanager
def unacknowledged(root: Path) -> Iterator[None]:
    """What is written inside is in the journal, but the head never moved."""
    head = head_of(root, JOB)
    before = head.read_bytes()
    yield
    put(head, before)


def salvage_files(root: Path) -> dict[str, bytes]:
    found = (root / "salvage").iterdir() if (root / "salvage").exists() else iter(())
    return {p.name: p.read_bytes() for p in found}


def test_r1_a_job_without_files_is_unknown_until_a_save(
    root: Path, manager: CheckpointManager
) -> None:
    assert manager.list(JOB) == []
    assert manager.job(JOB) is None
    assert files(root) == {}  # a question leaves no trace
    save(manager, "one")
    assert steps(again(root)) == ["one"]


@pytest.mark.parametrize("head", [b"", bytes(FILE_BYTES), b"torn" * 256, None])
@pytest.mark.parametrize("journal", [None, b""])
def test_r2_a_creation_that_was_cut_begins_again(
    root: Path, manager: CheckpointManager, head: bytes | None, journal: bytes | None
) -> None:
    manager.save("other", "one", {})
    if head is not None:
        head_of(root, JOB).write_bytes(head)
    if journal is not None:
        journal_of(root, JOB).write_bytes(journal)
    assert again(root).list(JOB) == []
    save(manager, "one")
    types = [e["type"] for e in again(root).history(JOB)]
    assert types == ["job.opened", "checkpoint.saved"]  # nothing was ever shown


def test_r2_a_journal_is_not_made_before_the_name_of_its_head_is_synced(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save("other", "one", {})
    head_of(root, JOB).write_bytes(b"")  # whoever made it died before it was synced
    disk = FaultyDisk(root)
    save(again(root, disk), "one")
    calls = disk.of("sync_folder", "create")
    made = calls.index(Call("create", "journals/etl.jsonl"))
    assert Call("sync_folder", "heads") in calls[:made]  # I1, I7


def test_r2_a_name_that_a_dead_creator_left_is_synced_before_it_counts(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save("other", "one", {})
    head_of(root, JOB).write_bytes(bytes(FILE_BYTES))
    journal_of(root, JOB).write_bytes(b"")
    disk = FaultyDisk(root)
    save(again(root, disk), "one")
    calls = disk.of("sync_folder", "append", "pwrite")
    synced = calls.index(Call("sync_folder", "journals"))  # I1
    assert calls.index(Call("append", "journals/etl.jsonl")) < synced
    assert synced < calls.index(Call("pwrite", "heads/etl"))


@pytest.mark.parametrize("journal", [None, b""])
def test_r3_an_acknowledged_journal_that_is_gone_is_damage_and_no_new_job(
    root: Path, manager: CheckpointManager, journal: bytes | None
) -> None:
    save(manager, "one")
    journal_of(root, JOB).unlink()
    if journal is not None:
        journal_of(root, JOB).write_bytes(journal)
    before = files(root)
    with pytest.raises(DamagedJournal, match="no journal"):
        again(root).list(JOB)
    with pytest.raises(DamagedJournal):
        save(again(root), "two")
    damage = again(root).jobs()[0].damage
    assert damage is not None
    assert damage.code == "damaged"
    assert files(root) == before


def poison(root: Path) -> None:
    head = read_head(root, JOB)
    write_head(root, JOB, head._replace(is_poisoned=True))


def test_r4_a_mark_is_gone_for_good_before_a_journal_begins_anew(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save("other", "one", {})
    head_of(root, JOB).write_bytes(bytes(FILE_BYTES))
    write_head(root, JOB, Head(writing=1, is_poisoned=True))
    journal_of(root, JOB).write_bytes(b"")  # a power cut took what was never synced
    disk = FaultyDisk(root)
    save(again(root, disk), "one")
    calls = disk.of("pwrite", "sync", "append")
    begin = calls.index(Call("append", "journals/etl.jsonl"))
    moved, synced = Call("pwrite", "heads/etl"), Call("sync", "heads/etl")
    assert calls[begin - 4 : begin] == [moved, synced] * 2  # I1


def test_r4_a_poisoned_job_is_rewritten_before_it_takes_a_write(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    inode = journal_of(root, JOB).stat().st_ino
    poison(root)
    disk = FaultyDisk(root)
    save(again(root, disk), "two")
    assert disk.of("append")[-1] == Call("append", "journals/etl.jsonl")
    order = [c.operation for c in disk.of("drop_cache", "rename", "append")]
    assert order == ["drop_cache", "append", "rename", "append"]
    assert journal_of(root, JOB).stat().st_ino != inode
    assert repairs(again(root)) == [{"reason": "sync_failed"}]
    assert not read_head(root, JOB).is_poisoned


@pytest.mark.parametrize("at", ["make_folder", "append", "rename", "sync_folder"])
def test_r4_reads_go_on_while_the_rewrite_fails_and_writes_do_not(
    root: Path, manager: CheckpointManager, at: str
) -> None:
    save(manager, "one")
    with unacknowledged(root):
        save(manager, "two")
    poison(root)
    disk = FaultyDisk(root)
    for _ in range(2):  # the writer looks before it asks for the lock
        disk.fail(at, on="salvage")
    with again(root, disk) as stuck:
        assert steps(stuck) == ["one"]
        with pytest.raises(StorageFailed):
            save(stuck, "three")
        assert read_head(root, JOB).is_poisoned  # the mark stays
        save(stuck, "four")
        assert steps(stuck) == ["one", "four"]


def test_r4_a_medium_that_lost_what_was_acknowledged_is_damage(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    poison(root)
    journal = journal_of(root, JOB)
    size = journal.stat().st_size
    overwrite(journal, size - 200, bytes(200))
    with pytest.raises(DamagedJournal):
        save(again(root), "two")
    assert read_head(root, JOB).is_poisoned


@pytest.mark.parametrize("durability", MODES)
def test_r4_what_a_failed_sync_took_of_unsynced_events_is_reported(
    root: Path, durability: Durability
) -> None:
    disk = FaultyDisk(root)
    storage = FileStorage(root, disk=disk, durability=durability, interval_seconds=600)
    save(CheckpointManager(storage=storage), "one", "two", "three")
    poison(root)
    journal = journal_of(root, JOB)
    synced, size = read_head(root, JOB).synced.size, journal.stat().st_size
    overwrite(journal, synced, bytes(size - synced))
    with again(root) as reader:
        save(reader, "four")
        assert steps(reader) == ["one", "four"]
        assert sum(r.get("lost_events", 0) for r in repairs(reader)) == 2


@pytest.mark.parametrize("tail", [b"", b"garbage"])
@pytest.mark.parametrize("head", ["none", "empty", "its own"])
def test_r5_another_jobs_journal_is_refused_and_left_alone(
    root: Path, manager: CheckpointManager, tail: bytes, head: str
) -> None:
    manager.save("other", "one", {})
    foreign = journal_of(root, "other").read_bytes()
    journal_of(root, JOB).write_bytes(foreign + tail)
    if head == "empty":
        head_of(root, JOB).write_bytes(bytes(FILE_BYTES))
    if head == "its own":
        head_of(root, JOB).write_bytes(head_of(root, "other").read_bytes())
    with pytest.raises(DamagedJournal):
        again(root).list(JOB)
    with pytest.raises(DamagedJournal):
        save(again(root), "two")
    assert journal_of(root, JOB).read_bytes() == foreign + tail
    assert len(again(root).list("other")) == 1  # I10


def test_r5_another_stores_journal_is_refused(
    tmp_path: Path, root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    with CheckpointManager(tmp_path / "b") as other:
        save(other, "one", "two")
    foreign = journal_of(tmp_path / "b", JOB).read_bytes()
    put(journal_of(root, JOB), foreign)
    put(head_of(root, JOB), head_of(tmp_path / "b", JOB).read_bytes())
    with pytest.raises(DamagedJournal, match="belongs to store"):
        again(root).list(JOB)


def test_r6_a_journal_without_its_head_is_adopted_and_says_so(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one", "two")
    manager.close()
    head_of(root, JOB).unlink()
    disk = FaultyDisk(root)
    assert steps(again(root, disk)) == ["one", "two"]
    assert repairs(again(root)) == [{"reason": "head_missing"}]
    calls = disk.of("create", "sync", "sync_folder", "append")
    told = calls.index(Call("append", "journals/etl.jsonl"))
    assert calls.index(Call("create", "heads/etl")) < told
    assert Call("sync", "heads/etl") in calls[:told]
    assert Call("sync_folder", "heads") in calls[:told]


def test_r7_a_bad_tail_without_a_head_is_damage_and_stays_so(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one", "two")
    manager.close()
    head_of(root, JOB).unlink()
    with journal_of(root, JOB).open("ab") as file:
        file.write(b'{"v":1,"torn')
    before = files(root)
    for _ in range(2):  # the first look must not leave what the second takes for S = 0
        with pytest.raises(DamagedJournal):
            again(root).list(JOB)
        with pytest.raises(DamagedJournal):
            save(again(root), "three")
    assert files(root) == before


def test_r7_it_is_still_damage_after_a_crash_in_the_middle_of_deciding(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one", "two")
    manager.close()
    head_of(root, JOB).unlink()
    overwrite(journal_of(root, JOB), journal_of(root, JOB).stat().st_size - 200, b"~")
    before = journal_of(root, JOB).read_bytes()
    for nth in range(1, 100):
        disk = FaultyDisk(root, syncs=False)
        disk.set(Fault("", nth, action=die))
        was_killed = Child(partial(look_once, root, disk)).wait() == -SIGKILL
        for look in (again(root).list, again(root).latest):
            with pytest.raises(DamagedJournal):  # I7
                look(JOB)
        assert journal_of(root, JOB).read_bytes() == before, f"died at call {nth}"
        if not was_killed:
            break


def look_once(root: Path, disk: FaultyDisk, _: object = None) -> None:
    again(root, disk).list(JOB)


def flipped(data: bytes) -> bytes:
    at = data.rindex(b'"checkpoint.saved"')
    return data[:at] + b"'" + data[at + 1 :]


def without_a_line(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:3], *lines[4:]])


def doubled(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:3], lines[2], *lines[3:]])


def swapped(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:1], *lines[3:5], *lines[1:3], *lines[5:]])


@pytest.mark.parametrize(
    "ruin",
    [
        flipped,
        without_a_line,
        doubled,
        swapped,
        lambda data: data[:-1],
        lambda data: data[:100],
        lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\n\n", 2),
        lambda data: b"\xef\xbb\xbf" + data,
    ],
    ids=RUINED_LINES,
)
def test_r8_damage_below_the_watermark_is_never_repaired(
    root: Path, manager: CheckpointManager, ruin: Callable[[bytes], bytes]
) -> None:
    save(manager, "one", "two", "three")
    journal = journal_of(root, JOB)
    put(journal, ruin(journal.read_bytes()))
    before = files(root)
    with pytest.raises(DamagedJournal) as caught:
        again(root).list(JOB)
    with pytest.raises(DamagedJournal):
        save(again(root), "four")
    assert caught.value.job_id == JOB
    assert f"byte {caught.value.offset}: expected" in str(caught.value)
    assert files(root) == before  # I7


def test_r9_an_event_s_with_another_hash_is_damage(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one", "two")
    journal = journal_of(root, JOB)
    data = journal.read_bytes()
    *before, last = data.splitlines(keepends=True)
    rewritten = forged(
        last_hash(b"".join(before[:3])), **{**orjson.loads(last), "actor": "lib:x@hos"}
    )
    assert rewritten != last
    put(journal, b"".join(before) + rewritten)
    with pytest.raises(DamagedJournal):
        again(root).list(JOB)
    put(journal, data)
    head = read_head(root, JOB)
    write_head(root, JOB, head._replace(shown=head.shown._replace(hash="0" * 64)))
    with pytest.raises(DamagedJournal):
        save(again(root), "three")


def test_r10_a_clean_job_is_left_as_it_is(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one", "two")
    before = files(root)
    with again(root) as reader:
        assert steps(reader) == ["one", "two"]
        assert reader.verify(JOB, deep=True)[0].ok
    assert files(root) == before


def test_r11_whole_writes_beyond_the_head_are_kept_and_synced_before_they_show(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    with unacknowledged(root):
        ids = save(manager, "two", "three")
        manager.cleanup(JOB, keep_last=1)
    disk = FaultyDisk(root)
    with again(root, disk) as reader:
        assert steps(reader) == ["three"]  # I1
        assert repairs(reader) == []
        assert reader.get(JOB, ids[1]).state == {"step": "three"}
    tried = disk.calls.index(Call("lock", "heads/etl"))
    wanted = {Call(op, "journals/etl.jsonl") for op in ("read", "sync", "drop_cache")}
    wanted.add(Call("pwrite", "heads/etl"))
    order = [c.operation for c in disk.calls[tried:] if c in wanted]
    synced = order.index("sync")
    assert order[synced : synced + 4] == ["sync", "drop_cache", "read", "pwrite"]
    assert read_head(root, JOB).shown.size == journal_of(root, JOB).stat().st_size


def test_r11_what_only_the_page_cache_has_is_never_shown(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    with unacknowledged(root):
        save(manager, "two")
    journal = journal_of(root, JOB)
    size = read_head(root, JOB).shown.size
    lost = bytes(journal.stat().st_size - size)
    disk = FaultyDisk(root)
    disk.set(Fault("drop_cache", action=lambda: overwrite(journal, size, lost)))
    assert steps(again(root, disk)) == ["one"]
    assert read_head(root, JOB).shown.size == size


@pytest.mark.parametrize("saved", [["two"], ["two", "three"]])
def test_r12_a_last_line_that_misses_only_its_newline_is_finished(
    root: Path, manager: CheckpointManager, saved: list[str]
) -> None:
    save(manager, "one")
    with unacknowledged(root):
        save(manager, *saved)
    journal = journal_of(root, JOB)
    whole = journal.read_bytes()
    put(journal, whole[:-1])
    with again(root) as reader:
        assert steps(reader) == ["one", *saved]
        save(reader, "next")
        assert steps(reader) == ["one", *saved, "next"]
    assert journal.read_bytes().startswith(whole)
    assert salvage_files(root) == {}


def test_r13_damage_before_a_later_write_is_rot_and_not_torn(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    start = journal_of(root, JOB).stat().st_size
    with unacknowledged(root):
        save(manager, "two", "three")
    overwrite(journal_of(root, JOB), start + 30, b"~")
    before = files(root)
    with pytest.raises(DamagedJournal):
        again(root).list(JOB)
    with pytest.raises(DamagedJournal):
        save(again(root), "four")
    assert files(root) == before  # I7


def pair(data: bytes) -> tuple[bytes, bytes]:
    state, event, _ = data.split(b"\n")
    return state + b"\n", event + b"\n"


def resealed(state: bytes, old: bytes, new: bytes) -> bytes:
    """Return a state line with another text in it and the checksum that fits."""
    body = state.replace(old, new)[: -len(b',"crc":"01234567"}\n')]
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


TAILS: dict[str, Callable[[bytes], bytes]] = {
    "mid-json": lambda tail: tail[: len(tail) - 30],
    "mid-utf8": lambda tail: tail[: tail.index("é".encode()) + 1],
    "one byte": lambda tail: tail[:1],
    "nuls": lambda tail: bytes(len(tail)),
    "long nuls": lambda tail: tail[:40] + bytes(5000),
    "stale text": lambda tail: tail[:100] + b"old text " * 20 + tail[280:],
    "state without event": lambda tail: pair(tail)[0],
    "event without state": lambda tail: pair(tail)[1],
    "rotten state": lambda tail: tail.replace(b'"two"', b'"owt"', 1),
    "wrong digest": lambda tail: (
        resealed(pair(tail)[0], b'"two"', b'"owt"') + pair(tail)[1]
    ),
    "junk behind": lambda tail: tail[:-1] + b"}\n",
    "crlf": lambda tail: tail.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("tear", TAILS.values(), ids=TAILS.keys())
def test_r14_a_torn_tail_is_kept_aside_cut_and_told(
    root: Path, manager: CheckpointManager, tear: Callable[[bytes], bytes]
) -> None:
    save(manager, "one")
    size = journal_of(root, JOB).stat().st_size
    with unacknowledged(root):
        manager.save(JOB, "café", {"step": "two"})
    journal = journal_of(root, JOB)
    torn = tear(journal.read_bytes()[size:])
    put(journal, journal.read_bytes()[:size] + torn)
    with again(root) as reader:
        assert steps(reader) == ["one"]
        save(reader, "three")
        assert steps(reader) == ["one", "three"]
        ((name, kept),) = salvage_files(root).items()
        assert kept == torn
        (told,) = repairs(reader)
        assert told == {
            "reason": "torn_tail",
            "offset": size,
            "cut_bytes": len(torn),
            "salvage_file": name,
        }


@pytest.mark.parametrize("members", [1, 2])
def test_r14_a_batch_with_members_missing_is_cut_whole(
    root: Path, manager: CheckpointManager, members: int
) -> None:
    save(manager, "one")
    data = journal_of(root, JOB).read_bytes()
    prev, batch = last_hash(data), b""
    for seq in (3, 4, 5):
        batch += forged(prev, seq=seq, type="test.noted", span=[3, 5])
        prev = last_hash(batch)
    torn = b"".join(batch.splitlines(keepends=True)[:members])
    put(journal_of(root, JOB), data + torn)
    with again(root) as reader:
        types = [e["type"] for e in reader.history(JOB)]
        assert types == ["job.opened", "checkpoint.saved", "job.repaired"]
    assert [*salvage_files(root).values()] == [torn]


def test_r14_the_salvage_file_is_durable_before_the_cut(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    with journal_of(root, JOB).open("ab") as file:
        file.write(b"torn")
    disk = FaultyDisk(root)
    assert steps(again(root, disk)) == ["one"]
    told = disk.of("append", "sync", "rename", "sync_folder", "truncate", "pwrite")
    first = told.index(Call("append", "salvage/etl.tmp"))
    (name,) = salvage_files(root)
    assert told[first : first + 7] == [
        Call("append", "salvage/etl.tmp"),
        Call("sync", "salvage/etl.tmp"),
        Call("rename", f"salvage/{name}"),
        Call("sync_folder", "salvage"),
        Call("truncate", "journals/etl.jsonl"),
        Call("sync", "journals/etl.jsonl"),
        Call("pwrite", "heads/etl"),
    ]
    assert told[first + 7] == Call("append", "journals/etl.jsonl")  # job.repaired


@pytest.mark.parametrize("expected_seq", [None, 0])
def test_r14_a_first_write_that_was_torn_is_written_again(
    root: Path, manager: CheckpointManager, expected_seq: int | None
) -> None:
    save(manager, "one")
    torn = journal_of(root, JOB).read_bytes()[:-40]
    put(journal_of(root, JOB), torn)
    put(head_of(root, JOB), bytes(FILE_BYTES))
    with again(root) as writer:
        assert writer.list(JOB) == []
        writer.save(JOB, "two", {}, expected_seq=expected_seq)  # it is a new job
        types = [e["type"] for e in writer.history(JOB)]
    assert types == ["job.opened", "job.repaired", "checkpoint.saved"]
    assert [*salvage_files(root).values()] == [torn]


def cut(root: Path, size: int) -> None:
    put(journal_of(root, JOB), journal_of(root, JOB).read_bytes()[:size])


def lose_all(root: Path) -> None:
    cut(root, read_head(root, JOB).synced.size)


def lose_a_whole_write(root: Path) -> None:
    cut(root, journal_of(root, JOB).read_bytes().rindex(b'{"state":'))


def lose_part_of_a_write(root: Path) -> None:
    cut(root, journal_of(root, JOB).stat().st_size - 30)


def lose_to_nuls(root: Path) -> None:
    data, synced = journal_of(root, JOB).read_bytes(), read_head(root, JOB).synced.size
    put(journal_of(root, JOB), data[:synced] + bytes(len(data) - synced))


def lose_a_middle_write(root: Path) -> None:
    data = bytearray(journal_of(root, JOB).read_bytes())
    middle = data.rindex(b'{"state":4')
    data[middle : middle + 60] = bytes(60)
    put(journal_of(root, JOB), bytes(data))


@pytest.mark.parametrize("durability", MODES)
@pytest.mark.parametrize(
    ("lose", "left"),
    [
        (lose_all, 1),
        (lose_a_whole_write, 3),
        (lose_part_of_a_write, 3),
        (lose_to_nuls, 1),
        (lose_a_middle_write, 2),
    ],
)
def test_r14_a_power_cut_says_how_many_unsynced_events_it_took(
    root: Path, durability: Durability, lose: Callable[[Path], None], left: int
) -> None:
    storage = FileStorage(root, durability=durability, interval_seconds=600)
    names = ["one", "two", "three", "four"]
    save(CheckpointManager(storage=storage), *names)
    lose(root)
    with CheckpointManager(root, durability=durability) as survivor:
        save(survivor, "next")
        assert steps(survivor) == [*names[:left], "next"]
        assert [r.get("lost_events") for r in repairs(survivor)] == [4 - left]


def lose_a_state(root: Path) -> None:
    """Lose the last one; its event line is whole."""
    data = bytearray(journal_of(root, JOB).read_bytes())
    state = data.rindex(b'{"state":')
    data[state : state + 16] = b'{"stale":"line o'
    put(journal_of(root, JOB), bytes(data))


@pytest.mark.parametrize("durability", MODES)
@pytest.mark.parametrize(
    ("lose", "left"), [(lose_all, 1), (lose_a_state, 2), (lose_part_of_a_write, 2)]
)
def test_r14_a_reader_alone_reports_the_loss_as_well(
    root: Path, durability: Durability, lose: Callable[[Path], None], left: int
) -> None:
    storage = FileStorage(root, durability=durability, interval_seconds=600)
    names = ["one", "two", "three"]
    save(CheckpointManager(storage=storage), *names)
    lose(root)
    with again(root) as reader:
        assert steps(reader) == names[:left]  # I4
        assert [r.get("lost_events") for r in repairs(reader)] == [3 - left]


def test_r14_a_reader_in_the_know_sees_a_state_that_a_power_cut_took(
    root: Path,
) -> None:
    save(again(root), "one")
    reader = again(root)
    assert steps(reader) == ["one"]
    storage = FileStorage(root, durability="interval", interval_seconds=600)
    save(CheckpointManager(storage=storage), "two")
    lose_a_state(root)
    assert steps(reader) == ["one"]  # I4: nothing that will vanish is shown


def test_r16_a_slot_that_is_torn_is_filled_before_the_other_is_overwritten(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one", "two")
    good = read_head(root, JOB)
    data = bytearray(head_of(root, JOB).read_bytes())
    data[slot_offset(good.writing + 1) + 40] ^= 1
    put(head_of(root, JOB), bytes(data))
    disk = FaultyDisk(root)
    save(again(root, disk), "three")
    calls = disk.of("pwrite", "sync")
    sync = Call("sync", "heads/etl")
    assert calls[:3] == [sync, Call("pwrite", "heads/etl"), sync]  # I1
    assert steps(again(root)) == ["one", "two", "three"]


def test_r16_the_first_slots_may_not_be_durable_yet_whoever_wrote_them(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")  # and may have died before it synced the head
    assert read_head(root, JOB).writing == SLOTS
    disk = FaultyDisk(root)
    save(again(root, disk), "two")
    first, second = disk.of("append", "sync")[:2]
    assert (first, second.operation) == (Call("sync", "heads/etl"), "append")  # I1


def test_r15_a_repair_that_nobody_told_is_told_by_the_next_write(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    with journal_of(root, JOB).open("ab") as file:
        file.write(b"torn")
    disk = FaultyDisk(root)
    disk.set(Fault("append", on="journals/etl", action=die))
    Child(partial(look_once, root, disk)).wait()
    assert repairs(again(root)) == []
    (name,) = salvage_files(root)
    save(again(root), "two")
    save(again(root), "three")
    assert [r["salvage_file"] for r in repairs(again(root))] == [name]


def test_r15_a_writer_that_was_there_before_tells_it_too(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    with journal_of(root, JOB).open("ab") as file:
        file.write(b"torn")
    disk = FaultyDisk(root)
    disk.set(Fault("append", on="journals/etl", action=die))
    Child(partial(look_once, root, disk)).wait()
    save(manager, "two")
    assert len(repairs(manager)) == 1


@pytest.mark.parametrize("name", ["journals/etl.tmp", "salvage/etl.tmp"])
def test_r16_leftovers_of_a_rewrite_go_at_the_first_write(
    root: Path, manager: CheckpointManager, name: str
) -> None:
    save(manager, "one")
    (root / "salvage").mkdir(exist_ok=True)
    (root / name).write_bytes(b"half of a rewrite, with a state in it")
    other = root / name.replace("etl", "other")
    other.write_bytes(b"another job may be writing this now")
    save(again(root), "two")
    assert not (root / name).exists()  # I9
    assert other.exists()


@pytest.mark.parametrize("drop", [(), (2,)])
def test_r17_a_rewritten_journal_is_not_damage_and_gets_its_head_back(
    root: Path, manager: CheckpointManager, drop: tuple[int, ...]
) -> None:
    ids = save(manager, "one", "two")
    manager.delete(JOB, ids[0])
    journal = journal_of(root, JOB)
    replace(journal, compacted(journal.read_bytes(), *drop))
    for reader in (manager, again(root)):  # one that was there before, and a new one
        assert steps(reader) == ["two"]
        assert reader.get(JOB, ids[1]).state == {"step": "two"}  # I5
    save(manager, "three")
    head = read_head(root, JOB)
    assert (head.shown.size, head.inode) == (
        journal.stat().st_size,
        journal.stat().st_ino,
    )
    assert steps(again(root)) == ["two", "three"]


def test_r17_a_rewrite_that_misses_event_s_is_damage(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one", "two")
    journal = journal_of(root, JOB)
    replace(journal, journal.read_bytes()[: -len(journal.read_bytes()) // 3])
    with pytest.raises(DamagedJournal):
        again(root).list(JOB)


def pair_of(data: bytes, seq: int) -> tuple[bytes, bytes]:
    start = data.index(b'{"state":%d,' % seq)
    state, event, *_ = data[start:].splitlines(keepends=True)
    return state, event


def rotten(data: bytes) -> bytes:
    return data.replace(b'{"step":"one"}', b'{"step":"eno"}')


def exchanged(data: bytes) -> bytes:
    """Replace a state by another whose own checksum is right."""
    state, _ = pair_of(data, 2)
    return data.replace(state, resealed(state, b'"one"', b'"eno"'))


def compacted(data: bytes, *seqs: int) -> bytes:
    """Return the journal without the state lines of `seqs`: a compaction by hand."""
    gone = tuple(b'{"state":%d,' % seq for seq in seqs)
    lines = data.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(gone))


@pytest.mark.parametrize(
    "ruin", [rotten, exchanged, lambda data: compacted(data, 2)], ids=RUINED_STATES
)
def test_r18_an_unreadable_state_is_refused_and_no_older_one_is_given(
    root: Path, manager: CheckpointManager, ruin: Callable[[bytes], bytes]
) -> None:
    (one,) = save(manager, "one")
    replace(journal_of(root, JOB), ruin(journal_of(root, JOB).read_bytes()))
    with again(root) as reader:
        for read in (reader.restore, reader.get):
            with pytest.raises(UnreadableState, match=one):
                read(JOB, one)
        assert not reader.verify(JOB, deep=True)[0].ok


@pytest.mark.parametrize("ruin", [rotten, lambda data: compacted(data, 2)])
def test_r18_a_state_that_rotted_stops_every_write(
    root: Path, manager: CheckpointManager, ruin: Callable[[bytes], bytes]
) -> None:
    one, _ = save(manager, "one", "two")
    replace(journal_of(root, JOB), ruin(journal_of(root, JOB).read_bytes()))
    with pytest.raises(DamagedJournal, match=one):
        save(again(root), "three")


def test_r18_a_rotten_state_never_answers_with_other_metadata(
    root: Path, manager: CheckpointManager
) -> None:
    manager.save(JOB, "one", {}, metadata={"who": "me"})
    journal = journal_of(root, JOB)
    put(journal, journal.read_bytes().replace(b'"who":"me"', b'"who":"yo"'))
    with pytest.raises(MilepostError):
        again(root).list(JOB)
    with pytest.raises(MilepostError):
        again(root).latest(JOB)


@pytest.mark.parametrize("has_head", [True, False])
def test_r19_a_deleted_checkpoint_without_its_state_is_no_damage(
    root: Path, manager: CheckpointManager, has_head: bool
) -> None:
    one, two = save(manager, "one", "two")
    manager.delete(JOB, one)
    manager.close()
    journal = journal_of(root, JOB)
    replace(journal, compacted(journal.read_bytes(), 2))
    if not has_head:
        head_of(root, JOB).unlink()  # copied after its compaction: R6
    with again(root) as writer:
        assert steps(writer) == ["two"]
        assert writer.get(JOB, two).state == {"step": "two"}  # I5
        assert writer.verify(JOB, deep=True)[0].ok
        save(writer, "three")
        assert steps(writer) == ["two", "three"]


def acknowledge(root: Path, line: bytes) -> None:
    """Append `line` by hand and let the head know it, as whoever wrote it would."""
    journal = journal_of(root, JOB)
    put(journal, journal.read_bytes() + line)
    size, seq = journal.stat().st_size, orjson.loads(line.splitlines()[-1])["seq"]
    extent = Extent(seq, last_hash(line), size)
    head = read_head(root, JOB)
    write_head(
        root,
        JOB,
        Head(head.writing + 1, extent, journal.stat().st_ino, synced=extent),
    )


def test_r20_an_unknown_type_is_kept_chained_and_ignored(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    prev = last_hash(journal_of(root, JOB).read_bytes())
    line = forged(prev, seq=3, type="workflow.paused", data={"why": ["?"]})
    acknowledge(root, line)
    with again(root) as writer:
        save(writer, "two")
        assert steps(writer) == ["one", "two"]
        types = [str(e["type"]) for e in writer.history(JOB)]
        assert types[2:] == ["workflow.paused", "checkpoint.saved"]
    assert line in journal_of(root, JOB).read_bytes()  # I4


def test_r20_a_state_of_an_unknown_type_is_kept_as_well(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    data = journal_of(root, JOB).read_bytes()
    state = resealed(pair_of(data, 2)[0], b'"state":2', b'"state":3')
    acknowledge(root, state + forged(last_hash(data), seq=3, type="state.imported"))
    with again(root) as writer:
        assert steps(writer) == ["one"]
        save(writer, "two")
        assert steps(writer) == ["one", "two"]


@pytest.mark.parametrize("tail", [b"", b'{"v":2,"torn'])
def test_r20_a_newer_schema_is_read_only_and_says_why(
    root: Path, manager: CheckpointManager, tail: bytes
) -> None:
    save(manager, "one")
    prev = last_hash(journal_of(root, JOB).read_bytes())
    acknowledge(root, forged(prev, v=2, seq=3, type="checkpoint.saved"))
    journal = journal_of(root, JOB)
    put(journal, journal.read_bytes() + tail)
    before = journal.read_bytes()
    with again(root) as reader:
        with pytest.raises(NewerFormat, match="newer Milepost"):
            reader.list(JOB)
        with pytest.raises(NewerFormat, match="newer Milepost"):
            save(reader, "two")
        assert len(reader.history(JOB)) == 3
    assert journal.read_bytes() == before


@pytest.mark.parametrize("is_writer_first", [True, False])
def test_r23_a_removal_that_is_cut_at_any_call_is_none_or_is_completed(
    tmp_path: Path, is_writer_first: bool
) -> None:
    seen = set()
    for nth in range(1, 200):
        root = tmp_path / str(nth)
        save(again(root), "one", "two")
        put(journal_of(root, JOB), journal_of(root, JOB).read_bytes() + b"torn")
        steps(again(root))
        disk = FaultyDisk(root, syncs=False)
        job = FileStorage(root, disk=disk).job(JOB)
        with suppress(MilepostError, OSError), job.hold() as held:
            fault = disk.fail("", nth)
            held.remove(Removal(held.position.last, "now", "me"))
        after = again(root)
        if not is_writer_first:
            assert steps(after) in ([], ["one", "two"])
        save(after, "three")
        found = steps(after)
        assert found in (["three"], ["one", "two", "three"]), nth
        is_removed = found == ["three"]
        is_clean = not [*(root / "salvage").iterdir()]
        assert is_clean == is_removed, nth  # I9
        assert after.verify(JOB, deep=True)[0].ok
        assert after.diagnose(JOB)[0].verdict.value == "sound"
        seen.add(is_removed)
        if not fault.has_fired:
            break
    assert is_removed
    assert seen == {True, False}


def test_r20_a_head_of_a_newer_format_is_refused_by_name(
    root: Path, manager: CheckpointManager
) -> None:
    save(manager, "one")
    manager.save("other", "one", {})
    body = b'{"head":2,"extents":[[0,9]]'.ljust(SLOT_BYTES - 19)
    slot = b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    put(head_of(root, JOB), slot + slot)
    with pytest.raises(NewerFormat):
        again(root).list(JOB)
    assert [info.job_id for info in again(root).jobs()] == [JOB, "other"]  # I10
