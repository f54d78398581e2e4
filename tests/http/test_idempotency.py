"""First answers are kept: a repeat never does anything twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from milepost.api.http.idempotency import Answer, AnswerCache, check_key
from milepost.journal.errors import Conflict, InvalidArgument, LockTimeout

KEY = ("api", "POST", "/x", "k1")


class Counter:
    """Something that must happen once, and says how often it did."""

    def __init__(self, *, fails: int = 0, size_bytes: int = 1) -> None:
        self.calls = 0
        self._fails = fails
        self._size_bytes = size_bytes

    def __call__(self) -> Answer:
        self.calls += 1
        if self.calls <= self._fails:
            raise LookupError(f"failure {self.calls}")
        return Answer(b"%d" % self.calls * self._size_bytes, {"ETag": '"1"'})


def test_a_repeat_gets_the_first_answer() -> None:
    cache, work = AnswerCache(), Counter()
    first = cache.once(KEY, b"d", work)
    assert cache.once(KEY, b"d", work) == first
    assert work.calls == 1


@pytest.mark.parametrize("part", range(4))
def test_another_actor_method_path_or_key_is_another_request(part: int) -> None:
    cache, work = AnswerCache(), Counter()
    cache.once(KEY, b"d", work)
    other = (*KEY[:part], "other", *KEY[part + 1 :])
    assert cache.once(other, b"d", work).body == b"2"


def test_the_same_key_for_something_else_is_a_conflict() -> None:
    cache, work = AnswerCache(), Counter()
    cache.once(KEY, b"d", work)
    with pytest.raises(Conflict, match="'k1'"):
        cache.once(KEY, b"other", work)
    assert work.calls == 1


def test_a_failure_is_not_kept() -> None:
    cache, work = AnswerCache(), Counter(fails=1)
    with pytest.raises(LookupError):
        cache.once(KEY, b"d", work)
    assert cache.once(KEY, b"d", work).body == b"2"


class Held:
    """Work that is under way until the test lets it end."""

    def __init__(self, work: Counter) -> None:
        self.work = work
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> Answer:
        self.has_begun.set()
        assert self.may_end.wait(30)
        return self.work()


def test_repeats_that_come_meanwhile_wait_for_the_first() -> None:
    cache, work = AnswerCache(), Counter()
    held = Held(work)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(cache.once, KEY, b"d", held)
        assert held.has_begun.wait(30)
        repeats = [pool.submit(cache.once, KEY, b"d", work) for _ in range(4)]
        assert not any(repeat.done() for repeat in repeats)
        held.may_end.set()
        assert {f.result(30).body for f in (first, *repeats)} == {b"1"}
    assert work.calls == 1


def test_if_the_first_fails_one_of_the_waiting_is_first() -> None:
    cache, work = AnswerCache(), Counter(fails=1)
    held = Held(work)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(cache.once, KEY, b"d", held)
        assert held.has_begun.wait(30)
        repeats = [pool.submit(cache.once, KEY, b"d", work) for _ in range(4)]
        held.may_end.set()
        assert isinstance(first.exception(30), LookupError)
        assert {repeat.result(30).body for repeat in repeats} == {b"2"}
    assert work.calls == 2


def test_nobody_waits_for_ever() -> None:
    cache = AnswerCache(wait_seconds=0.01)
    held = Held(Counter())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.once, KEY, b"d", held)
        assert held.has_begun.wait(30)
        with pytest.raises(LockTimeout, match="still in progress"):
            cache.once(KEY, b"d", held)
        held.may_end.set()
        first.result(30)


def fill(cache: AnswerCache, count: int, work: Counter) -> None:
    for i in range(count):
        cache.once((*KEY[:3], f"k{i}"), b"d", work)


def test_the_oldest_answers_go_first() -> None:
    cache, work = AnswerCache(answers_max=3), Counter()
    fill(cache, 4, work)
    assert [cache.once((*KEY[:3], f"k{i}"), b"d", work).body for i in (1, 2, 3)] == [
        b"2",
        b"3",
        b"4",
    ]
    assert cache.once((*KEY[:3], "k0"), b"d", work).body == b"5"


def test_answers_are_bounded_in_bytes_too_but_the_newest_stays() -> None:
    cache, work = AnswerCache(size_bytes_max=250), Counter(size_bytes=100)
    fill(cache, 3, work)
    assert cache._size_bytes == 200
    cache.once((*KEY[:3], "big"), b"d", lambda: Answer(b"x" * 999, {}))
    assert cache._size_bytes == 999
    assert cache.once((*KEY[:3], "big"), b"d", work).body == b"x" * 999


@pytest.mark.parametrize("key", ["", "x" * 256, "ä", "a\nb", "a\tb"])
def test_a_key_is_short_printable_ascii(key: str) -> None:
    with pytest.raises(InvalidArgument, match="Idempotency-Key"):
        check_key(key)


@pytest.mark.parametrize("key", [None, "x", "x" * 255, "a b-c_1"])
def test_an_ordinary_key_is_taken(key: str | None) -> None:
    assert check_key(key) == key
