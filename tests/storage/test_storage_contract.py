"""`Storage`'s docstring made executable: memory and files run the same tests."""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from milepost import MemoryStorage
from milepost.journal.clock import utc_now
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import Conflict, InvalidArgument, LockTimeout, NestedCall
from milepost.journal.events.codec import genesis
from milepost.journal.recovery import head as head_codec
from milepost.journal.recovery.head import Extent
from milepost.journal.storage.contract import Storage, every_job
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.storage.records import MAX_VALUE_BYTES, change
from tests.support.eventually import eventually
from tests.support.faults import forged, head_of, last_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.storage.leases import Lease

JOB = "etl"


def _in_memory(root: Path) -> Callable[[], Storage]:
    del root
    made = MemoryStorage()
    return lambda: made


def _in_files(root: Path) -> Callable[[], Storage]:
    return lambda: FileStorage(root)


BACKENDS = {"memory": _in_memory, "file": _in_files}


@pytest.fixture(params=BACKENDS)
def opened(request: pytest.FixtureRequest, root: Path) -> Callable[[], Storage]:
    """Opens one store of the backend, each time as another process would."""
    return BACKENDS[request.param](root)


@pytest.fixture
def storage(opened: Callable[[], Storage]) -> Iterator[Storage]:
    made = opened()
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
    assert storage.jobs() == []


def test_a_job_that_was_locked_but_not_written_is_still_unknown(
    storage: Storage,
) -> None:
    with storage.exclusive(JOB):
        pass
    assert storage.stamp(JOB) is None
    assert storage.extent(JOB) == Extent()
    assert storage.jobs() == []


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
    assert storage.jobs() == sorted(["b", "ä", "a/../b", "B", "x" * 512])
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


# -- the list of jobs ------------------------------------------------------------------

JOBS = ["1", "B", "a/b", "b", "c", "é", "\U0001f600"]


@pytest.mark.parametrize("page_jobs", [1, 2, 3, 6, 7, 8])
def test_pages_of_any_size_name_every_job_once_in_order(
    storage: Storage, page_jobs: int
) -> None:
    for job_id in reversed(JOBS):
        append(storage, job_id)
    assert [*every_job(storage, page_jobs=page_jobs)] == JOBS
    assert storage.jobs(limit=page_jobs) == JOBS[:page_jobs]


@pytest.mark.parametrize(
    ("after", "found"),
    [("", JOBS), ("a", JOBS[2:]), ("b", JOBS[4:]), ("zz", JOBS[5:]), (JOBS[-1], [])],
)
def test_a_page_begins_after_any_text(
    storage: Storage, after: str, found: list[str]
) -> None:
    for job_id in JOBS:
        append(storage, job_id)
    assert storage.jobs(after) == found
    assert storage.jobs(after, 2) == found[:2]


def test_a_job_that_is_created_between_two_pages_appears_if_it_sorts_later(
    opened: Callable[[], Storage],
) -> None:
    storage = opened()
    for job_id in ("b", "d", "f"):
        append(storage, job_id)
    pages = every_job(storage, page_jobs=2)
    assert [next(pages), next(pages)] == ["b", "d"]
    for job_id in ("a", "c", "e"):
        append(opened(), job_id)
    assert [*pages] == ["e", "f"]


# -- what has changed ------------------------------------------------------------------


def settled(storage: Storage) -> str:
    """Return a cursor after which no job is named until it changes."""
    cursors = [storage.changed(None).cursor]

    def is_settled() -> bool:
        job_ids, cursor = storage.changed(cursors[-1])
        cursors.append(cursor)
        return not job_ids

    eventually(is_settled)
    return cursors[-1]


def test_without_a_cursor_every_job_has_changed(storage: Storage) -> None:
    assert storage.changed(None).job_ids == []
    for job_id in reversed(JOBS):
        append(storage, job_id)
    assert storage.changed(None).job_ids == JOBS


def test_a_cursor_names_what_changed_since_in_every_process(
    opened: Callable[[], Storage],
) -> None:
    here = opened()
    for job_id in JOBS:
        append(here, job_id)
    cursor = settled(here)
    append(here, "b")
    append(opened(), "new")
    for each in (here, opened()):
        assert each.changed(cursor).job_ids == ["b", "new"]


def test_of_changes_in_quick_succession_none_is_missed(storage: Storage) -> None:
    seen: dict[str, int] = {}
    cursor = None
    for number in range(200):
        append(storage, JOBS[number % 2])
        if number % 3:
            job_ids, cursor = storage.changed(cursor)
            seen |= {job_id: storage.extent(job_id).seq for job_id in job_ids}
            assert seen == {j: storage.extent(j).seq for j in storage.jobs()}


@pytest.mark.parametrize(
    "cursor", ["", "0", "[]", "{}", "\0", '{"store":null,"jobs":3}', "x" * 9999]
)
def test_a_cursor_of_another_store_or_of_none_names_every_job(
    storage: Storage, cursor: str
) -> None:
    other = MemoryStorage()
    append(other)
    append(storage)
    assert storage.changed(cursor).job_ids == [JOB]
    assert storage.changed(other.changed(None).cursor).job_ids == [JOB]


