"""Idempotency keys of saves: what a key stands for, after all that can happen to it."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import CheckpointManager, Key, KeyRing, Policy
from milepost.api import create_app
from milepost.journal.errors import Conflict
from milepost.journal.index.lineage import Lineage
from milepost.journal.storage.files.storage import FileStorage
from tests.support.client import client_of
from tests.support.faults import Child, Fault, FaultyDisk, die

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.clock import Clock
    from tests.support.faults import Tell

JOB = "etl"
KEY = "load-2026-11-23"
STATE = {"rows": 1, "text": "x" * 4000}  # long enough to be stored as a difference
OTHER = STATE | {"rows": 2}
TRASH_SECONDS = 3600.0
OLD, NEW = Key("k1", b"\x01" * 32), Key("k2", b"\x02" * 32)


class Store:
    """A job whose first, second and third save have keys, and a door to it."""

    def __init__(self, root: Path, clock: Clock, keys: KeyRing | None) -> None:
        self.root, self.clock, self.keys = root, clock, keys
        self.opened = ExitStack()
        self.open()

    def open(self) -> CheckpointManager:
        self.opened.close()
        self.manager = self.opened.enter_context(
            CheckpointManager(
                self.root,
                keys=self.keys,
                clock=self.clock,
                trash_seconds=TRASH_SECONDS,
            )
        )
        return self.manager

    def save(self, state: dict[str, Any], key: str = KEY, job_id: str = JOB) -> str:
        return self.manager.save(
            job_id, "load", state, metadata={"m": 1}, idempotency_key=key
        )

    def begin(self) -> None:
        self.before = self.manager.save(JOB, "extract", STATE)
        self.first = self.save(STATE)
        self.after = [self.save(STATE | {"n": n}, f"next-{n}") for n in range(2)]

    def remove(self, *ids: str) -> None:
        for checkpoint_id in ids:
            assert self.manager.delete(JOB, checkpoint_id)

    def expire(self) -> None:
        self.clock.turn(seconds=TRASH_SECONDS)
        self.manager.compact(JOB)


class Http(Store):
    """The same over HTTP; each open is a new server."""

    def open(self) -> CheckpointManager:
        manager = super().open()
        self.client = client_of(create_app(manager))
        return manager

    def save(self, state: dict[str, Any], key: str = KEY, job_id: str = JOB) -> str:
        answer = self.client.post(
            "/api/checkpoints",
            json={
                "job_id": job_id,
                "step_name": "load",
                "state": state,
                "metadata": {"m": 1},
            },
            headers={"Idempotency-Key": key},
        )
        if answer.status_code == 409:
            assert answer.json()["code"] == "conflict"
            raise Conflict(answer.json()["detail"])
        assert answer.status_code == 201, answer.text
        answered: dict[str, Any] = answer.json()
        seqs = {info.checkpoint_id: info.seq for info in self.manager.list(job_id)}
        assert answered["seq"] == seqs[answered["checkpoint_id"]]
        return str(answered["checkpoint_id"])


def cleaned_by_policy(store: Store) -> None:
    plan = store.manager.plan(JOB, Policy(keep_last=1))
    assert store.manager.apply(plan, confirm=True) == 3


def rotated(store: Store) -> None:
    if store.keys is not None:
        store.keys = KeyRing([NEW, OLD])
        store.open().compact(JOB, rewrap=True)
        store.keys = KeyRing([NEW])
        store.open()


def restored(store: Store, *ids: str) -> None:
    for checkpoint_id in ids:
        store.manager.restore(JOB, checkpoint_id)


def taken_back_and_on(store: Store) -> None:
    restored(store, store.before)
    store.manager.save(JOB, "other", STATE)


STANDS: dict[str, Callable[[Store], object]] = {
    "nothing": lambda _: None,
    "another process": lambda s: s.open(),
    "later saves": lambda s: [s.manager.save(JOB, "x", OTHER) for _ in range(9)],
    "a restore of it": lambda s: restored(s, s.first),
    "a restore of a later one": lambda s: restored(s, s.after[0]),
    "a restore back and forward": lambda s: restored(s, s.before, s.after[1]),
    "undelete": lambda s: (s.remove(s.first), s.manager.undelete(JOB, s.first)),
    "its ancestor deleted and erased": lambda s: (s.remove(s.before), s.expire()),
    "its descendant deleted and erased": lambda s: (s.remove(s.after[0]), s.expire()),
    "current deleted": lambda s: s.remove(s.after[1]),
    "pinned, held and completed": lambda s: (
        s.manager.pin(JOB, s.first),
        s.manager.hold(JOB, s.first),
        s.manager.complete(JOB),
    ),
    "new keys of the store": rotated,
}
IS_FREE: dict[str, Callable[[Store], object]] = {
    "deletion": lambda s: s.remove(s.first),
    "deletion and compaction": lambda s: (s.remove(s.first), s.expire()),
    "deletion, compaction, another process": lambda s: (
        s.remove(s.first),
        s.expire(),
        s.open(),
    ),
    "purge": lambda s: s.manager.delete(JOB, s.first, purge=True),
    "cleanup by a caller": lambda s: s.manager.cleanup(JOB, keep_last=1),
    "cleanup by a policy": cleaned_by_policy,
    "erase": lambda s: s.manager.erase(JOB),
    "all deleted": lambda s: s.remove(s.before, s.first, *s.after),
    "a restore of an earlier one": lambda s: restored(s, s.before),
    "a restore of an earlier one, another process": lambda s: (
        restored(s, s.before),
        s.open(),
    ),
    "a restore, and saves on another line": taken_back_and_on,
    "its line deleted": lambda s: (
        taken_back_and_on(s),
        s.manager.restore(JOB, s.after[1]),
        s.remove(s.first),
    ),
}


@pytest.fixture(params=["python", "python, encrypted", "http"])
def store(request: pytest.FixtureRequest, root: Path, clock: Clock) -> Iterator[Store]:
    keys = KeyRing([OLD]) if "encrypted" in request.param else None
    door = Http if request.param == "http" else Store
    made = door(root, clock, keys)
    with made.opened:
        made.begin()
        yield made


@pytest.mark.parametrize("after", STANDS)
def test_a_key_stands_for_its_save_while_it_is_live_and_led_to_current(
    store: Store, after: str
) -> None:
    STANDS[after](store)
    seq = store.manager.seq(JOB)
    assert store.save(STATE) == store.first
    with pytest.raises(Conflict, match=store.first):
        store.save(OTHER)
    assert store.manager.seq(JOB) == seq
    assert store.manager.get(JOB, store.first).state == STATE


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(STATE, id="the same"),
        pytest.param(OTHER, id="other", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("after", IS_FREE)
def test_otherwise_the_next_save_is_new_and_takes_the_key_over(
    store: Store, after: str, content: dict[str, Any]
) -> None:
    IS_FREE[after](store)
    new = store.save(content)
    assert new != store.first
    current = store.manager.current(JOB)
    assert current is not None
    assert current.checkpoint_id == new
    assert store.manager.get(JOB, new).state == content
    store.open()
    assert store.save(content) == new
    with pytest.raises(Conflict, match=new):
        store.save({})


def test_a_key_that_was_taken_over_does_not_go_back(store: Store) -> None:
    store.remove(store.first)
    second = store.save(OTHER)
    assert store.manager.undelete(JOB, store.first)
    assert store.save(OTHER) == second
    store.manager.restore(JOB, store.first)
    third = store.save(STATE)
    assert third not in {store.first, second}
    store.manager.restore(JOB, second)
    assert store.save(OTHER) not in {second, third}


def test_a_job_that_was_taken_back_saves_its_steps_again(store: Store) -> None:
    store.manager.restore(JOB, store.before)
    again = [store.save(STATE), store.save(STATE | {"n": 0}, "next-0")]
    assert not {*again} & {store.first, *store.after}
    states = [store.manager.get(JOB, i.checkpoint_id) for i in store.manager.list(JOB)]
    assert len(states) == 6
    assert store.save(STATE) == again[0]


def test_a_fork_begins_without_the_keys_of_its_source(store: Store) -> None:
    copy = store.manager.fork(JOB, store.first, "fork")
    new = store.save(OTHER, job_id="fork")
    assert new not in {copy, store.first}
    assert store.save(OTHER, job_id="fork") == new
    assert store.save(STATE) == store.first


# -- content ---------------------------------------------------------------------------

CONTENT: dict[str, Any] = {
    "step_name": "load",
    "state": {"a": 1, "b": [1.5, {"c": None, "d": "x"}]},
    "metadata": {"m": 1, "n": 2},
    "tags": ["nightly", "eu"],
    "pinned": False,
    "failed": False,
    "workflow_name": "orders",
    "workflow_version": "1.1",
}
DIFFERENT: list[dict[str, Any]] = [
    {"step_name": "other"},
    {"state": CONTENT["state"] | {"a": 2}},
    {"state": CONTENT["state"] | {"a": 1.0}},
    {"state": CONTENT["state"] | {"a": True}},
    {"state": {"a": 1, "b": [{"c": None, "d": "x"}, 1.5]}},
    {"metadata": {"m": 1}},
    {"metadata": None},
    {"tags": ["nightly"]},
    {"tags": []},
    {"pinned": True},
    {"failed": True},
    {"workflow_name": "invoices"},
    {"workflow_name": None},
    {"workflow_version": "1.2"},
]
EQUAL: list[dict[str, Any]] = [
    {},
    {"state": {"b": [1.5, {"d": "x", "c": None}], "a": 1}},
    {"metadata": {"n": 2, "m": 1}},
    {"tags": ["eu", "nightly"]},
    {"actor": "somebody else"},
    {"expected_seq": 0},
]


def keyed_save(manager: CheckpointManager, **changes: Any) -> str:
    given = CONTENT | changes
    return manager.save(JOB, given.pop("step_name"), idempotency_key=KEY, **given)


@pytest.mark.parametrize("change", DIFFERENT, ids=str)
def test_all_that_a_caller_gives_is_content(
    manager: CheckpointManager, change: dict[str, Any]
) -> None:
    keyed_save(manager)
    with pytest.raises(Conflict, match=KEY):
        keyed_save(manager, **change)
    assert len(manager.list(JOB)) == 1


@pytest.mark.parametrize("change", EQUAL, ids=str)
def test_order_actor_and_expectation_are_no_content(
    manager: CheckpointManager, change: dict[str, Any]
) -> None:
    assert keyed_save(manager) == keyed_save(manager, **change)


def test_a_pin_that_was_added_later_is_no_content(manager: CheckpointManager) -> None:
    first = keyed_save(manager)
    manager.pin(JOB, first)
    assert keyed_save(manager) == first


# -- retries after a crash, and at once ------------------------------------------------


def save_and_die(root: Path, operation: str, tell: Tell) -> None:
    disk = FaultyDisk(root)
    manager = CheckpointManager(storage=FileStorage(root, disk=disk))
    manager.save(JOB, "extract", {})
    disk.set(Fault(operation, 1, action=die))
    tell(manager.save(JOB, "load", STATE, idempotency_key=KEY))


@pytest.mark.parametrize("operation", ["append", "sync", "pwrite"])
def test_a_retry_after_a_kill_in_the_middle_of_the_save_is_one_checkpoint(
    root: Path, operation: str
) -> None:
    child = Child(partial(save_and_die, root, operation))
    assert child.hear_all() == []  # it died before it was answered
    assert child.wait() == -signal.SIGKILL
    with CheckpointManager(root) as manager:
        first = manager.save(JOB, "load", STATE, idempotency_key=KEY)
    with CheckpointManager(root) as manager:
        assert manager.save(JOB, "load", STATE, idempotency_key=KEY) == first
        assert [i.step_name for i in manager.list(JOB)] == ["extract", "load"]


# -- ancestry --------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), max_size=60))
def test_lineage_answers_like_a_walk_along_the_parents(where: list[float]) -> None:
    parents = {1: 0}
    for seq, place in enumerate(where, start=2):
        # Mostly the newest, so that runs have some length.
        parents[seq] = seq - 1 if place > 0.5 else round(place * 2 * (seq - 1))
    lineage = Lineage()
    for seq, parent in parents.items():
        if parent != lineage.tip:
            lineage.branch(seq, parent)
        lineage.tip = seq
    for to in parents:
        walked = set()
        found = to
        while found:
            walked.add(found)
            found = parents[found]
        assert {s for s in parents if lineage.leads(s, to)} == walked


def test_a_chain_of_many_branches_is_walked_in_few_steps() -> None:
    lineage = Lineage()
    count = 2**14
    for seq in range(2, 2 * count, 2):  # each continues from the one before the last
        lineage.branch(seq, seq - 2)
    lines = 0

    def trace(_frame: object, event: str, _arg: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        is_ancestor = lineage.leads(2, 2 * count - 2)
    finally:
        sys.settrace(before)
    assert is_ancestor
    assert lines < 200


def test_a_parent_that_was_forged_ends_no_walk() -> None:
    lineage = Lineage()
    lineage.branch(1, 7)
    assert not lineage.leads(2, 1)
    assert lineage.leads(1, 1)
