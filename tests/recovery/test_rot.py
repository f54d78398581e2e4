"""Every byte of a small journal goes bad, in every way: refused aloud or kept aside."""

from __future__ import annotations

import random
import shutil
import zlib
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import DamagedJournal, MilepostError
from milepost.journal.storage.files.recovery.head import SLOT_BYTES
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import FaultyDisk, forged, head_of, journal_of, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.tally import Tally

JOB = "etl"
SLOW = pytest.mark.slow
MASKS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF)


def fresh(root: Path) -> CheckpointManager:
    """Open the store anew; nothing but bytes is at stake, so nothing is synced."""
    return CheckpointManager(
        storage=FileStorage(root, disk=FaultyDisk(root, syncs=False))
    )


def damage_of(manager: CheckpointManager) -> str | None:
    """Return the code of the first job's damage."""
    damage = manager.jobs()[0].damage
    return damage and damage.code


def ask(question: Callable[[], Any]) -> Any:
    """Return an answer, or the kind of refusal; anything else is a crash."""
    try:
        return question()
    except MilepostError as exc:
        return type(exc)


class Small(NamedTuple):
    """A small store, and what it answers while it is sound."""

    root: Path
    journal: bytes
    head: bytes
    truth: dict[str, Any]
    trash: range  # bytes that only a deleted checkpoint needs

    @property
    def files(self) -> tuple[Path, Path]:
        return journal_of(self.root, JOB), head_of(self.root, JOB)

    def unchanged(self, data: bytes) -> bool:
        journal, head = self.files
        return journal.read_bytes() == data and head.read_bytes() == self.head


def answers(manager: CheckpointManager, ids: list[str]) -> dict[str, Any]:
    """Return everything that a reader can be told about the job."""
    asked: dict[str, Callable[[], Any]] = {
        "list": lambda: manager.list(JOB),
        "latest": lambda: manager.latest(JOB),
        "current": lambda: manager.current(JOB),
        "history": lambda: manager.history(JOB),
    }
    asked |= {id_: partial(manager.get, JOB, id_) for id_ in ids}
    found = {}
    for name, question in asked.items():
        found[name] = ask(question)
        if found[name] is DamagedJournal:
            break  # the whole job is quarantined: what is asked then makes no odds
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("rot") / "store"
    manager = CheckpointManager(root)
    one = manager.save(JOB, "one", {"n": 1})
    two = manager.save(JOB, "two", {"n": 2}, metadata={"who": "me"}, tags=["t"])
    manager.delete(JOB, one, reason="old")
    manager.pin(JOB, two)
    manager.save(JOB, "three", {"n": 3}, idempotency_key="k")
    manager.restore(JOB, two)
    manager.close()
    data = journal_of(root, JOB).read_bytes()
    start = data.index(b'{"state":2')
    truth = answers(fresh(root), [one, two])
    trash = range(start, data.index(b"\n", start))
    return Small(root, data, head_of(root, JOB).read_bytes(), truth, trash)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A store of compressed states that are told from each other, compacted once."""
    root = tmp_path_factory.mktemp("packed") / "store"
    shared = random.Random(1).randbytes(1024).hex()  # less stays JSON
    with CheckpointManager(root, trash_seconds=0) as manager:
        ids = [manager.save(JOB, "s", {"n": n, "text": shared}) for n in range(3)]
        manager.cleanup(JOB, keep_last=2)
        manager.compact(JOB)
        ids.append(manager.save(JOB, "s", {"n": 3, "text": shared}))
    data = journal_of(root, JOB).read_bytes()
    assert b'"codec":"zstd-delta"' in data
    assert b'"type":"job.compacted"' in data
    truth = answers(fresh(root), ids)
    return Small(root, data, head_of(root, JOB).read_bytes(), truth, range(0))


def survey(small: Small, data: bytes) -> str | None:
    """Put `data` in the journal's place; return what is wrong with the answers."""
    put(small.files[0], data)
    manager = fresh(small.root)
    try:
        found = answers(manager, [*small.truth][4:])
        for name, answer in found.items():
            if answer != small.truth[name] and not isinstance(answer, type):
                return f"{name} answers {answer}"
        if found == small.truth and manager.verify(JOB, deep=True)[0].ok:
            return "nobody noticed"
        return None if small.unchanged(data) else "the files were changed"
    finally:
        put(small.files[0], small.journal)
        put(small.files[1], small.head)
        shutil.rmtree(small.root / "salvage", ignore_errors=True)


