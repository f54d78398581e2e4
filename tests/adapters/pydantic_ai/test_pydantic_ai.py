"""Durable runs and conversations of Pydantic AI."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai import Agent, BinaryContent, Conversation, ModelRetry
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    InMemoryConversationStore,
)
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel

from milepost import CheckpointManager, Retry, errors
from milepost.adapters.pydantic_ai import (
    MilepostConversationStore,
    MilepostDurability,
    durable,
)
from tests.adapters.children import example, killed, page_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path)


# -- durable runs ----------------------------------------------------------------------


def test_no_model_request_is_paid_twice_after_a_kill_in_a_tool(tmp_path: Path) -> None:
    first = example("pydantic_agent", "run", tmp_path, 3, ends=-signal.SIGKILL)
    assert first == [
        *("model request 1", "charge order 1", "model request 2", "charge order 2"),
        "model request 3",
    ]
    second = example("pydantic_agent", "run", tmp_path)
    assert second == [
        *("charge order 3", "model request 4", "completed: charged 3 orders")
    ]
    done = [
        event["data"]["key"]
        for event in CheckpointManager(tmp_path).history("billing-7")
        if event["type"] == "step.completed"
    ]
    assert [key for key in done if "model" in key or "charge" in key] == [
        *(
            "biller__model.request",
            "biller__function_toolset__<agent%3E.call_tool:charge",
        ),
        *("biller__model.request#2",),
        *("biller__function_toolset__<agent%3E.call_tool:charge#2",),
        *("biller__model.request#3",),
        *("biller__function_toolset__<agent%3E.call_tool:charge#3",),
        *("biller__model.request#4",),
    ]


class Agents:
    """An agent that calls `tool` once, and how often each part of it ran."""

    def __init__(self, tool: Callable[[], str], **options: Any) -> None:
        self.requests = 0

        def model(messages: Any, info: Any) -> ModelResponse:
            self.requests += 1
            last = messages[-1].parts[-1]
            if last.part_kind == "tool-return" and last.content != "another one":
                return ModelResponse(parts=[TextPart(f"got {last.content}")])
            return ModelResponse(parts=[ToolCallPart("tool", {})])

        self.agent = Agent(
            FunctionModel(model),
            name="a",
            capabilities=[MilepostDurability(**options)],
        )
        self.agent.tool_plain(tool, name="tool", retries=5)

    async def run(self, manager: CheckpointManager) -> Any:
        async with manager.aexecution("w", job_id="job") as run:
            with durable(run):
                run.result = (await self.agent.run("go")).output
        return run.result


def test_a_failed_attempt_goes_on_where_it_failed(manager: CheckpointManager) -> None:
    runs = list[int]()

    def tool() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise KeyboardInterrupt
        return "it"

    agents = Agents(tool)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(agents.run(manager))
    assert asyncio.run(agents.run(manager)) == "got it"
    assert (agents.requests, len(runs)) == (2, 2)


def test_a_tool_is_tried_again_as_its_retry_says(manager: CheckpointManager) -> None:
    runs = list[int]()

    def tool() -> str:
        runs.append(1)
        if len(runs) < 3:
            raise OSError("unreachable")
        return "it"

    agents = Agents(tool, tool_retry=Retry(3, delay=0))
    assert asyncio.run(agents.run(manager)) == "got it"
    failed = manager.history("job", types=["step.failed"])
    assert [event["data"]["tries"] for event in failed] == [1, 2]
    assert agents.requests == 2


def test_a_tool_may_ask_the_model_to_try_again(manager: CheckpointManager) -> None:
    runs = list[int]()

    def tool() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise ModelRetry("another one")
        return "it"

    agents = Agents(tool)
    assert asyncio.run(agents.run(manager)) == "got it"
    assert (agents.requests, len(runs)) == (3, 2)
    assert manager.history("job", types=["step.failed"]) == []


def test_outside_a_durable_block_nothing_is_recorded(
    manager: CheckpointManager,
) -> None:
    agents = Agents(lambda: "it")
    assert asyncio.run(agents.agent.run("go")).output == "got it"
    assert manager.job_ids() == []


def test_a_run_has_the_same_ids_in_each_attempt(manager: CheckpointManager) -> None:
    seen = list[Any]()
    agent = Agent(TestModel(), name="a", capabilities=[MilepostDurability()])

    async def attempt(*, ends: bool) -> None:
        async with manager.aexecution("w", job_id="job") as run:
            with durable(run):
                for _ in range(2):
                    result = await agent.run("go")
                    seen.append((result.run_id, result.conversation.conversation_id))
                if ends:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(attempt(ends=True))
    asyncio.run(attempt(ends=False))
    assert seen[:2] == seen[2:]
    assert len({run_id for run_id, _ in seen}) == 2


# -- conversations ---------------------------------------------------------------------


def request(text: str) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(text)])


def texts(conversation: Conversation | None) -> list[Any]:
    assert conversation is not None
    return [message.parts[0].content for message in conversation.messages]


@pytest.fixture(params=["milepost", "in memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Both stores: what is asserted of one is true of the other."""
    if request.param == "milepost":
        return MilepostConversationStore(tmp_path)
    return InMemoryConversationStore()


