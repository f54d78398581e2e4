"""The session store of the Claude Agent SDK: its own suite, kills, and races."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, project_key_for_directory
from claude_agent_sdk.testing import run_session_store_conformance

from milepost import CheckpointManager, MemoryStorage, errors
from milepost.adapters.claude import MilepostSessionStore
from tests.adapters.children import example, killed, page_runs

if TYPE_CHECKING:
    from pathlib import Path

KEY: Any = {"project_key": "proj", "session_id": "sess"}
SUB: Any = {**KEY, "subpath": "subagents/agent-1"}


def entries(*names: str) -> Any:
    return [{"type": "x", "uuid": name} for name in names]


@pytest.fixture
def store(tmp_path: Path) -> MilepostSessionStore:
    return MilepostSessionStore(tmp_path)


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_suite_of_the_sdk_passes_whole(tmp_path: Path, *, in_memory: bool) -> None:
    made = 0

    def make() -> MilepostSessionStore:
        nonlocal made
        made += 1
        if in_memory:
            return MilepostSessionStore(CheckpointManager(storage=MemoryStorage()))
        return MilepostSessionStore(tmp_path / f"{made}")

    asyncio.run(run_session_store_conformance(make))
    assert made == 15  # one for each contract, and one that is asked what it has


def test_the_options_of_the_sdk_accept_it(store: MilepostSessionStore) -> None:
    assert ClaudeAgentOptions(session_store=store).session_store is store


def test_a_repeated_append_adds_nothing(store: MilepostSessionStore) -> None:
    async def use() -> Any:
        await store.append(KEY, entries("a", "b"))
        await store.append(KEY, entries("a", "b"))
        await store.append(KEY, [*entries("b", "c"), {"type": "title"}])
        await store.append(KEY, [{"type": "title"}])
        return await store.load(KEY)

    title = {"type": "title"}
    assert asyncio.run(use()) == [*entries("a", "b", "c"), title, title]


@pytest.mark.parametrize(
    "names",
    [
        *(("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c"), ("..", "."), ("é\n", "\t")),
        (project_key_for_directory("/" + "long" * 80), "550e8400"),
    ],
)
def test_any_names_are_kept_apart(
    store: MilepostSessionStore, names: tuple[str, str]
) -> None:
    project, session = names
    key: Any = {"project_key": project, "session_id": session}
    other: Any = {"project_key": f"{project}/x", "session_id": session}

    async def use() -> None:
        await store.append(key, entries("a"))
        await store.append({**key, "subpath": "s/../t"}, entries("b"))
        await store.append(other, entries("c"))
        assert await store.load(key) == entries("a")
        (listed,) = await store.list_sessions(project)
        assert listed["session_id"] == session
        assert await store.list_subkeys(key) == ["s/../t"]
        await store.delete(key)
        assert await store.load({**key, "subpath": "s/../t"}) is None
        assert await store.load(other) == entries("c")

    asyncio.run(use())


def test_racing_appends_lose_neither_entries_nor_the_summary(
    tmp_path: Path,
) -> None:
    stores = [MilepostSessionStore(tmp_path) for _ in range(3)]

    async def use() -> None:
        await asyncio.gather(
            *(
                store.append(KEY, [{"type": "x", "uuid": f"{at}-{n}"}])
                for n in range(20)
                for at, store in enumerate(stores)
            ),
            stores[0].append(KEY, [{"type": "custom-title", "customTitle": "mine"}]),
        )
        found = await stores[1].load(KEY)
        assert found is not None
        assert len(found) == 61
        (summary,) = await stores[2].list_session_summaries("proj")
        assert "mine" in summary["data"].values()

    asyncio.run(use())


def test_an_acknowledged_append_survives_a_kill(tmp_path: Path) -> None:
    program = """\
import asyncio, sys
from milepost.adapters.claude import MilepostSessionStore
store = MilepostSessionStore(sys.argv[1])
key = {"project_key": "proj", "session_id": "sess"}
async def main():
    for n in range(10_000):
        await store.append(key, [{"type": "x", "uuid": f"{n}-{i}"} for i in range(3)])
        print(n)
asyncio.run(main())
"""
    said = killed(program, tmp_path, after_lines=20)
    store = MilepostSessionStore(tmp_path)
    found = asyncio.run(store.load(KEY))
    assert found is not None
    names = [entry["uuid"] for entry in found]
    acknowledged = int(said[-1]) + 1
    assert len(names) // 3 in (acknowledged, acknowledged + 1)
    assert names == [f"{n}-{i}" for n in range(len(names) // 3) for i in range(3)]
    asyncio.run(store.append(KEY, found[-3:]))  # as the SDK repeats what got no answer
    assert asyncio.run(store.load(KEY)) == found


def test_deletions_are_recorded_and_can_be_undone(store: MilepostSessionStore) -> None:
    asyncio.run(store.append(KEY, entries("a")))
    asyncio.run(store.append(SUB, entries("b")))
    manager, job = store.manager, store.job_id(KEY)
    held = manager.list(job)[0]
    manager.hold(job, held)
    with pytest.raises(errors.OnHold):
        asyncio.run(store.delete(KEY))
    manager.release(job, held)
    asyncio.run(store.delete(KEY))
    event = manager.history(job)[-1]
    assert event["type"] == "checkpoints.cleaned"
    assert [*event["data"]["removed"].values()] == ["session deleted"]
    manager.undelete(job, held)
    assert asyncio.run(store.load(KEY)) == entries("a")


def test_a_damaged_session_does_not_hide_the_others(tmp_path: Path) -> None:
    store = MilepostSessionStore(tmp_path)
    other: Any = {"project_key": "proj", "session_id": "other"}
    for key in (KEY, other):
        asyncio.run(store.append(key, entries("a")))
        asyncio.run(store.append(key, entries("b")))
    store.manager.close()
    journal = next((tmp_path / "journals").glob("*other*"))
    text = journal.read_bytes()
    journal.write_bytes(text.replace(b'"seq":2', b'"seq":9', 1))
    store = MilepostSessionStore(tmp_path)
    listed = asyncio.run(store.list_sessions("proj"))
    assert [each["session_id"] for each in listed] == ["sess"]
    with pytest.raises(errors.DamagedJournal):
        asyncio.run(store.load(other))


def test_the_example_mirrors_shows_and_goes_back(tmp_path: Path) -> None:
    example("claude", "run", tmp_path)
    *turns, session = example("claude", "show", tmp_path)
    assert turns == [f"{w} {q} {n}" for n in range(3) for w, q in SAID]
    assert session.startswith("session: question 0")
    example("claude", "undo", tmp_path)
    assert example("claude", "show", tmp_path)[:-1] == turns[:4]


SAID = (("user", "question"), ("assistant", "answer"))


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert page_runs("claude") == 1
    assert [*tmp_path.iterdir()] == [tmp_path / "checkpoints"]
