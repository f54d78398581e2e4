"""What `MilepostSaver` adds to LangGraph's suite: the edges that it does not test."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from milepost import CheckpointManager, errors
from milepost.langgraph import MilepostSaver
from tests.langgraph.threads import checkpoint_of, config_of, ids, put

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def saver(root: Path) -> Iterator[MilepostSaver]:
    with MilepostSaver(root) as made:
        yield made


# -- lists -----------------------------------------------------------------------------


def test_a_list_of_all_threads_is_newest_first_over_all_of_them(
    saver: MilepostSaver,
) -> None:
    for checkpoint_id, thread in (("1", "a"), ("4", "b"), ("2", "b"), ("3", "a")):
        put(saver, checkpoint_id, thread)
    assert ids(saver.list(None)) == ["4", "3", "2", "1"]
    assert ids(saver.list(None, limit=3)) == ["4", "3", "2"]


def test_jobs_that_hold_no_thread_are_in_no_list(saver: MilepostSaver) -> None:
    saver.manager.save("etl", "extract", {"rows": 1})
    put(saver, "1")
    assert ids(saver.list(None)) == ["1"]
    assert saver.thread_ids() == ["t"]
    assert saver.get_tuple(config_of("etl")) is None


def test_a_list_without_a_namespace_has_all_of_them(saver: MilepostSaver) -> None:
    put(saver, "1")
    put(saver, "2", ns="sub:1")
    assert ids(saver.list(config_of(ns=None))) == ["2", "1"]
    assert ids(saver.list(config_of())) == ["1"]
    assert ids(saver.list(config_of(ns=None, checkpoint_id="2"))) == ["2"]


# The metadata, the filter, and whether they match.
FILTERS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "1 and True are equal": ({"k": True}, {"k": 1}, True),
    "None and a missing key are equal": ({}, {"k": None}, True),
    "an empty object is not contained": ({"k": {"a": 1}}, {"k": {}}, False),
    "a list is not contained": ({"k": [1, 2]}, {"k": [1]}, False),
    "equal lists": ({"k": [1, 2]}, {"k": [1, 2]}, True),
    "a key with a dot is a plain key": ({"d.k": 1}, {"d.k": 1}, True),
    "a key with a dot is no path": ({"d": {"k": 1}}, {"d.k": 1}, False),
    "a key with a space": ({"a b": 1}, {"a b": 1}, True),
    "all keys must match": ({"a": 1, "b": 2}, {"a": 1, "b": 3}, False),
    "a run": ({"run_id": "r"}, {"run_id": "r"}, True),
    "another run": ({"run_id": "r"}, {"run_id": "s"}, False),
    "no run": ({}, {"run_id": "s"}, False),
    "a run that is no string": ({"run_id": 7}, {"run_id": 7}, True),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_compares_as_python_does(saver: MilepostSaver, name: str) -> None:
    metadata, wanted, matches = FILTERS[name]
    put(saver, "1", **metadata)
    assert ids(saver.list(config_of(), filter=wanted)) == ["1"] * matches


def test_before_compares_ids_as_strings_and_the_id_need_not_exist(
    saver: MilepostSaver,
) -> None:
    for checkpoint_id in ("1", "10", "2", "3"):
        put(saver, checkpoint_id)
    before = config_of("other", checkpoint_id="25")
    assert ids(saver.list(config_of(), before=before)) == ["2", "10", "1"]
    assert ids(saver.list(config_of(), before=config_of())) == ["3", "2", "10", "1"]


def test_a_limit_counts_what_matches_and_may_be_0(saver: MilepostSaver) -> None:
    for number in range(4):
        put(saver, f"{number}", even=number % 2 == 0)
    assert ids(saver.list(None, filter={"even": True}, limit=2)) == ["2", "0"]
    assert ids(saver.list(None, limit=0)) == []
    with pytest.raises(ValueError, match="limit must be 0 or more, got -1"):
        saver.list(None, limit=-1)


def test_what_is_removed_while_a_list_pauses_is_left_out(saver: MilepostSaver) -> None:
    for number in range(3):
        put(saver, f"{number}")
    listed = saver.list(config_of())
    next(listed)
    saver.prune(["t"])
    assert ids(listed) == []


def test_an_async_list_may_be_left_half_way(saver: MilepostSaver) -> None:
    for number in range(40):
        put(saver, f"{number:02}")

    async def some(most: int) -> list[str]:
        found = []
        async for each in saver.alist(config_of()):
            found.append(each)
            if len(found) == most:
                break
        return ids(found)

    whole = [f"{number:02}" for number in reversed(range(40))]
    assert asyncio.run(some(5)) == whole[:5]
    assert asyncio.run(some(99)) == whole


# -- checkpoints -----------------------------------------------------------------------


def test_the_latest_has_the_greatest_id_not_the_last_put(saver: MilepostSaver) -> None:
    for checkpoint_id in ("1", "3", "2"):
        put(saver, checkpoint_id)
    latest = saver.get_tuple(config_of(ns=None))
    assert ids([latest]) == ["3"]


def test_an_id_that_is_put_again_replaces_its_checkpoint(saver: MilepostSaver) -> None:
    put(saver, "1", step=1)
    put(saver, "1", step=2)
    (found,) = saver.list(config_of())
    assert found.metadata["step"] == 2
    saver.delete_thread("t")
    assert saver.get_tuple(config_of()) is None
    put(saver, "1", step=3)
    (found,) = saver.list(config_of())
    assert found.metadata["step"] == 3


def test_a_config_that_is_read_is_clean(saver: MilepostSaver) -> None:
    put(saver, "1")
    asked = config_of(checkpoint_id="1", user="ann")
    found: Any = saver.get_tuple({**asked, "metadata": {"x": 1}})
    assert found.config == config_of(checkpoint_id="1")


def test_a_thread_id_may_be_a_number(saver: MilepostSaver) -> None:
    put(saver, "1", thread=7)
    assert ids([saver.get_tuple(config_of("7"))]) == ["1"]
    assert ids([saver.get_tuple(config_of(7))]) == ["1"]


def test_reading_an_unknown_thread_creates_no_file(root: Path) -> None:
    with MilepostSaver(root) as saver:
        assert saver.get_tuple(config_of("unknown")) is None
        assert ids(saver.list(config_of("unknown"))) == []
        saver.delete_thread("unknown")
        saver.prune(["unknown"])
        saver.delete_for_runs(["unknown"])
        assert saver.thread_ids() == []
    assert [path for path in root.rglob("*") if "unknown" in path.name] == []


def test_a_parent_that_is_gone_is_no_parent(saver: MilepostSaver) -> None:
    first = put(saver, "1")
    saver.put(first, checkpoint_of("2"), {"source": "loop"}, {})
    found: Any = saver.get_tuple(config_of())
    assert found.parent_config == config_of(checkpoint_id="1")
    saver.prune(["t"])
    found = saver.get_tuple(config_of())
    assert found.parent_config is None


def test_odd_values_and_unknown_keys_come_back(saver: MilepostSaver) -> None:
    values = {
        "when": datetime(2026, 1, 1, tzinfo=UTC),
        "path": Path("/x"),
        "bytes": b"\0\xff",
        "set": {1, 2},
        "none": None,
        "large": "prose " * 50_000,
        "dots.in key": float("inf"),
    }
    checkpoint = {**checkpoint_of("1", **values), "of the future": [1]}
    checkpoint["channel_versions"]["empty"] = 1
    saver.put(config_of(), checkpoint, {"source": "loop"}, {"empty": 1})
    found: Any = saver.get_tuple(config_of())
    assert found.checkpoint == checkpoint
    assert "empty" not in found.checkpoint["channel_values"]


# JSON would not give these back, or they are too large to be kept beside the state.
METADATA: dict[str, Any] = {
    "a time": datetime(2026, 1, 1, tzinfo=UTC),
    "bytes": b"x",
    "keys that are no strings": {1: 2},
    "a number beyond 64 bits": float("nan"),
    "much text": "x" * 70_000,
    "an object of a class": Path("/x"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_is_no_json_comes_back(saver: MilepostSaver, name: str) -> None:
    put(saver, "1", odd=METADATA[name], run_id="r")
    (found,) = saver.list(None, filter={"run_id": "r"})
    assert repr(found.metadata["odd"]) == repr(METADATA[name])


def test_metadata_has_the_scalars_of_the_config(saver: MilepostSaver) -> None:
    config = {**config_of(user="ann", __private="x"), "metadata": {"tenant": 7}}
    saver.put(config, checkpoint_of("1"), {"source": "loop", "pair": (1, 2)}, {})
    found: Any = saver.get_tuple(config_of())
    assert found.metadata == {
        "source": "loop",
        "pair": [1, 2],
        "tenant": 7,
        "user": "ann",
    }


# -- writes ----------------------------------------------------------------------------


def pending(saver: Any) -> list[Any]:
    return [
        (task, value) for task, _, value in saver.get_tuple(config_of()).pending_writes
    ]


def test_writes_come_in_the_order_of_their_paths(saver: MilepostSaver) -> None:
    config = put(saver, "1")
    saver.put_writes(config, [("a", 1), ("b", 2)], "task-1", "~3")
    saver.put_writes(config, [("a", 3)], "task-3", "~2")
    saver.put_writes(config, [("a", 4)], "task-2", "~2")
    saver.put_writes(config, [("a", 5)], "task-9")
    assert pending(saver) == [
        *(("task-9", 5), ("task-2", 4), ("task-3", 3)),
        *(("task-1", 1), ("task-1", 2)),
    ]


def test_writes_may_come_before_their_checkpoint(saver: MilepostSaver) -> None:
    config = config_of(checkpoint_id="1")
    saver.put_writes(config, [("a", 1)], "task")
    assert saver.get_tuple(config) is None
    put(saver, "0")
    saver.prune(["t"])
    put(saver, "1")
    assert pending(saver) == [("task", 1)]


def test_a_special_write_is_replaced_and_another_is_kept(saver: MilepostSaver) -> None:
    config = put(saver, "1")
    saver.put_writes(config, [("a", 1), ("__interrupt__", "x")], "task")
    saver.put_writes(config, [("a", 2), ("__interrupt__", "y")], "task")
    assert sorted(pending(saver), key=repr) == [("task", "y"), ("task", 1)]
    memory = InMemorySaver()
    config = put(memory, "1")
    memory.put_writes(config, [("a", 1), ("__interrupt__", "x")], "task")
    memory.put_writes(config, [("a", 2), ("__interrupt__", "y")], "task")
    assert pending(memory) == pending(saver)


def test_of_two_special_writes_in_one_call_the_last_counts(
    saver: MilepostSaver,
) -> None:
    config = put(saver, "1")
    saver.put_writes(config, [("__resume__", 1), ("__resume__", 2)], "task")
    assert pending(saver) == [("task", 2)]


def test_writes_that_are_known_add_no_event(saver: MilepostSaver) -> None:
    config = put(saver, "1")
    saver.put_writes(config, [("a", 1)], "task")
    seq = saver.manager.seq("t")
    saver.put_writes(config, [("a", 1)], "task")
    assert saver.manager.seq("t") == seq


# -- threads ---------------------------------------------------------------------------


def test_a_copy_outlives_its_source(saver: MilepostSaver) -> None:
    config = put(saver, "1", run_id="r")
    saver.put_writes(config, [("a", b"x" * 5000)], "task")
    put(saver, "2", ns="sub:1")
    saver.copy_thread("t", "u")
    before = [*saver.list(config_of("u", ns=None))]
    saver.delete_thread("t")
    saver.manager.trash_seconds = 0
    saver.manager.compact("t")
    assert [*saver.list(config_of("u", ns=None))] == before
    assert ids(before) == ["2", "1"]
    assert before[1].pending_writes == [("task", "a", b"x" * 5000)]


def test_a_copy_onto_checkpoints_is_refused(saver: MilepostSaver) -> None:
    put(saver, "1")
    put(saver, "2", thread="u")
    with pytest.raises(errors.Conflict, match="'u'"):
        saver.copy_thread("t", "u")


def test_threads_are_listed_by_their_last_write(saver: MilepostSaver) -> None:
    for checkpoint_id, thread in (("1", "a"), ("2", "b"), ("3", "a")):
        put(saver, checkpoint_id, thread)
    assert saver.thread_ids() == ["a", "b"]
    saver.delete_thread("a")
    assert saver.thread_ids() == ["b"]


@pytest.mark.parametrize("call", ["prune", "delete_for_runs"])
def test_a_single_string_is_no_list(saver: MilepostSaver, call: str) -> None:
    with pytest.raises(TypeError, match="must be a list of strings, got 'abc'"):
        getattr(saver, call)("abc")


def test_an_unknown_strategy_is_refused(saver: MilepostSaver) -> None:
    with pytest.raises(ValueError, match="strategy must be keep_latest or delete"):
        saver.prune([], strategy="keep_some")


# -- fencing ---------------------------------------------------------------------------


def test_a_fenced_saver_refuses_a_branch_that_nothing_asked_for(root: Path) -> None:
    with MilepostSaver(root, fenced=True) as saver:
        first = put(saver, "1")
        saver.put(first, checkpoint_of("2"), {"source": "loop"}, {})
        with pytest.raises(errors.Conflict):
            saver.put(first, checkpoint_of("3"), {"source": "loop"}, {})
        with pytest.raises(errors.Conflict):
            put(saver, "3")
        assert ids(saver.list(None)) == ["2", "1"]
        saver.put(first, checkpoint_of("3"), {"source": "fork"}, {})
        put(saver, "1", ns="another")


# -- opening and closing ---------------------------------------------------------------


def test_what_one_saver_wrote_another_reads(root: Path) -> None:
    with MilepostSaver.from_conn_string(str(root)) as saver:
        config = put(saver, "1")
        saver.put_writes(config, [("a", {1})], "task", "~1")
        found = saver.get_tuple(config)
    with MilepostSaver(root) as other:
        assert other.get_tuple(config_of()) == found


def test_a_store_in_memory_is_forgotten() -> None:
    with MilepostSaver.from_conn_string(":memory:") as saver:
        put(saver, "1")
        assert ids(saver.list(None)) == ["1"]
    with MilepostSaver.from_conn_string(":memory:") as saver:
        assert ids(saver.list(None)) == []


def test_a_manager_that_was_given_stays_open(root: Path) -> None:
    with CheckpointManager(root) as manager:
        with MilepostSaver(manager) as saver:
            put(saver, "1")
        with MilepostSaver(manager) as saver:
            assert ids(saver.list(None)) == ["1"]


def test_a_saver_is_an_async_context_manager_too(root: Path) -> None:
    async def use() -> Any:
        async with MilepostSaver.from_conn_string(str(root)) as saver:
            await saver.aput(config_of(), checkpoint_of("1"), {"source": "loop"}, {})
            return await saver.aget_tuple(config_of())

    assert ids([asyncio.run(use())]) == ["1"]


WRONG_FOLDERS = {
    "sqlite:x.db": "sqlite:x.db is not a folder",
    "postgresql://localhost/x": "postgresql://localhost/x is not a folder",
    "file.db": "file.db is a file, not a folder",
}


@pytest.mark.parametrize("name", WRONG_FOLDERS)
def test_a_wrong_folder_is_refused_in_one_line(folder: Path, name: str) -> None:
    sqlite3.connect(folder / "file.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(errors.InvalidArgument, match=WRONG_FOLDERS[name]) as caught:
        MilepostSaver.from_conn_string(name)
    assert "milepost import langgraph" in str(caught.value.hint)


def test_a_serializer_that_encrypts_is_warned_of(root: Path) -> None:
    class Cipher:
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "swap", plaintext[::-1]

        def decrypt(self, _: str, ciphertext: bytes) -> bytes:
            return ciphertext[::-1]

    with pytest.warns(UserWarning, match="encrypt the store instead"):
        saver = MilepostSaver(root, serde=EncryptedSerializer(Cipher()))
    with saver:
        put(saver, "1")
        assert ids(saver.list(None)) == ["1"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MilepostSaver(root, serde=JsonPlusSerializer()).close()


def test_a_copy_with_a_stricter_serializer_shares_the_store(root: Path) -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=[("a", "b")])
    with MilepostSaver(root, serde=serde) as saver:
        strict = saver.with_allowlist([("c", "d")])
        assert strict is not saver
        put(strict, "1")
        assert ids(saver.list(None)) == ["1"]


# -- threads, loops and processes ------------------------------------------------------


def test_async_calls_run_beside_each_other_and_beside_sync_ones(
    saver: MilepostSaver,
) -> None:
    async def main() -> None:
        await asyncio.gather(
            *(
                saver.aput(config_of(f"{n}"), checkpoint_of("1"), {"step": n}, {})
                for n in range(50)
            )
        )
        put(saver, "1")  # in the loop's own thread, as a subgraph does
        assert ids([await saver.aget_tuple(config_of())]) == ["1"]

    asyncio.run(main())
    assert len(saver.thread_ids()) == 51


def test_a_loop_whose_own_threads_are_busy_does_not_hold_up_a_saver(
    saver: MilepostSaver,
) -> None:
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        busy = [loop.run_in_executor(None, release.wait) for _ in range(40)]
        await saver.aput(config_of(), checkpoint_of("1"), {"source": "loop"}, {})
        release.set()
        await asyncio.gather(*busy)

    asyncio.run(main())
    assert ids(saver.list(None)) == ["1"]


def test_a_forked_child_has_threads_of_its_own(saver: MilepostSaver) -> None:
    async def aput(checkpoint_id: str) -> None:
        put = checkpoint_of(checkpoint_id)
        await saver.aput(config_of(), put, {"source": "loop"}, {})

    asyncio.run(aput("1"))
    child = multiprocessing.get_context("fork").Process(
        target=lambda: asyncio.run(aput("2"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
        child.start()
    child.join(60)
    assert child.exitcode == 0
    assert ids(saver.list(None)) == ["2", "1"]


def _puts(root: Path, name: str, count: int) -> None:
    with MilepostSaver(root) as saver:
        for number in range(count):
            config = put(saver, f"{name}-{number:03}", run_id=name)
            saver.put_writes(config, [("pid", os.getpid())], "task")


def test_processes_write_one_thread_beside_each_other(root: Path) -> None:
    names = ("a", "b", "c", "d")
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_puts, args=(root, n, 25)) for n in names]
    for child in children:
        child.start()
    with MilepostSaver(root) as saver:
        for child in children:
            child.join(120)
        assert [child.exitcode for child in children] == [0] * 4
        found = [*saver.list(config_of())]
        assert sorted(ids(found)) == [f"{n}-{i:03}" for n in names for i in range(25)]
        assert all(len(each.pending_writes or ()) == 1 for each in found)
        assert all(report.ok for report in saver.manager.verify(deep=True))