def test_a_conversation_is_saved_run_by_run(store: Any) -> None:
    agent = Agent(TestModel(custom_output_text="yes"))

    async def use() -> None:
        for n in range(3):
            conversation = await store.load("c") or Conversation(conversation_id="c")
            assert len(conversation.messages) == 2 * n
            result = await agent.run(f"{n}", conversation=conversation)
            assert len(await store.save(result, scope="u")) == 2
        loaded = await store.load("c")
        assert texts(loaded) == ["0", "yes", "1", "yes", "2", "yes"]
        assert loaded.usage.requests == 3
        assert texts(await store.load("c", limit=2)) == ["2", "yes"]
        assert await store.load("c", scope="other") is None
        assert await store.load("nope") is None

    asyncio.run(use())


def test_a_stale_save_is_refused_and_leaves_nothing(store: Any) -> None:
    async def use() -> None:
        await store.save(Conversation(conversation_id="c", messages=[request("a")]))
        one, two = await store.load("c"), await store.load("c")
        one.messages.append(request("b"))
        two.messages.append(request("x"))
        await store.save(one)
        with pytest.raises(ConversationConflict):
            await store.save(two)
        with pytest.raises(ConversationConflict):
            await store.save(Conversation(conversation_id="c", messages=[request("n")]))
        assert texts(await store.load("c")) == ["a", "b"]

    asyncio.run(use())


def test_branches_and_forks_share_a_start(store: Any) -> None:
    async def use() -> None:
        whole = Conversation(
            conversation_id="c", messages=[request(t) for t in ("a", "b", "c")]
        )
        entries = await store.save(whole)
        back = await store.branch("c", at=1, expected_revision=whole.revision)
        back.messages.append(request("other"))
        await store.save(back)
        assert texts(await store.load("c")) == ["a", "other"]
        record = await store.read_record("c")
        assert record.branches == [entries[-1].id]
        fork = await store.fork("c", from_entry=entries[-1].id, new_conversation_id="f")
        fork.messages.append(request("d"))
        await store.save(fork)
        again = await store.branch(
            "c", from_entry=entries[-1].id, expected_revision=record.revision
        )
        assert texts(again) == ["a", "b", "c"]
        await store.delete("c")
        assert await store.load("c") is None
        assert texts(await store.load("f")) == ["a", "b", "c", "d"]
        assert [r.conversation_id for r in await store.list_conversations()] == ["f"]

    asyncio.run(use())


def test_a_fork_from_an_entry_that_is_gone_is_a_conflict(store: Any) -> None:
    record = ConversationRecord(conversation_id="f", head_id="gone", forked_from="c")
    with pytest.raises(ConversationConflict):
        asyncio.run(store.write_record(record, expected_revision=None))
    assert asyncio.run(store.load("f")) is None
    with pytest.raises(KeyError):
        asyncio.run(store.read_entry("gone"))


