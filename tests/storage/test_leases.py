"""Leases with a ttl, and the removal of leases: the contract of every backend."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from milepost.journal.clock import utc_now
from milepost.journal.errors import InvalidArgument
from tests.support.appending import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.leases import Lease
    from tests.support.clock import Clock

NAME = "exec_1"
TTL = 30.0


@pytest.fixture
def contender(opened: Callable[[], Storage]) -> Callable[[], Lease]:
    """Makes contenders for one lease with a ttl, each as in a process of its own."""
    opened().create()
    return lambda: opened().lease(NAME, TTL)


def held(lease: Lease) -> list[object]:
    return [lease.is_held(), lease.fence]


def test_a_lease_that_is_renewed_in_time_is_kept(
    contender: Callable[[], Lease], clock: Clock
) -> None:
    lease, other = contender(), contender()
    assert lease.acquire("work")
    for _ in range(3):
        clock.turn(seconds=TTL - 0.001)
        assert held(lease) == [True, 1]
        assert other.is_live()
        assert not other.acquire("theft")
        assert lease.renew()


@pytest.mark.parametrize("late", [0.0, 0.001, 1e6])
def test_a_lease_that_was_not_renewed_in_time_is_lost_for_its_holder(
    contender: Callable[[], Lease], clock: Clock, late: float
) -> None:
    lease, other = contender(), contender()
    assert lease.acquire("work")
    clock.turn(seconds=TTL + late)
    assert (held(lease), lease.renew()) == ([False, None], False)
    assert not other.is_live()
    found = other.holder()
    assert found is not None
    assert (found.fence, found.who, found.is_expired) == (1, "work", True)


def test_the_next_contender_takes_an_expired_lease_and_keeps_it(
    contender: Callable[[], Lease], clock: Clock
) -> None:
    lease, other = contender(), contender()
    assert lease.acquire("work")
    clock.turn(seconds=TTL)
    assert other.acquire("rescue")
    assert (held(lease), lease.renew()) == ([False, None], False)
    assert not lease.acquire("work")
    for forget in (False, True):
        lease.release(forget=forget)  # not its own any more
    assert held(other) == [True, 2]
    found = lease.holder()
    assert found is not None
    assert (found.who, found.is_expired, lease.is_live()) == ("rescue", False, True)


def test_a_holder_that_lost_its_lease_can_take_it_again(
    contender: Callable[[], Lease], clock: Clock
) -> None:
    lease = contender()
    for fence in (1, 2, 3):
        assert lease.acquire("work")
        assert held(lease) == [True, fence]
        clock.turn(seconds=TTL)


def test_the_holder_of_a_lease_is_told_with_its_deadline(
    contender: Callable[[], Lease], clock: Clock
) -> None:
    lease, other = contender(), contender()
    assert (other.holder(), other.is_live()) == (None, False)
    assert lease.acquire("etl@host")
    clock.turn(seconds=10)
    for each in (lease, other):
        found = each.holder()
        assert found is not None
        assert (found.who, found.pid, found.is_expired) == (
            *("etl@host", os.getpid()),
            False,
        )
        assert found.deadline is not None
        left = found.deadline - utc_now()
        assert timedelta(seconds=-3600) < left < timedelta(seconds=TTL - 10)
    lease.release()
    assert (other.holder(), other.is_live()) == (None, False)


def test_a_lease_without_a_ttl_never_expires(
    opened: Callable[[], Storage], clock: Clock
) -> None:
    opened().create()
    lease, other = opened().lease("worker"), opened().lease("worker")
    assert lease.acquire("nightly")
    clock.turn(days=10_000)
    assert held(lease) == [True, 1]
    assert not other.acquire("theft")
    assert other.is_live()
    found = other.holder()
    assert found is not None
    assert (found.deadline, found.is_expired) == (None, False)


@pytest.mark.parametrize("ttl", [None, TTL])
def test_a_lease_that_is_forgotten_begins_again(
    opened: Callable[[], Storage], ttl: float | None
) -> None:
    opened().create()
    lease, other = opened().lease(NAME, ttl), opened().lease(NAME, ttl)
    for fence in (1, 2):
        assert lease.acquire("work")
        assert held(lease) == [True, fence]
        lease.release()
        lease.release(forget=True)  # it is not held
    assert lease.acquire("work")
    assert held(lease) == [True, 3]
    lease.release(forget=True)
    assert (lease.holder(), other.is_live(), held(lease)) == (
        None,
        False,
        [False, None],
    )
    assert other.acquire("work")
    assert held(other) == [True, 1]


def test_an_expired_lease_can_still_be_forgotten_by_its_holder(
    contender: Callable[[], Lease], clock: Clock
) -> None:
    lease = contender()
    assert lease.acquire("work")
    clock.turn(seconds=TTL)
    lease.release(forget=True)
    assert lease.holder() is None
    assert lease.acquire("work")
    assert lease.fence == 1


@pytest.mark.parametrize("state", ["new", "free", "expired", "forgotten"])
def test_of_contenders_at_once_one_gets_a_lease_with_a_ttl(
    contender: Callable[[], Lease], clock: Clock, state: str
) -> None:
    for _ in range(20):
        first = contender()
        if state != "new":
            assert first.acquire("before")
        if state == "expired":
            clock.turn(seconds=TTL)
        elif state != "new":
            first.release(forget=state == "forgotten")
        leases = [contender() for _ in range(6)]
        start = threading.Barrier(6)

        def contend(lease: Lease, start: threading.Barrier) -> None:
            start.wait(30)
            lease.acquire("race")

        threads = [run(partial(contend, lease, start)) for lease in leases]
        for thread in threads:
            thread.join(30)
        assert [lease.is_held() for lease in leases].count(True) == 1
        for lease in leases:
            lease.release(forget=True)


@pytest.mark.parametrize("ttl", [0, -1.0, float("nan"), float("inf")])
def test_a_ttl_that_means_nothing_is_refused(storage: Storage, ttl: float) -> None:
    with pytest.raises(InvalidArgument, match="ttl_seconds is"):
        storage.lease(NAME, ttl)
