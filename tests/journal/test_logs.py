"""Logs: jobs that hold entries; appended, read in one go, popped and cleared."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, MemoryStorage, Policy, Types, errors
from milepost.journal.crypto.keys import Key, KeyRing
from milepost.journal.index.entry_keys import EntryKeys, digest_of
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store import job as replica
from tests.support.faults import FaultyDisk
from tests.support.views import whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.clock import Clock

LOG = "chat"


def numbered(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"e{n}", "n": n} for n in numbers]


def numbers(manager: CheckpointManager, last: int | None = None) -> list[int]:
    return [entry["n"] for entry in manager.entries(LOG, last=last)]


def types_of(manager: CheckpointManager) -> list[str]:
    return [event["type"] for event in manager.history(LOG)]


# -- append and read -------------------------------------------------------------------


def test_entries_come_back_in_order_to_every_process(
    manager: CheckpointManager, root: Path
) -> None:
    manager.append(LOG, numbered(1, 2))
    made = manager.append(LOG, numbered(3))
    assert made == (manager.list(LOG)[-1].checkpoint_id, 3, 1)
    with CheckpointManager(root) as other:
        assert other.entries(LOG) == numbered(1, 2, 3)
    assert manager.history(LOG)[0]["data"]["kind"] == "log"


def test_the_last_entries_are_the_end_of_all(manager: CheckpointManager) -> None:
    for first in range(0, 300, 3):
        manager.append(LOG, numbered(first, first + 1, first + 2))
    for last in (0, 1, 2, 3, 4, 100, 299, 300, 500):
        assert numbers(manager, last) == [*range(300)][300 - min(last, 300) :]
    with pytest.raises(errors.InvalidArgument):
        manager.entries(LOG, last=-1)


def test_the_last_entries_are_read_without_those_before(
    root: Path, clock: Clock
) -> None:
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk), clock=clock) as made:
        for n in range(300):
            made.append(LOG, [{"n": n, "text": "x" * 1000}])
        made.entries(LOG, last=1)
        before, calls = disk.read_bytes, len(disk.of("read"))
        made.entries(LOG, last=5)
        assert disk.read_bytes - before < 300_000 / 2
        before, calls = disk.read_bytes, len(disk.of("read"))
        assert len(made.entries(LOG)) == 300
        assert len(disk.of("read")) - calls < 5  # not one for each append
        assert disk.read_bytes - before > 300_000
        for _ in range(300):
            made.append("many", [{"text": os.urandom(99).hex()} for _ in range(20)])
        before = disk.read_bytes
        assert len(made.entries("many", last=300)) == 300  # of 15 appends
        assert disk.read_bytes - before < 400_000


def test_an_empty_append_records_nothing(manager: CheckpointManager) -> None:
    assert manager.append(LOG, []) == (None, None, 0)
    assert manager.job(LOG) is None
    assert manager.entries(LOG) == []
    assert (manager.pop(LOG), manager.clear(LOG)) == (None, 0)


@pytest.mark.parametrize("entries", ["text", 5, [1], [["a"]], [None]])
def test_entries_are_a_list_of_dicts(manager: CheckpointManager, entries: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="a list of dicts"):
        manager.append(LOG, entries)
    assert manager.job(LOG) is None


def test_an_entry_may_have_values_of_the_types_of_the_manager(
    root: Path, clock: Clock
) -> None:
    with CheckpointManager(root, types=Types()) as typed:
        typed.append(LOG, [{"n": 1, "at": clock()}, {"n": 2}])
        assert typed.entries(LOG, last=2)[0] == {"n": 1, "at": clock()}
        assert typed.pop(LOG) == {"n": 2}


def test_a_stale_writer_is_refused_by_seq(manager: CheckpointManager) -> None:
    with pytest.raises(errors.Conflict):
        manager.append(LOG, numbered(1), expected_seq=2)
    assert manager.job_ids() == []
    manager.append(LOG, numbered(1), expected_seq=0)
    manager.append(LOG, numbered(2), expected_seq=2)
    for call in (manager.pop, manager.clear):
        with pytest.raises(errors.Conflict):
            call(LOG, expected_seq=2)  # type: ignore[operator]
    assert numbers(manager) == [1, 2]


# -- the kind of a job -----------------------------------------------------------------

ON_A_LOG: dict[str, Callable[[CheckpointManager], object]] = {
    "save": lambda m: m.save(LOG, "s", {}),
    "start": lambda m: m.start_workflow_execution(LOG, "w"),
    "fork": lambda m: m.fork(LOG, m.list(LOG)[0], "new"),
}
ON_STATES: dict[str, Callable[[CheckpointManager], object]] = {
    "append": lambda m: m.append("etl", [{}]),
    "entries": lambda m: m.entries("etl"),
    "pop": lambda m: m.pop("etl"),
    "clear": lambda m: m.clear("etl"),
}


@pytest.mark.parametrize("call", [*ON_A_LOG.values()], ids=[*ON_A_LOG])
def test_a_log_holds_no_states(
    manager: CheckpointManager, call: Callable[[CheckpointManager], object]
) -> None:
    manager.append(LOG, numbered(1))
    with pytest.raises(errors.WrongKind, match="holds the entries of a log") as caught:
        call(manager)
    assert (caught.value.code, caught.value.kind) == ("wrong_kind", "log")
    assert manager.job_ids() == [LOG]
    assert manager.seq(LOG) == 2


@pytest.mark.parametrize("call", [*ON_STATES.values()], ids=[*ON_STATES])
def test_a_job_with_states_is_no_log(
    manager: CheckpointManager, call: Callable[[CheckpointManager], object]
) -> None:
    manager.save("etl", "s", {})
    with pytest.raises(errors.WrongKind, match="holds states"):
        call(manager)
    assert manager.seq("etl") == 2


def test_the_first_caller_that_succeeds_decides_what_a_new_job_holds(
    root: Path,
) -> None:
    for turn in range(5):
        job, answers = f"job-{turn}", list[object]()
        with CheckpointManager(root) as manager:
            gate = threading.Barrier(2)

            def call(write: Callable[[], object]) -> None:
                gate.wait()  # noqa: B023 - joined in the same turn
                try:
                    write()
                except errors.WrongKind as exc:
                    answers.append(exc)  # noqa: B023

            writes = (
                lambda: manager.save(job, "s", {}),  # noqa: B023
                lambda: manager.append(job, [{}]),  # noqa: B023
            )
            threads = [threading.Thread(target=call, args=(w,)) for w in writes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(answers) == 1
            assert manager.seq(job) == 2


# -- keys ------------------------------------------------------------------------------


def test_an_append_can_be_repeated(manager: CheckpointManager) -> None:
    manager.append(LOG, numbered(1, 2), key="id")
    assert manager.append(LOG, numbered(1, 2), key="id") == (None, None, 0)
    assert manager.append(LOG, numbered(2, 3, 3), key="id").added == 1
    assert numbers(manager) == [1, 2, 3]
    assert types_of(manager).count("checkpoint.saved") == 2


def test_entries_without_a_key_are_always_added(manager: CheckpointManager) -> None:
    for _ in range(2):
        manager.append(
            LOG, [{"n": 1}, {"id": 7, "n": 2}, {"id": "a", "n": 3}], key="id"
        )
    assert numbers(manager) == [1, 2, 3, 1, 2]


def test_a_key_counts_while_its_entry_is_there(manager: CheckpointManager) -> None:
    manager.append(LOG, numbered(1), key="id")
    manager.append(LOG, numbered(2), key="id")
    manager.pop(LOG)
    assert manager.append(LOG, numbered(2), key="id").added == 1
    manager.restore(LOG, manager.list(LOG)[0])
    assert manager.append(LOG, numbered(2), key="id").added == 1
    manager.clear(LOG)
    assert manager.append(LOG, numbered(1, 2), key="id").added == 2
    assert numbers(manager) == [1, 2]


def test_a_digest_in_common_is_no_key_in_common(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = "milepost.journal.index.entry_keys.digest_of"
    monkeypatch.setattr(same, lambda _: b"12345678")
    monkeypatch.setattr(
        "milepost.journal.commands.appending.digest_of", lambda _: b"12345678"
    )
    manager.append(LOG, numbered(1), key="id")
    assert manager.append(LOG, numbered(2, 1), key="id").added == 1
    assert numbers(manager) == [1, 2]


def test_many_writers_of_the_same_entries_add_each_once(root: Path) -> None:
    with CheckpointManager(root) as one, CheckpointManager(root) as two:

        def write(manager: CheckpointManager) -> None:
            for n in range(0, 60, 2):
                manager.append(LOG, numbered(n, n + 1), key="id")

        writers = (*[one] * 6, two)  # six of one process share writes
        threads = [threading.Thread(target=write, args=(m,)) for m in writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers(one)) == [*range(60)]


def test_a_lookup_finds_every_key_however_many_there_are() -> None:
    keys = EntryKeys()
    import base64

    for seq in range(2000):
        raw = b"".join(digest_of(f"{seq}-{n}") for n in range(4))
        keys.add(seq, base64.b64encode(raw).decode())
        if seq % 700 == 0:
            assert seq in keys.appends_with(f"{seq}-3")
    again = EntryKeys(keys.packed())
    for seq in range(0, 2000, 13):
        assert [*keys.appends_with(f"{seq}-2")] == [seq]
        assert [*again.appends_with(f"{seq}-0")] == [seq]
    assert [*keys.appends_with("none")] == []
    assert len(keys.packed()) == 2000 * 4 * 16


@pytest.mark.parametrize("digests", ["", "AAAA", "%%%%", "é", 5, None])
def test_malformed_digests_of_keys_are_refused(digests: Any) -> None:
    keys = EntryKeys()
    if digests == "":
        keys.add(1, digests)
    else:
        with pytest.raises((ValueError, TypeError)):
            keys.add(1, digests)
    assert keys.packed() == b""


# -- pop, clear, undo ------------------------------------------------------------------


def test_popping_takes_one_entry_after_the_other(manager: CheckpointManager) -> None:
    manager.append(LOG, numbered(1, 2, 3))
    manager.append(LOG, numbered(4))
    for left in ([1, 2, 3], [1, 2], [1], []):
        popped = manager.pop(LOG)
        assert popped == {"id": f"e{len(left) + 1}", "n": len(left) + 1}
        assert numbers(manager) == left
    assert manager.pop(LOG) is None
    manager.append(LOG, numbered(5))
    assert numbers(manager) == [5]


def test_many_readers_pop_each_entry_once(root: Path) -> None:
    with CheckpointManager(root) as one, CheckpointManager(root) as two:
        for n in range(0, 60, 3):
            one.append(LOG, numbered(n, n + 1, n + 2))
        popped = list[Any]()

        def pop(manager: CheckpointManager) -> None:
            popped.extend(manager.pop(LOG) for _ in range(15))

        threads = [
            threading.Thread(target=pop, args=(m,)) for m in (one, one, two, two)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(each["n"] for each in popped) == [*range(60)]
        assert one.entries(LOG) == two.entries(LOG) == []


def test_a_pop_is_one_write(manager: CheckpointManager) -> None:
    manager.append(LOG, numbered(1, 2), key="id")
    manager.pop(LOG, actor="me")
    *_, saved, deleted = manager.history(LOG)
    assert [saved["type"], deleted["type"]] == [
        *("checkpoint.saved", "checkpoint.deleted")
    ]
    assert saved["span"] == deleted["span"] == [3, 4]  # type: ignore[typeddict-item]
    assert deleted["data"]["reason"] == "popped"
    assert deleted["actor"] == "me"


def test_a_popped_entry_can_be_brought_back(manager: CheckpointManager) -> None:
    first = manager.append(LOG, numbered(1, 2)).checkpoint_id
    last = manager.append(LOG, numbered(3)).checkpoint_id
    assert first is not None
    assert last is not None
    manager.pop(LOG)
    manager.undelete(LOG, last)
    assert numbers(manager) == [1, 2, 3]
    manager.pop(LOG)
    manager.pop(LOG)
    manager.undelete(LOG, first)
    assert numbers(manager) == [1]  # beside the rest of that append, not twice
    manager.restore(LOG, first)
    assert numbers(manager) == [1, 2]


def test_a_restore_moves_a_log_back(manager: CheckpointManager) -> None:
    made = [manager.append(LOG, numbered(n)) for n in range(4)]
    assert made[1].checkpoint_id is not None
    manager.restore(LOG, made[1].checkpoint_id)
    assert numbers(manager) == [0, 1]
    manager.append(LOG, numbered(9))
    assert numbers(manager) == [0, 1, 9]
    assert numbers(manager, 2) == [1, 9]
    assert len(manager.list(LOG)) == 5


def test_a_cleared_log_can_be_undeleted(manager: CheckpointManager) -> None:
    made = [manager.append(LOG, numbered(n)).checkpoint_id for n in range(3)]
    assert manager.clear(LOG, reason="asked for") == 3
    assert (manager.entries(LOG), manager.clear(LOG)) == ([], 0)
    event = manager.history(LOG)[-1]
    assert event["type"] == "checkpoints.cleaned"
    assert event["data"]["removed"] == dict.fromkeys(made, "asked for")
    for checkpoint_id in made:
        assert checkpoint_id is not None
        manager.undelete(LOG, checkpoint_id)
    assert numbers(manager) == [0, 1, 2]


@pytest.mark.parametrize("mark", ["pin", "hold"])
def test_pins_and_holds_protect_an_append(
    manager: CheckpointManager, mark: str
) -> None:
    manager.append(LOG, numbered(1, 2))
    getattr(manager, mark)(LOG, manager.list(LOG)[0])
    seq = manager.seq(LOG)
    for call in (manager.pop, manager.clear):
        with pytest.raises(errors.Protected):
            call(LOG)  # type: ignore[operator]
    assert manager.seq(LOG) == seq


# -- retention, compaction, encryption, snapshots --------------------------------------


def test_the_unit_of_retention_is_an_append(
    manager: CheckpointManager, clock: Clock
) -> None:
    for n in range(0, 10, 2):
        manager.append(LOG, numbered(n, n + 1))
        clock.turn(hours=1)
    manager.apply(manager.plan(LOG, Policy(keep_last=2)))
    assert numbers(manager) == [6, 7, 8, 9]
    clock.turn(days=400)
    manager.apply(manager.plan(LOG, Policy(max_age="1d")), trust_clock=True)
    assert numbers(manager) == [8, 9]  # I6: an idle log keeps its last append
    clock.turn(days=8)
    manager.compact(LOG, trust_clock=True)
    assert numbers(manager) == [8, 9]
    manager.append(LOG, numbered(10))
    assert numbers(manager) == [8, 9, 10]
    assert manager.verify(LOG, deep=True)[0].ok


def test_entries_are_as_secret_as_states(root: Path) -> None:
    keys = KeyRing([Key("k1", bytes(32))])
    with CheckpointManager(root, keys=keys) as manager:
        manager.append(LOG, [{"id": "a", "text": "a secret"}], key="id")
        manager.append(LOG, [{"id": "a"}, {"id": "b", "text": "other"}], key="id")
        assert manager.entries(LOG) == [
            {"id": "a", "text": "a secret"},
            {"id": "b", "text": "other"},
        ]
    assert b"secret" not in (root / "journals" / f"{LOG}.jsonl").read_bytes()


def test_a_snapshot_knows_kind_and_keys(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1)
    with CheckpointManager(root, clock=clock) as manager:
        for n in range(12):
            manager.append(LOG, numbered(n), key="id")
        folded = whole(manager._reader.view(LOG))
    assert (root / "snapshots" / LOG).exists()
    with CheckpointManager(root, clock=clock) as manager:
        assert whole(manager._reader.view(LOG)) == folded
        assert manager.append(LOG, numbered(3, 12), key="id").added == 1
        with pytest.raises(errors.WrongKind):
            manager.save(LOG, "s", {})


def test_a_damaged_append_is_named_and_nothing_else_is_returned(
    root: Path, clock: Clock
) -> None:
    with CheckpointManager(root, clock=clock) as manager:
        for n in range(3):
            manager.append(LOG, [{"n": n, "text": f"text-{n}"}])
    journal = root / "journals" / f"{LOG}.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"text-1", b"text-X"))
    with CheckpointManager(root, clock=clock) as manager:
        with pytest.raises(errors.UnreadableState, match="event 3"):
            manager.entries(LOG)
        assert [e["n"] for e in manager.entries(LOG, last=1)] == [2]


# -- states ----------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [False, True])
def test_all_states_are_as_get_returns_them(
    root: Path, clock: Clock, *, in_memory: bool
) -> None:
    place: Any = {"storage": MemoryStorage()} if in_memory else {"root": root}
    with CheckpointManager(**place, clock=clock) as manager:
        for n in range(150):
            state = {"n": n, "items": [f"item {i} of a long list" for i in range(n)]}
            made = manager.save("etl", "s", state, metadata={"n": n})
            if n % 7 == 3:
                manager.delete("etl", made)
        expected = [manager.get("etl", info) for info in manager.list("etl")]
        assert [*manager.states("etl")] == expected
        assert [*manager.states("nobody")] == []


def test_each_state_of_a_chain_is_read_once(root: Path, clock: Clock) -> None:
    disk = FaultyDisk(root)
    with CheckpointManager(storage=FileStorage(root, disk=disk), clock=clock) as made:
        for n in range(100):
            made.save("etl", "s", {"items": [f"item {i}" * 9 for i in range(50 + n)]})
        stored = made.jobs()[0].size_bytes
    with CheckpointManager(storage=FileStorage(root, disk=disk), clock=clock) as made:
        made.list("etl")
        before = disk.read_bytes
        assert len([*made.states("etl")]) == 100
        assert disk.read_bytes - before < stored + 10_000


def test_states_are_read_on_after_a_compaction(
    manager: CheckpointManager, root: Path, clock: Clock
) -> None:
    for n in range(200):
        manager.save("etl", "s", {"n": n, "text": "x" * 3000})
    found = manager.states("etl")
    first = next(found)
    with CheckpointManager(root, clock=clock, trash_seconds=0) as other:
        for info in other.list("etl")[50:60]:
            other.delete("etl", info, purge=True)
    rest = [each.state["n"] for each in found]
    assert first.state["n"] == 0
    assert [n for n in rest if n >= 100] == [*range(100, 200)]
    assert rest == sorted(set(rest))
