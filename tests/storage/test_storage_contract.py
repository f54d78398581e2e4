"""`Storage`'s docstring made executable: memory and files run the same tests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from milepost import MemoryStorage
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import Conflict, LockTimeout, NestedCall
from milepost.journal.events.codec import genesis
from milepost.journal.recovery import head as head_codec
from milepost.journal.recovery.head import Extent
from milepost.journal.storage.contract import Storage
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import forged, head_of, last_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB = "etl"


@pytest.fixture(params=["memory", "file"])
def storage(request: pytest.FixtureRequest, root: Path) -> Iterator[Storage]:
    made: Storage = MemoryStorage() if request.param == "memory" else FileStorage(root)
    yield made
    made.close()


def lines(storage: Storage, job_id: str, after: int, count: int = 1) -> bytes:
    """Return the next `count` events of a job."""
    data = b""
    if after == 0:
        store_id = storage.create()
        opened = {"store": store_id, "job": job_id, "nonce": "n"}
        prev = genesis(store_id, job_id, "n")
        data = forged(prev, seq=1, type="job.opened", data=opened)
    else:
        data = storage.read(job_id, 0, storage.extent(job_id).size)
    start = 0 if after == 0 else len(data)
    for seq in range(max(after, 1) + 1, after + count + 1):
        data += forged(last_hash(data), seq=seq, type="test.noted")
    return data[start:]


def append(storage: Storage, job_id: str = JOB, count: int = 1) -> bytes:
    """Append events as the store would; return their bytes."""
    with storage.exclusive(job_id) as held:
        after = held.extent.seq
        data = lines(storage, job_id, after, count)
        held.append(data, after=after, last=Extent(after + count, last_hash(data)))
    return data


def run(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_store_has_an_id_from_its_creation_on(storage: Storage) -> None:
    assert storage.store_id is None
    made = storage.create()
    assert storage.create() == made == storage.store_id


def test_an_unknown_job_is_empty_and_not_listed(storage: Storage) -> None:
    assert storage.stamp(JOB) is None
    assert storage.extent(JOB) == Extent()
    with storage.exclusive(JOB) as held:
        assert held.extent == Extent()
        assert held.repairs() == []
    assert storage.job_ids() == []


def test_a_job_that_was_locked_but_not_written_is_still_unknown(
    storage: Storage,
) -> None:
    with storage.exclusive(JOB):
        pass
    assert storage.stamp(JOB) is None
    assert storage.extent(JOB) == Extent()
    assert storage.job_ids() == []


def test_what_was_appended_can_be_read(storage: Storage) -> None:
    first, second = append(storage, count=2), append(storage)
    whole = first + second
    assert storage.extent(JOB) == Extent(3, last_hash(whole), len(whole))
    assert storage.read(JOB, 0, len(whole)) == whole
    assert storage.read(JOB, len(first), len(second)) == second


def test_reading_past_the_end_returns_what_there_is(storage: Storage) -> None:
    data = append(storage)
    assert storage.read(JOB, len(data) - 5, 100) == data[-5:]
    assert storage.read(JOB, len(data) + 5, 100) == b""


def test_appending_answers_with_the_extent_that_readers_see(storage: Storage) -> None:
    append(storage)
    with storage.exclusive(JOB) as held:
        data = lines(storage, JOB, held.extent.seq)
        last = Extent(2, last_hash(data), 999)  # its size is not the caller's to say
        answer = held.append(data, after=1, last=last)
    assert answer == storage.extent(JOB)
    with storage.exclusive(JOB) as held:
        assert held.extent == answer


def test_the_stamp_changes_with_every_append(storage: Storage) -> None:
    stamps = [storage.stamp(JOB)]
    for _ in range(3):
        append(storage)
        stamps.append(storage.stamp(JOB))
    assert len(set(stamps)) == 4
    assert storage.stamp(JOB) == stamps[-1]


@pytest.mark.parametrize("after", [0, 1, 3, -1])
def test_appending_behind_another_event_than_the_last_is_refused(
    storage: Storage, after: int
) -> None:
    append(storage, count=2)
    before = storage.extent(JOB)
    with storage.exclusive(JOB) as held:
        data = lines(storage, JOB, 2)
        with pytest.raises(Conflict):  # I3
            held.append(data, after=after, last=Extent(3, last_hash(data)))
    assert storage.extent(JOB) == before
    assert len(storage.read(JOB, 0, 10_000)) == before.size


def test_sixteen_writers_never_take_the_same_number(storage: Storage) -> None:
    append(storage)
    threads = [run(lambda: [append(storage) for _ in range(3)]) for _ in range(16)]
    for thread in threads:
        thread.join(60)
    assert storage.extent(JOB).seq == 1 + 16 * 3  # I3
    assert storage.read(JOB, 0, 10**6).count(b"\n") == 1 + 16 * 3


def test_a_job_that_is_held_is_busy_for_who_would_not_wait(storage: Storage) -> None:
    outcome: list[str] = []

    def ask(job_id: str) -> None:
        try:
            with storage.exclusive(job_id, wait=False):
                outcome.append("got")
        except Busy:
            outcome.append("busy")

    append(storage)
    append(storage, "other")
    with storage.exclusive(JOB):
        run(lambda: ask(JOB)).join(10)
        run(lambda: ask("other")).join(10)  # I10
    run(lambda: ask(JOB)).join(10)
    assert outcome == ["busy", "got", "got"]


def test_who_waits_gets_the_job_once_it_is_free(storage: Storage) -> None:
    append(storage)
    with storage.exclusive(JOB) as held:
        waiter = run(lambda: append(storage))
        assert storage.extent(JOB) == held.extent
        data = lines(storage, JOB, held.extent.seq)
        held.append(data, after=1, last=Extent(2, last_hash(data)))
    waiter.join(10)
    assert storage.extent(JOB).seq == 3


def test_an_error_inside_lets_go_of_the_job(storage: Storage) -> None:
    append(storage)
    with pytest.raises(ZeroDivisionError), storage.exclusive(JOB):
        _ = 1 / 0
    with storage.exclusive(JOB, wait=False) as held:
        assert held.extent.seq == 1


def test_readers_are_never_kept_waiting_by_a_writer(storage: Storage) -> None:
    data = append(storage)
    read: list[object] = []
    with storage.exclusive(JOB):
        run(lambda: read.append((storage.extent(JOB).seq, storage.stamp(JOB)))).join(10)
        run(lambda: read.append(storage.read(JOB, 0, 10_000))).join(10)
    assert read == [(1, storage.stamp(JOB)), data]


def test_jobs_are_listed_in_order_and_do_not_mix(storage: Storage) -> None:
    for job_id in ("b", "ä", "a/../b", "B", "x" * 512):
        append(storage, job_id)
    append(storage, "b")
    assert storage.job_ids() == sorted(["b", "ä", "a/../b", "B", "x" * 512])
    assert storage.extent("b").seq == 2
    assert storage.extent("B").seq == 1


def test_what_was_appended_is_still_there_after_closing(storage: Storage) -> None:
    data = append(storage)
    storage.flush()
    for _ in range(2):
        storage.close()
    assert storage.extent(JOB).seq == 1
    assert storage.read(JOB, 0, 10_000) == data
    append(storage)
    assert storage.extent(JOB).seq == 2


# -- what only files can show ----------------------------------------------------------


def test_another_handle_sees_every_append_at_once(root: Path) -> None:
    here, there = FileStorage(root), FileStorage(root)
    for seq in range(1, 4):
        append(here)
        assert there.extent(JOB).seq == seq
        assert there.stamp(JOB) == here.stamp(JOB)
    append(there)
    with here.exclusive(JOB) as held:
        assert held.extent.seq == 4
    assert there.store_id == here.store_id


def test_another_handle_that_waits_too_long_says_so(root: Path) -> None:
    here, there = FileStorage(root), FileStorage(root, lock_timeout_seconds=0.01)
    append(here)
    with here.exclusive(JOB):
        with pytest.raises(Busy), there.exclusive(JOB, wait=False):
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


def test_a_thread_that_holds_a_job_is_refused_at_once_and_goes_on_holding_it(
    storage: Storage,
) -> None:
    outcome: list[str] = []

    def ask() -> None:
        try:
            with storage.exclusive(JOB, wait=False):
                outcome.append("got")
        except Busy:
            outcome.append("busy")

    append(storage)
    with storage.exclusive(JOB):
        with pytest.raises(NestedCall), storage.exclusive(JOB):
            pass
        run(ask).join(10)
    run(ask).join(10)
    assert outcome == ["busy", "got"]


def test_a_thread_is_not_kept_waiting_for_itself_by_another_handle(root: Path) -> None:
    here, there = FileStorage(root), FileStorage(root)
    append(here)
    with here.exclusive(JOB):
        with pytest.raises(NestedCall), there.exclusive(JOB):
            pass
        with pytest.raises(Busy), there.exclusive(JOB, wait=False):
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
    with here.exclusive(JOB) as held:
        assert held.extent.seq == 1
        with pytest.raises(Busy), there.exclusive(JOB, wait=False):
            pass


def test_a_job_that_left_the_cache_while_its_writer_waited_is_written_all_the_same(
    root: Path,
) -> None:
    storage = FileStorage(root)
    append(storage)
    waiting = storage.exclusive(JOB)
    for number in range(250):  # more than are kept open
        storage.stamp(f"other-{number}")
    with waiting as held:
        data = lines(storage, JOB, held.extent.seq)
        last = Extent(2, last_hash(data))
        assert held.append(data, after=1, last=last).seq == 2
    assert storage.extent(JOB).seq == 2


def test_evidence_is_what_is_there_and_asking_for_it_changes_nothing(
    storage: Storage,
) -> None:
    data = append(storage, count=2)
    stamp = storage.stamp(JOB)
    with storage.evidence(JOB) as evidence:
        assert evidence.size == len(data)
        assert evidence.read(0, len(data)) == data
        head = head_codec.decode(evidence.head or b"")
    assert head is not None
    assert head.shown == storage.extent(JOB)
    assert storage.stamp(JOB) == stamp
    with storage.evidence("unknown") as nothing:
        assert (nothing.head, nothing.size or 0) == (None, 0)


def test_what_takes_an_unsettled_journals_place_is_acknowledged(
    storage: Storage,
) -> None:
    data = append(storage, count=3)
    first = data[: data.index(b"\n") + 1]
    with storage.unsettled(JOB) as held, storage.copying(JOB) as copy:
        assert held.keep_aside(data[len(first) :], len(first), 2).endswith(".damaged")
        copy.write(first)
        held.replace(copy, Extent(1, last_hash(first)))
    assert storage.extent(JOB) == Extent(1, last_hash(first), len(first))
    assert storage.repairs(JOB) == []  # an event tells of it, or nothing was cut
    append(storage)
