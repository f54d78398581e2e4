"""LangGraph's suite, with every capability counted, and the parity of both sides."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.test_utils import (
    generate_checkpoint,
    generate_config,
    generate_metadata,
)

from milepost.langgraph import MilepostSaver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

TESTS_BY_CAPABILITY = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "delete_for_runs": 7,
    "copy_thread": 8,
    "prune": 8,
}
# The sync methods that the async ones stand for.
METHODS = [
    *("get_tuple", "list", "put", "put_writes", "delete_thread", "delete_for_runs"),
    *("copy_thread", "prune", "get_delta_channel_history", "thread_ids"),
]


class SyncSaver(MilepostSaver):
    """Async methods that call the sync ones in the event loop's own thread."""

    async def alist(self, *args: Any, **named: Any) -> AsyncIterator[Any]:
        for each in self.list(*args, **named):
            yield each


def _direct(name: str) -> Callable[..., Any]:
    async def call(self: SyncSaver, *args: Any, **named: Any) -> Any:
        return getattr(self, name)(*args, **named)

    return call


for _name in METHODS:
    if _name != "list":
        setattr(SyncSaver, f"a{_name}", _direct(_name))


def counts(kind: type[MilepostSaver]) -> dict[str, tuple[int, int]]:
    @checkpointer_test(name=kind.__name__)
    async def saver() -> AsyncIterator[MilepostSaver]:
        with tempfile.TemporaryDirectory() as folder, kind(folder) as made:
            yield made

    report = asyncio.run(validate(saver))
    print(report.to_dict())
    return {
        name: (result.tests_passed, result.tests_failed)
        for name, result in report.results.items()
    }


def test_all_capabilities_are_detected_and_all_81_tests_pass() -> None:
    expected = {name: (count, 0) for name, count in TESTS_BY_CAPABILITY.items()}
    assert sum(TESTS_BY_CAPABILITY.values()) == 81
    assert counts(MilepostSaver) == expected


def test_the_sync_methods_pass_the_same_81_tests() -> None:
    expected = {name: (count, 0) for name, count in TESTS_BY_CAPABILITY.items()}
    assert counts(SyncSaver) == expected


def test_every_public_method_of_the_interface_is_overridden() -> None:
    inherited = {"get", "aget", "config_specs", "with_allowlist"}
    for name in vars(BaseCheckpointSaver):
        if not name.startswith("_") and name not in inherited | {"serde"}:
            assert name in vars(MilepostSaver), name


def test_both_methods_of_a_pair_have_the_same_parameters() -> None:
    for name in METHODS:
        ours = inspect.signature(getattr(MilepostSaver, name)).parameters
        assert inspect.signature(getattr(MilepostSaver, f"a{name}")).parameters == ours
        if base := getattr(BaseCheckpointSaver, name, None):
            theirs = inspect.signature(base).parameters
            kinds = [(p.name, p.kind, p.default) for p in theirs.values()]
            assert [(p.name, p.kind, p.default) for p in ours.values()] == kinds


async def script(saver: MilepostSaver) -> list[Any]:
    """Change threads through the async methods; return all that they show."""
    seen: list[Any] = []
    for thread in ("one", "two"):
        config = generate_config(thread)
        for number in range(3):
            put = generate_checkpoint(
                checkpoint_id=f"{number}", channel_values={"n": number}
            )
            put["ts"] = "2026-01-01T00:00:00+00:00"
            metadata = generate_metadata(step=number, run_id=f"run {number}")
            config = await saver.aput(config, put, metadata, {})
            await saver.aput_writes(config, [("n", number), ("m", b"x")], "task", "~a")
    seen += [each async for each in saver.alist(None, filter={"step": 1})]
    await saver.acopy_thread("one", "three")
    await saver.adelete_for_runs(["run 1"])
    await saver.aprune(["two"])
    await saver.adelete_thread("one")
    for thread in ("one", "two", "three"):
        config = generate_config(thread)
        seen.append(await saver.aget_tuple(config))
        seen += [each async for each in saver.alist(config)]
        seen.append(
            await saver.aget_delta_channel_history(config=config, channels=["m"])
        )
    seen.append(sorted(await saver.athread_ids()))
    return seen


def test_one_script_shows_the_same_through_both_sides(tmp_path: Path) -> None:
    with (
        MilepostSaver(tmp_path / "async") as saver,
        SyncSaver(tmp_path / "sync") as other,
    ):
        seen = asyncio.run(script(saver))
        assert seen == asyncio.run(script(other))
    assert len(seen) > 10
