"""The store-wide half of `Storage`: the list of jobs, changes, records and leases."""

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
from milepost.journal.errors import Conflict, InvalidArgument
from milepost.journal.storage.contract import Storage, every_job
from milepost.journal.storage.records import MAX_VALUE_BYTES, change
from tests.support.appending import JOB, append, run
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.storage.leases import Lease

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


def last_seq(storage: Storage, job_id: str) -> int:
    return storage.job(job_id).position().last.seq


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
            seen |= {
                job_id: storage.job(job_id).position().last.seq for job_id in job_ids
            }
            assert seen == {
                j: storage.job(j).position().last.seq for j in storage.jobs()
            }


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
