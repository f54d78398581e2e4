"""The history of delta channels, in the spirit of LangGraph's own unreleased tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from milepost.langgraph import MilepostSaver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from langchain_core.runnables import RunnableConfig

BOTH = ["log", "items"]


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[MilepostSaver]:
    with MilepostSaver(tmp_path) as made:
        yield made


def chain(
    saver: MilepostSaver, values: list[dict[str, Any]], *, counted: bool = True
) -> list[RunnableConfig]:
    """Put checkpoints, each the parent of the next; each gets a write per channel."""
    configs: list[RunnableConfig] = []
    config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for number, stored in enumerate(values):
        versions = dict.fromkeys(BOTH, number + 1)
        checkpoint: Any = {
            "v": 4,
            "id": f"{number:04}",
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": stored,
            "channel_versions": versions,
            "versions_seen": {},
            "updated_channels": None,
        }
        metadata: Any = {"source": "loop", "step": number, "parents": {}}
        if counted:
            metadata["counters_since_delta_snapshot"] = {
                name: (number + 1, number + 1) for name in BOTH if name not in stored
            }
        config = saver.put(config, checkpoint, metadata, versions)
        # Parallel tasks: the order of their paths is not that of their ids.
        saver.put_writes(config, [("log", [f"b{number}"])], "task-1", "~2")
        saver.put_writes(
            config, [("items", number), ("log", [f"a{number}"])], "task-2", "~1"
        )
        configs.append(config)
    return configs


def history(saver: MilepostSaver, config: RunnableConfig, *names: str) -> Any:
    found = saver.get_delta_channel_history(config=config, channels=names)
    # What the base class finds by one `get_tuple` per ancestor.
    assert found == BaseCheckpointSaver.get_delta_channel_history(
        saver, config=config, channels=names
    )
    return found


def written(found: Any, name: str) -> list[Any]:
    assert all(write[1] == name for write in found[name]["writes"])
    return [write[2] for write in found[name]["writes"]]


def test_writes_come_oldest_first_and_in_the_order_of_their_paths(
    saver: MilepostSaver,
) -> None:
    *_, last = chain(saver, [{}, {}, {}])
    found = history(saver, last, "log")
    assert written(found, "log") == [["a0"], ["b0"], ["a1"], ["b1"]]


def test_the_writes_of_the_target_itself_are_excluded(saver: MilepostSaver) -> None:
    first, *_ = chain(saver, [{}, {}])
    assert history(saver, first, "log") == {"log": {"writes": []}}


def test_the_nearest_stored_value_is_the_seed(saver: MilepostSaver) -> None:
    snapshots = [{"log": _DeltaSnapshot([f"to {n}"])} for n in range(2)]
    *_, last = chain(saver, [*snapshots, {}, {}])
    found = history(saver, last, "log")
    assert found["log"]["seed"] == _DeltaSnapshot(["to 1"])
    assert written(found, "log") == [["a1"], ["b1"], ["a2"], ["b2"]]


def test_a_plain_value_is_a_seed_too(saver: MilepostSaver) -> None:
    *_, last = chain(saver, [{"log": ["plain"]}, {}])
    found = history(saver, last, "log")
    assert found["log"]["seed"] == ["plain"]


def test_the_writes_of_the_ancestor_of_the_seed_are_replayed(
    saver: MilepostSaver,
) -> None:
    *_, last = chain(saver, [{}, {"log": _DeltaSnapshot(["x"])}, {}])
    assert written(history(saver, last, "log"), "log") == [["a1"], ["b1"]]


def test_no_seed_is_named_at_the_root(saver: MilepostSaver) -> None:
    *_, last = chain(saver, [{}, {}])
    assert "seed" not in history(saver, last, "log")["log"]


def test_each_channel_ends_at_its_own_seed(saver: MilepostSaver) -> None:
    values = [{"items": 7, "log": ["old"]}, {}, {"log": _DeltaSnapshot(["new"])}, {}]
    *_, last = chain(saver, values)
    found = history(saver, last, *BOTH)
    assert found["items"]["seed"] == 7
    assert written(found, "items") == [0, 1, 2]
    assert found["log"]["seed"] == _DeltaSnapshot(["new"])
    assert written(found, "log") == [["a2"], ["b2"]]


def test_no_channels_have_no_history(saver: MilepostSaver) -> None:
    *_, last = chain(saver, [{}, {}])
    assert history(saver, last) == {}
    unknown: RunnableConfig = {"configurable": {"thread_id": "other"}}
    assert history(saver, unknown, "log") == {"log": {"writes": []}}


def test_a_seed_is_found_although_no_counter_names_its_channel(
    saver: MilepostSaver,
) -> None:
    *_, last = chain(saver, [{"log": ["plain"]}, {}, {}], counted=False)
    found = history(saver, last, "log")
    assert found["log"]["seed"] == ["plain"]


def test_only_the_path_of_parents_counts(saver: MilepostSaver) -> None:
    first, _, _ = chain(saver, [{"log": ["root"]}, {}, {}])
    branch: Any = saver.get_tuple(first)
    forked = saver.put(
        first, {**branch.checkpoint, "id": "9999"}, {"source": "fork"}, {}
    )
    checkpoint: Any = {**branch.checkpoint, "id": "99999", "channel_values": {}}
    last = saver.put(forked, checkpoint, {"source": "loop"}, {})
    assert written(history(saver, last, "log"), "log") == []


def test_a_checkpoint_that_is_its_own_ancestor_ends_the_walk(
    saver: MilepostSaver,
) -> None:
    first, second = chain(saver, [{}, {}])
    tuple_: Any = saver.get_tuple(first)
    saver.put(second, tuple_.checkpoint, tuple_.metadata, {})
    found = saver.get_delta_channel_history(config=second, channels=["log"])
    assert {"a0", "b0"} <= {value for (value,) in written(found, "log")}