def every_bad_byte(
    small: Small, damaged: Callable[[bytes, int], bytes], every: int = 1
) -> Iterator[tuple[int, str]]:
    for offset in range(0, len(small.journal), every):
        data = damaged(small.journal, offset)
        problem = survey(small, data) if data != small.journal else None
        is_trash = offset in small.trash and problem == "nobody noticed"
        if problem is not None and not is_trash:
            yield offset, problem


@pytest.mark.parametrize(
    ("mask", "every"),
    [(0x80, 4), *(pytest.param(mask, 1, marks=SLOW) for mask in MASKS)],
)
def test_a_flip_of_any_acknowledged_byte_is_refused_aloud(
    small: Small, mask: int, every: int, tally: Tally
) -> None:
    def flip(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]

    assert [*every_bad_byte(small, flip, every)] == []  # I7
    tally("flipped bytes", len(small.journal) // every)


@SLOW
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_flip_of_any_byte_of_a_compacted_journal_is_refused_aloud(
    packed: Small, mask: int, tally: Tally
) -> None:
    def flip(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]

    assert [*every_bad_byte(packed, flip)] == []  # I7
    tally("flipped bytes", len(packed.journal))


def refusal(small: Small, data: bytes) -> DamagedJournal | None:
    """Return why a save is refused with `data` in the journal's place."""
    put(small.files[0], data)
    try:
        fresh(small.root).save(JOB, "four", {})
    except DamagedJournal as exc:
        return exc
    finally:
        put(small.files[0], small.journal)
        put(small.files[1], small.head)
    return None


@SLOW
def test_a_refusal_names_the_line_and_where_the_bad_byte_lies(small: Small) -> None:
    start = 0
    for number, line in enumerate(small.journal.splitlines(keepends=True), 1):
        for offset in {*range(start, start + len(line))} - {*small.trash}:
            data = bytearray(small.journal)
            data[offset] ^= 0x01
            refused = refusal(small, bytes(data))
            assert refused is not None, f"byte {offset}"
            assert (refused.line, refused.offset) == (number, start), f"byte {offset}"
        start += len(line)


@SLOW
def test_a_refusal_of_a_cut_journal_names_where_it_ends(small: Small) -> None:
    for size in range(1, len(small.journal)):
        refused = refusal(small, small.journal[:size])
        assert refused is not None
        assert refused.offset == size
        assert refused.line == small.journal[:size].count(b"\n") + 1
        assert f"{len(small.journal)} bytes" in refused.expected


def test_a_store_that_lost_its_journals_has_no_new_jobs(small: Small) -> None:
    journals = small.root / "journals"
    journals.rename(small.root / "elsewhere")
    try:
        for question in (
            lambda: fresh(small.root).list(JOB),
            lambda: fresh(small.root).save(JOB, "one", {}),
        ):
            with pytest.raises(DamagedJournal, match="no journal"):
                question()
        assert damage_of(fresh(small.root)) == "damaged"
    finally:
        (small.root / "elsewhere").rename(journals)


@SLOW
def test_any_acknowledged_byte_that_is_missing_is_refused_aloud(small: Small) -> None:
    def drop(data: bytes, at: int) -> bytes:
        return data[:at] + data[at + 1 :]

    assert [*every_bad_byte(small, drop)] == []


@SLOW
def test_a_byte_too_many_among_the_acknowledged_is_refused_aloud(small: Small) -> None:
    def insert(data: bytes, at: int) -> bytes:
        # Before the last newline, another one is the same as one behind it.
        more = b"\n" if at < len(data) - 1 else b" "
        return data[:at] + more + data[at:]

    assert [*every_bad_byte(small, insert)] == []  # and what follows is never cut: I7


@SLOW
def test_a_run_of_nuls_anywhere_is_refused_aloud(small: Small) -> None:
    def erase(data: bytes, at: int) -> bytes:
        return (data[:at] + bytes(64) + data[at + 64 :])[: len(data)]

    assert [*every_bad_byte(small, erase)] == []


@SLOW
def test_a_journal_cut_at_any_acknowledged_byte_is_damage(
    small: Small, tally: Tally
) -> None:
    for size in range(len(small.journal)):
        data = small.journal[:size]
        put(small.files[0], data)
        manager = fresh(small.root)
        with pytest.raises(DamagedJournal):
            manager.list(JOB)
        with pytest.raises(DamagedJournal):
            manager.save(JOB, "four", {})
        assert damage_of(manager) == "damaged"
        assert small.unchanged(data)
    put(small.files[0], small.journal)
    tally("journals cut short", len(small.journal))


@SLOW
@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_a_flip_of_any_byte_of_the_head_loses_nothing(small: Small, mask: int) -> None:
    for offset in range(len(small.head)):
        data = bytearray(small.head)
        data[offset] ^= mask
        put(small.files[1], bytes(data))
        found = answers(fresh(small.root), [*small.truth][4:])
        assert found == small.truth, f"byte {offset} of the head"
        assert small.files[0].read_bytes() == small.journal
    put(small.files[1], small.head)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=SLOW)])