def test_records_are_listed_by_time_and_scope(store: Any) -> None:
    async def use() -> None:
        for name, scope in (("a", "u"), ("b", "v"), ("c/d", "u"), ("ä\n%", "u")):
            conversation = Conversation(conversation_id=name, messages=[request(name)])
            await store.save(conversation, scope=scope)
        listed = await store.list_conversations(scope="u")
        assert [r.conversation_id for r in listed] == ["ä\n%", "c/d", "a"]
        assert len(await store.list_conversations(limit=2)) == 2
        await store.delete("a", scope="v")
        assert texts(await store.load("a")) == ["a"]

    asyncio.run(use())


def test_messages_come_back_equal(store: Any) -> None:
    parts = [
        UserPromptPart(
            ["é😀", BinaryContent(bytes(range(256)), media_type="application/pdf")]
        )
    ]
    messages: list[Any] = [
        ModelRequest(parts=parts),
        ModelResponse(parts=[ToolCallPart("f", {"a": [1, None, 2.5]})]),
    ]

    async def use() -> None:
        await store.save(Conversation(conversation_id="c", messages=messages))
        loaded = await store.load("c")
        assert loaded.messages == messages
        (first, _) = await store.load_entries("c")
        assert await store.read_entry(first.id) == first
        assert isinstance(first, ConversationEntry)

    asyncio.run(use())


def test_racing_saves_of_one_revision_have_one_winner(tmp_path: Path) -> None:
    stores = [MilepostConversationStore(tmp_path) for _ in range(4)]

    async def use() -> None:
        await stores[0].save(Conversation(conversation_id="c"))
        loaded = [await store.load("c") for store in stores]
        for n, conversation in enumerate(loaded):
            assert conversation is not None
            conversation.messages.append(request(f"{n}"))
        saves = [s.save(c) for s, c in zip(stores, loaded, strict=True) if c]
        done = await asyncio.gather(*saves, return_exceptions=True)
        lost = [one for one in done if isinstance(one, ConversationConflict)]
        assert len(lost) == 3
        assert len(texts(await stores[0].load("c"))) == 1

    asyncio.run(use())


def test_a_compaction_or_a_pin_is_no_conflict(tmp_path: Path) -> None:
    store = MilepostConversationStore(tmp_path)

    async def use() -> None:
        conversation = Conversation(conversation_id="c", messages=[request("a")])
        await store.save(conversation)
        job = store.job_id("c")
        store.manager.pin(job, store.manager.list(job)[0])
        conversation.messages.append(request("b"))
        await store.save(conversation)
        assert texts(await store.load("c")) == ["a", "b"]
        with pytest.raises(errors.Protected):
            await store.delete("c")

    asyncio.run(use())


def test_an_acknowledged_save_survives_a_kill(tmp_path: Path) -> None:
    program = """\
import asyncio, sys
from pydantic_ai import Conversation
from pydantic_ai.messages import ModelRequest, UserPromptPart
from milepost.adapters.pydantic_ai import MilepostConversationStore
store = MilepostConversationStore(sys.argv[1])
async def main():
    conversation = Conversation(conversation_id="c")
    for n in range(10_000):
        conversation.messages.append(ModelRequest(parts=[UserPromptPart(f"{n}")]))
        await store.save(conversation)
        print(n)
asyncio.run(main())
"""
    said = killed(program, tmp_path, after_lines=20)
    loaded = asyncio.run(MilepostConversationStore(tmp_path).load("c"))
    found = texts(loaded)
    assert found == [f"{n}" for n in range(len(found))]
    assert len(found) - (int(said[-1]) + 1) in (0, 1)


def test_a_restore_returns_a_conversation_to_an_earlier_save(tmp_path: Path) -> None:
    store = MilepostConversationStore(tmp_path)

    async def use() -> None:
        conversation = Conversation(conversation_id="c")
        for text in "abc":
            conversation.messages.append(request(text))
            await store.save(conversation)
        job = store.job_id("c")
        store.manager.restore(job, store.manager.list(job)[1])
        back = await store.load("c")
        assert texts(back) == ["a", "b"]
        with pytest.raises(ConversationConflict):
            await store.save(conversation)

    asyncio.run(use())


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert page_runs("pydantic_ai") == 1
