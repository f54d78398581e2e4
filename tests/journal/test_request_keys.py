"""A call with an idempotency key acts once, whichever process repeats it."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, MemoryStorage, Policy
from milepost.journal.errors import Conflict, InvalidArgument
from milepost.journal.index.answers import Answered, remember
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.clock import Clock

JOB, KEY = "job", "k1"
GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
Call = tuple[str, dict[str, Any], dict[str, Any]]
# A method, its arguments, and those of another request.
CALLS: dict[str, Call] = {
    "pin": ("pin", {}, {"reason": "x"}),
    "unpin": ("unpin", {}, {"reason": "x"}),
    "hold": ("hold", {"reason": "x"}, {"reason": "y"}),
    "release": ("release", {}, {"reason": "x"}),
    "restore": ("restore", {}, {"expected_seq": 1}),
    "delete": ("delete", {}, {"force": True}),
    "purge": ("delete", {"purge": True}, {}),
    "undelete": ("undelete", {}, {"expected_seq": 1}),
    "cleanup": ("cleanup", {"keep_last": 2}, {"keep_last": 1}),
    "complete": ("complete", {"failed": True}, {}),
    "erase": ("erase", {}, {"reason": "x"}),
}


def prepared(manager: CheckpointManager, verb: str) -> str:
    """Save five checkpoints; return one on which the call has an effect."""
    ids = [manager.save(JOB, f"s{n}", {"n": n}) for n in range(5)]
    before = {"unpin": manager.pin, "release": manager.hold, "undelete": manager.delete}
    if verb in before:
        before[verb](JOB, ids[1])
    return ids[1]


def call(manager: CheckpointManager, verb: str, one: str, **given: Any) -> Any:
    named = () if verb in ("cleanup", "complete", "erase") else (one,)
    return getattr(manager, verb)(JOB, *named, idempotency_key=KEY, **given)


def types(manager: CheckpointManager) -> list[str]:
    return [event["type"] for event in manager.history(JOB)]


@pytest.mark.parametrize(("verb", "given", "_"), CALLS.values(), ids=CALLS)
def test_a_repeat_returns_the_same_and_records_nothing(
    root: Path, clock: Clock, verb: str, given: dict[str, Any], _: object
) -> None:
    with CheckpointManager(root, clock=clock, actor="one") as manager:
        one = prepared(manager, verb)
        first = call(manager, verb, one, **given)
        last = manager.save(JOB, "later", {})
        before = [event for event in types(manager) if event != "job.compacted"]
        repeated = call(manager, verb, one, **given)
    with CheckpointManager(root, clock=clock, actor="two") as manager:
        for again in (repeated, call(manager, verb, one, **given)):
            assert again == first or verb == "erase"
        assert [x for x in types(manager) if x != "job.compacted"] == before
        assert last in {info.checkpoint_id for info in manager.list(JOB)}
        assert manager.verify(JOB, deep=True)[0].ok


@pytest.mark.parametrize(("verb", "given", "other"), CALLS.values(), ids=CALLS)
def test_a_key_stands_for_no_other_request(
    clock: Clock, verb: str, given: dict[str, Any], other: dict[str, Any]
) -> None:
    with CheckpointManager(storage=MemoryStorage(), clock=clock) as manager:
        one = prepared(manager, verb)
        call(manager, verb, one, **given)
        before = types(manager)
        with pytest.raises(Conflict, match="'k1' was used for another request, event"):
            call(manager, verb, one, **other)
        with pytest.raises(Conflict, match="another request"):
            manager.complete(JOB, reason="z", idempotency_key=KEY)
        assert types(manager) == before


@pytest.mark.parametrize("key", ["", "x" * 513, "\ud800", 3])
def test_a_key_is_a_label(manager: CheckpointManager, key: Any) -> None:
    manager.save(JOB, "s", {})
    with pytest.raises(InvalidArgument, match="idempotency_key"):
        manager.complete(JOB, idempotency_key=key)
    assert types(manager) == ["job.opened", "checkpoint.saved"]


def test_a_restore_calls_back_once_and_not_for_a_repeat(
    manager: CheckpointManager,
) -> None:
    one, started = prepared(manager, "restore"), list[str]()

    def restore() -> dict[str, Any]:
        return manager.restore(
            JOB, one, idempotency_key=KEY, on_restored=lambda: started.append(one)
        )

    assert restore() == restore() == {"n": 1}
    assert started == [one]
    with pytest.raises(Conflict):  # without a start it is another request
        manager.restore(JOB, one, idempotency_key=KEY)


def test_a_repeat_adds_the_removals_of_all_events_of_a_large_cleanup(
    manager: CheckpointManager, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "milepost.journal.commands.cleanup._MAX_REMOVED_PER_EVENT"
    monkeypatch.setattr(limit, 2)
    prepared(manager, "cleanup")

    def clean() -> int:
        return manager.cleanup(JOB, 1, idempotency_key=KEY)

    assert [clean(), clean()] == [4, 4]
    first, second = manager.history(JOB, idempotency_key=KEY)
    assert second["seq"] == first["seq"] + 1
    assert manager.history(JOB, idempotency_key=KEY, reverse=True) == [second, first]
    assert manager.history(JOB, idempotency_key=KEY, after_seq=first["seq"]) == [second]
    clock.turn(days=1)
    manager.save(JOB, "s", {})
    assert [clean(), clean()] == [1, 1]  # and not those of the day before
    assert manager.history(JOB, idempotency_key="other") == []


def test_a_key_that_is_used_again_after_its_time_stands_for_the_new_event(
    manager: CheckpointManager, clock: Clock
) -> None:
    manager.save(JOB, "s", {})
    for _ in range(2):
        manager.complete(JOB, idempotency_key=KEY)
        (event,) = manager.history(JOB, idempotency_key=KEY)
        assert event["seq"] == manager.seq(JOB)
        clock.turn(days=1)


def test_a_repeated_apply_returns_what_the_first_removed(
    manager: CheckpointManager,
) -> None:
    for job_id in ("a", "b"):
        for n in range(4):
            manager.save(job_id, "s", {"n": n})
    policy = Policy(keep_last=1, min_keep=1, min_age="0s")
    plan = manager.plan("*", policy)
    first = manager.apply(plan, confirm=True, idempotency_key=KEY)
    manager.save("a", "s", {})
    again = manager.apply(plan, confirm=True, idempotency_key=KEY)
    assert (again, again.jobs, again.skipped) == (6, first.jobs, ())
    other = manager.plan("a", policy)
    with pytest.raises(Conflict, match="another request"):
        manager.apply(other, confirm=True, idempotency_key=KEY)


def test_a_store_without_keys_opens_and_takes_them(
    tmp_path: Path, clock: Clock
) -> None:
    shutil.copytree(GOLDEN, root := tmp_path / "store")
    with CheckpointManager(root, clock=clock) as manager:
        job = next(
            info.job_id for info in manager.jobs() if not info.damage and info.latest_id
        )
        seq = manager.seq(job)
        for _ in range(2):
            assert manager.complete(job, idempotency_key=KEY)
        assert manager.seq(job) == seq + 1


def fold(*events: tuple[str, float]) -> dict[str, Answered]:
    """Fold events, each with a key and an hour."""
    answered: dict[str, Answered] = {}
    for seq, (key, hour) in enumerate(events, 1):
        at = (NOW + timedelta(hours=hour)).isoformat()
        data = {"idempotency_key": key, "request_digest": "d"}
        event: Any = {"seq": seq, "at": at, "type": "job.completed", "data": data}
        remember(answered, event)
    return answered


@pytest.mark.parametrize(
    ("events", "known"),
    [
        ([("a", 0), ("b", 23.9)], {"a", "b"}),
        ([("a", 0), ("b", 24.1)], {"b"}),
        ([("a", 0), ("b", 1), ("a", 20), ("c", 26)], {"a", "c"}),
        ([("a", 0), ("b", -30)], {"a", "b"}),
        ([(f"k{n}", n) for n in range(1000)], {f"k{n}" for n in range(975, 1000)}),
    ],
)
def test_the_fold_keeps_the_keys_of_the_last_24_hours(
    events: list[tuple[str, float]], known: set[str]
) -> None:
    assert fold(*events).keys() == known


@pytest.mark.parametrize("at", ["", "yesterday", "2026-11-23T05:00:00", None, 3])
def test_an_event_whose_time_is_none_records_no_key(at: Any) -> None:
    answered: dict[str, Answered] = {}
    data: dict[str, Any] = {"idempotency_key": KEY}
    event: Any = {"seq": 1, "at": at, "type": "job.completed", "data": data}
    remember(answered, event)
    assert answered == {}


def damaged(change: Callable[[Any], object]) -> dict[str, Answered]:
    data: dict[str, Any] = {"idempotency_key": KEY, "request_digest": "d"}
    event: Any = {"seq": 1, "at": NOW.isoformat(), "type": "job.erased", "data": data}
    change(event["data"])
    answered: dict[str, Answered] = {}
    remember(answered, event)
    return answered


def test_a_key_that_is_no_text_is_ignored() -> None:
    for value in (None, 3, [], {}):
        assert damaged(lambda data, v=value: data.update(idempotency_key=v)) == {}