def test_a_head_cut_at_any_byte_loses_nothing(small: Small, every: int) -> None:
    for size in range(0, len(small.head), every):
        put(small.files[1], small.head[:size])
        assert answers(fresh(small.root), [*small.truth][4:]) == small.truth
    put(small.files[1], small.head)


def test_a_head_that_lost_its_end_still_guards_with_the_slot_that_is_left(
    small: Small,
) -> None:
    for size in (512, 600, 1023):
        put(small.files[1], small.head[:size])
        put(small.files[0], small.journal[:800])
        with pytest.raises(DamagedJournal):
            fresh(small.root).save(JOB, "four", {})
        with pytest.raises(DamagedJournal):
            fresh(small.root).list(JOB)
        assert small.files[0].read_bytes() == small.journal[:800]  # I7
    put(small.files[0], small.journal)
    put(small.files[1], small.head)


# -- beyond the watermark --------------------------------------------------------------


class Tail(NamedTuple):
    """A journal with unacknowledged writes behind an acknowledged start."""

    root: Path
    start: bytes
    head: bytes
    writes: list[bytes]

    def settle(self, tail: bytes) -> CheckpointManager:
        """Let `tail` be what a crash left; return a reader that has looked at it."""
        journal = journal_of(self.root, JOB)
        put(journal, self.start + tail)
        put(head_of(self.root, JOB), self.head)
        shutil.rmtree(self.root / "salvage", ignore_errors=True)
        return fresh(self.root)

    def kept_aside(self) -> bytes:
        salvage = self.root / "salvage"
        found = [*salvage.iterdir()] if salvage.exists() else []
        assert len(found) <= 1
        return found[0].read_bytes() if found else b""


@pytest.fixture(scope="module")
def tail(tmp_path_factory: pytest.TempPathFactory) -> Tail:
    root = tmp_path_factory.mktemp("tail") / "store"
    manager = CheckpointManager(root)
    manager.save(JOB, "one", {"n": 1})
    journal, head = journal_of(root, JOB), head_of(root, JOB).read_bytes()
    ends = [journal.stat().st_size]
    for step in ("two", "three"):
        manager.save(JOB, step, {"n": step})
        ends.append(journal.stat().st_size)
    manager.close()
    data = journal.read_bytes()
    writes = [data[a:b] for a, b in pairwise(ends)]
    return Tail(root, data[: ends[0]], head, writes)


def steps(manager: CheckpointManager) -> list[str]:
    return [info.step_name for info in manager.list(JOB)]


def told(manager: CheckpointManager) -> list[Any]:
    repaired = manager.history(JOB, types={"job.repaired"})
    return [event["data"] for event in repaired]


@SLOW
@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_a_flip_in_the_last_write_cuts_that_write_into_a_salvage_file(
    tail: Tail, mask: int
) -> None:
    write = tail.writes[0]
    for offset in range(len(write)):
        torn = write[:offset] + bytes([write[offset] ^ mask]) + write[offset + 1 :]
        reader = tail.settle(torn)
        assert steps(reader) == ["one"], f"byte {offset}"
        assert tail.kept_aside() == torn
        assert [r["cut_bytes"] for r in told(reader)] == [len(torn)]
        assert reader.verify(JOB, deep=True)[0].ok


def test_a_flip_in_a_write_before_the_last_is_damage_and_cuts_nothing(
    tail: Tail,
) -> None:
    first, second = tail.writes
    for offset in range(len(first)):
        torn = bytearray(first + second)
        torn[offset] ^= 0x01
        reader = tail.settle(bytes(torn))
        with pytest.raises(DamagedJournal):  # it was synced once: rot, not torn
            reader.list(JOB)
        assert journal_of(tail.root, JOB).read_bytes() == tail.start + torn
        assert tail.kept_aside() == b""


@SLOW
def test_a_tail_cut_at_any_byte_keeps_exactly_its_whole_writes(tail: Tail) -> None:
    whole = b"".join(tail.writes)
    for size in range(len(whole) + 1):
        reader = tail.settle(whole[:size])
        # A line that misses only its newline is whole.
        count = sum(size >= len(whole[:end]) - 1 for end in ends(tail))
        assert steps(reader) == ["one", "two", "three"][: 1 + count], f"byte {size}"
        kept = len(whole[: ends(tail)[count - 1]]) if count else 0
        assert tail.kept_aside() == whole[kept:size]
        assert len(told(reader)) == (size > kept)