# -- records ---------------------------------------------------------------------------

VALUES = [
    b"",
    b"\n",
    b"\0\xff",
    b'{"record":"00000000000000000000000000000000"}\n',
    b"x" * MAX_VALUE_BYTES,
]


def test_a_record_is_what_was_written_last_by_anybody(
    opened: Callable[[], Storage],
) -> None:
    opened().create()
    here, there = opened().record("plans"), opened().record("plans")
    assert here.get() is None
    version = None
    for value in VALUES:
        version = here.compare_and_set(version, value)
        assert there.get() == here.get() == (value, version)
    assert opened().record("other").get() is None


def test_each_write_has_another_version_also_of_an_equal_value(
    storage: Storage,
) -> None:
    storage.create()
    record = storage.record("plans")
    versions: list[str | None] = [None]
    for value in (b"a", b"a", b"b", b"a"):
        versions.append(record.compare_and_set(versions[-1], value))
    assert len(set(versions)) == 5
    for stale in (*versions[:-1], "", "0"):
        with pytest.raises(Conflict, match="'plans'") as caught:
            record.compare_and_set(stale, b"lost")
        assert caught.value.hint
        assert record.get() == (b"a", versions[-1])


def test_writers_of_one_record_lose_no_update(opened: Callable[[], Storage]) -> None:
    opened().create()

    def count() -> None:
        record = opened().record("ledger")
        for _ in range(20):
            change(record, lambda value: b"%d" % (int(value or b"0") + 1))

    writers = [run(count) for _ in range(6)]
    for writer in writers:
        writer.join(60)
    assert change(opened().record("ledger"), lambda value: value or b"") == b"120"


def test_a_value_that_is_too_large_changes_nothing(storage: Storage) -> None:
    storage.create()
    record = storage.record("plans")
    for before in (None, record.compare_and_set(None, b"kept")):
        with pytest.raises(InvalidArgument, match="1048577 bytes, at most 1048576"):
            record.compare_and_set(before, b"x" * (MAX_VALUE_BYTES + 1))
    assert record.get() is not None


@pytest.mark.parametrize(
    "name",
    ["", "-a", "_a", "A", "a.b", "a/b", "..", "a b", "a\n", "ä", "\0", "a" * 101],
)
def test_a_name_that_could_mean_something_else_is_refused(
    storage: Storage, name: str
) -> None:
    storage.create()
    for door in (storage.record, storage.lease):
        with pytest.raises(InvalidArgument, match="a-z 0-9"):
            door(name)


# -- leases ----------------------------------------------------------------------------


def test_one_contender_holds_a_lease_until_it_is_released(
    opened: Callable[[], Storage],
) -> None:
    opened().create()
    first, second = opened().lease("worker"), opened().lease("worker")
    assert (first.is_held(), first.renew(), first.fence) == (False, False, None)
    assert first.acquire("nightly")
    assert not second.acquire("nightly")
    assert first.acquire("nightly"), "held already"
    assert (first.is_held(), first.renew()) == (True, True)
    assert (second.is_held(), second.renew(), second.fence) == (False, False, None)
    second.release()  # not its own
    assert first.is_held()
    for _ in range(2):
        first.release()
    assert (first.is_held(), first.renew(), first.fence) == (False, False, None)
    assert second.acquire("nightly")


def test_the_fence_grows_with_each_tenure_and_not_within_one(
    opened: Callable[[], Storage],
) -> None:
    opened().create()
    fences = []
    for number in range(4):
        lease = opened().lease("worker")
        for _ in range(2):
            assert lease.acquire(f"tenure {number}")
            fences.append(lease.fence)
        lease.release()
    other = opened().lease("other")
    assert other.acquire("its own count")
    assert [*fences, other.fence] == [1, 1, 2, 2, 3, 3, 4, 4, 1]


def test_everybody_sees_who_holds_a_lease(opened: Callable[[], Storage]) -> None:
    opened().create()
    lease, looking = opened().lease("worker"), opened().lease("worker")
    assert lease.holder() is None
    lease.acquire("é\n")
    for each in (lease, looking):
        found = each.holder()
        assert found is not None
        assert (found.fence, found.who, found.pid) == (1, "é\n", os.getpid())
        assert found.host == socket.gethostname()
        assert abs(utc_now() - found.since) < timedelta(hours=1)
    assert opened().lease("other").holder() is None
    lease.release()
    assert lease.holder() is looking.holder() is None


def test_of_contenders_at_once_one_gets_the_lease(
    opened: Callable[[], Storage],
) -> None:
    opened().create()
    leases = [opened().lease("worker") for _ in range(12)]
    start = threading.Barrier(12)

    def contend(lease: Lease) -> None:
        start.wait(30)
        lease.acquire("race")

    threads = [run(partial(contend, lease)) for lease in leases]
    for thread in threads:
        thread.join(30)
    assert [lease.fence for lease in leases if lease.is_held()] == [1]


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