def ends(tail: Tail) -> list[int]:
    first, second = map(len, tail.writes)
    return [first, first + second]


# -- one job's damage and the others ---------------------------------------------------


def missing(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    put(path, b"")


def garbled(path: Path) -> None:
    put(path, b"\xff\x00 no journal \n" * 99)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_instead(path: Path) -> None:
    moved = path.parents[1] / "moved"
    path.rename(moved)
    path.symlink_to(moved)


def newer(path: Path) -> None:
    body = b'{"head":2'.ljust(SLOT_BYTES - 19)
    put(path, b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body)) * 2)


def strange_event(path: Path) -> None:
    opened = {"store": "s", "job": [], "nonce": {}}
    put(path, forged("", seq=1, type="job.opened", data=opened))


def no_data(path: Path) -> None:
    put(path, forged("", seq=1, type="job.opened", data=5))


RUINS = [
    *((journal_of, ruin) for ruin in (missing, emptied, garbled, folder_instead)),
    *((journal_of, ruin) for ruin in (link_instead, strange_event, no_data)),
    *((head_of, ruin) for ruin in (folder_instead, link_instead, newer)),
]


@pytest.mark.parametrize("job_id", [JOB, "é" * 200], ids=["short", "cut name"])
@pytest.mark.parametrize(("file_of", "ruin"), RUINS)
def test_one_damaged_job_never_stops_another(
    root: Path,
    file_of: Callable[[Path, str], Path],
    ruin: Callable[[Path], None],
    job_id: str,
) -> None:
    with CheckpointManager(root) as manager:
        manager.save(job_id, "one", {})
        good = manager.save("good", "one", {"n": 1})
    ruin(file_of(root, job_id))
    reader = fresh(root)
    assert reader.get("good", good).state == {"n": 1}  # I10
    assert reader.find(good).job_id == "good"
    reader.save("good", "two", {})
    reader.refresh()
    damage = {info.job_id: info.damage for info in reader.jobs()}
    assert damage.pop("good") is None
    assert damage  # neither forgotten nor a new job
    assert None not in damage.values()
    assert [report.ok for report in reader.verify()].count(False) == 1
    assert isinstance(ask(lambda: reader.list(job_id)), type)
    assert isinstance(ask(lambda: reader.save(job_id, "two", {})), type)


@pytest.mark.parametrize(
    "name",
    [
        *(b"\xff.jsonl", b".jsonl", b"%0A.jsonl", b"%ZZ.jsonl", b"a~b.jsonl"),
        *(b"notes.txt", b"good.jsonl.bak", b"good.tmp", b"a b.jsonl"),
        *(b"\xe2\x80\xae.jsonl", b"%61.jsonl", b"x.1.abc.def"),
    ],
)
@pytest.mark.parametrize("folder", ["journals", "heads", "salvage"])
def test_a_stray_file_stops_nothing(root: Path, folder: str, name: bytes) -> None:
    with CheckpointManager(root) as manager:
        manager.save("good", "one", {})
    (root / "salvage").mkdir(exist_ok=True)
    stray = bytes(root / folder) + b"/" + name
    with open(stray, "wb") as file:  # noqa: PTH123 - no path object holds such a name
        file.write(b"not ours")
    reader = fresh(root)
    reader.save("good", "two", {})
    assert "good" in {info.job_id for info in reader.jobs() if info.damage is None}
    assert steps_of(reader, "good") == ["one", "two"]
    reader.verify()
    reader.refresh()


def steps_of(manager: CheckpointManager, job_id: str) -> list[str]:
    return [info.step_name for info in manager.list(job_id)]


def test_a_salvage_file_with_a_foreign_name_stops_nothing(root: Path) -> None:
    with CheckpointManager(root) as manager:
        manager.save("good", "one", {})
    (root / "salvage").mkdir()
    for name in ("good.x.0.abc", "good.1.y.abc", "good.1.0", "good"):
        (root / "salvage" / name).write_bytes(b"not ours")
    reader = fresh(root)
    reader.save("good", "two", {})
    assert steps_of(reader, "good") == ["one", "two"]


def test_a_transplanted_journal_does_not_list_its_owner_twice(root: Path) -> None:
    long, other = "é" * 200, "è" * 200
    with CheckpointManager(root) as manager:
        manager.save(long, "one", {})
    shutil.copy(journal_of(root, long), journal_of(root, other))
    assert [info.job_id for info in fresh(root).jobs()].count(long) == 1
