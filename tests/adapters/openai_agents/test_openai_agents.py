"""Sessions and waiting runs of the OpenAI Agents SDK."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from agents import (
    Agent,
    Model,
    ModelResponse,
    Runner,
    Session,
    SessionSettings,
    Usage,
    set_tracing_disabled,
)
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from milepost import CheckpointManager, MemoryStorage, errors
from milepost.adapters.openai_agents import (
    MilepostSession,
    load_run_state,
    save_run_state,
)
from tests.adapters.children import example, killed, page_runs

if TYPE_CHECKING:
    from pathlib import Path

set_tracing_disabled(disabled=True)


class Echo(Model):
    """Answers with the number of items that it got."""

    async def get_response(
        self, system_instructions: Any, input: Any, *args: Any, **more: Any
    ) -> ModelResponse:
        said = f"item {len(input) if isinstance(input, list) else 1}"
        text = ResponseOutputText(text=said, type="output_text", annotations=[])
        message = ResponseOutputMessage(
            id="m",
            type="message",
            role="assistant",
            content=[text],
            status="completed",
        )
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **more: Any) -> Any:
        raise NotImplementedError


def message(text: str) -> Any:
    return {"role": "user", "content": text}


def messages(*numbers: int) -> list[Any]:
    return [message(f"{n}") for n in numbers]


@pytest.fixture
def session(tmp_path: Path) -> MilepostSession:
    return MilepostSession("user-7", tmp_path)


def test_it_is_a_session_of_the_sdk(session: MilepostSession) -> None:
    assert isinstance(session, Session)


def test_a_second_run_continues_the_conversation(session: MilepostSession) -> None:
    async def use() -> list[Any]:
        agent = Agent("a", model=Echo())
        first = await Runner.run(agent, "one", session=session)
        second = await Runner.run(agent, "two", session=session)
        assert [first.final_output, second.final_output] == ["item 1", "item 3"]
        return await session.get_items()

    items = asyncio.run(use())
    assert [item["role"] for item in items] == ["user", "assistant"] * 2
    again = MilepostSession("user-7", session.manager.root or "")
    assert asyncio.run(again.get_items()) == items


ITEMS: list[Any] = [
    message(
        'a "quoted" text\nwith \u0000 and \ud83d\ude00'.replace("\ud83d\ude00", "😀")
    ),
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": [1]}'},
    {"type": "function_call_output", "call_id": "c", "output": [{"n": 1.5, "x": None}]},
    {"type": "reasoning", "summary": [], "big": 2**53 + 1, "deep": {"a": {"b": [[]]}}},
    {},
]


def test_items_come_back_equal_and_in_order(session: MilepostSession) -> None:
    async def use() -> None:
        await session.add_items(ITEMS)
        assert await session.get_items() == ITEMS
        for item in reversed(ITEMS):
            assert await session.pop_item() == item
        assert await session.pop_item() is None
        assert await session.get_items() == []

    asyncio.run(use())


@pytest.mark.parametrize("item", [{"a": (1,)}, {"a": float("nan")}, {"a": b"x"}])
def test_an_item_that_would_not_come_back_is_refused(
    session: MilepostSession, item: Any
) -> None:
    with pytest.raises(errors.InvalidState, match="entries"):
        asyncio.run(session.add_items([message("a"), item]))
    assert asyncio.run(session.get_items()) == []


@pytest.mark.parametrize(
    ("limit", "setting", "expected"),
    [
        (None, None, [0, 1, 2, 3]),
        (2, None, [2, 3]),
        (0, None, []),
        (9, None, [0, 1, 2, 3]),
        (-1, None, [0, 1, 2, 3]),
        (None, 1, [3]),
        (3, 1, [1, 2, 3]),
    ],
)
def test_a_limit_is_one_of_the_latest_items(
    tmp_path: Path, limit: int | None, setting: int | None, expected: list[int]
) -> None:
    settings = SessionSettings(limit=setting)
    session = MilepostSession("s", tmp_path, session_settings=settings)
    asyncio.run(session.add_items(messages(0, 1, 2)))
    asyncio.run(session.add_items(messages(3)))
    assert asyncio.run(session.get_items(limit)) == messages(*expected)


def test_sessions_are_apart_and_cleared_alone(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    names = ("a", "a/b", "a%2Fb", "ä\n", "a ", "x" * 300)
    sessions = [MilepostSession(name, manager) for name in names]

    async def use() -> None:
        for n, session in enumerate(sessions):
            await session.add_items(messages(n))
        await sessions[0].clear_session()
        await sessions[0].clear_session()
        assert await sessions[0].get_items() == []
        await sessions[0].add_items(messages(100))
        for n, session in enumerate(sessions):
            assert await session.get_items() == messages(n or 100)

    asyncio.run(use())


def test_a_cleared_session_is_recorded_and_can_be_undeleted(
    session: MilepostSession,
) -> None:
    asyncio.run(session.add_items(messages(1, 2)))
    manager, job = session.manager, session.job_id
    (info,) = manager.list(job)
    asyncio.run(session.clear_session())
    assert manager.history(job)[-1]["data"]["removed"] == {
        info.checkpoint_id: "session cleared"
    }
    manager.undelete(job, info)
    assert asyncio.run(session.get_items()) == messages(1, 2)


def test_threads_pop_each_item_once(tmp_path: Path) -> None:
    session = MilepostSession("s", tmp_path)
    for n in range(0, 40, 4):
        asyncio.run(session.add_items(messages(n, n + 1, n + 2, n + 3)))
    popped: list[Any] = []

    def pop() -> None:
        other = MilepostSession("s", tmp_path)
        popped.extend(asyncio.run(other.pop_item()) for _ in range(10))

    threads = [threading.Thread(target=pop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(each["content"]) for each in popped) == [*range(40)]


def test_a_cancelled_write_has_ended_when_it_raises(session: MilepostSession) -> None:
    gate, reached = threading.Event(), threading.Event()
    append = session.manager.append

    def slow(*args: Any, **more: Any) -> Any:
        reached.set()
        gate.wait()
        return append(*args, **more)

    session.manager.append = slow  # type: ignore[method-assign]

    async def use() -> None:
        task = asyncio.create_task(session.add_items(messages(1)))
        await asyncio.to_thread(reached.wait)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)  # let the cancellation arrive
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.get_items() == messages(1)

    asyncio.run(use())


def test_acknowledged_items_survive_a_kill(tmp_path: Path) -> None:
    program = """\
import asyncio, sys
from milepost.adapters.openai_agents import MilepostSession
session = MilepostSession("s", sys.argv[1])
async def main():
    for n in range(10_000):
        items = [{"role": "user", "content": f"{n}-{i}"} for i in (0, 1)]
        await session.add_items(items)
        print(n)
asyncio.run(main())
"""
    said = killed(program, tmp_path, after_lines=20)
    session = MilepostSession("s", tmp_path)
    found: list[Any] = asyncio.run(session.get_items())
    turns = len(found) // 2
    assert turns - (int(said[-1]) + 1) in (0, 1)
    assert found == [message(f"{n}-{i}") for n in range(turns) for i in (0, 1)]
    assert asyncio.run(session.pop_item()) == message(f"{turns - 1}-1")


def test_a_run_that_waits_is_approved_by_another_process(tmp_path: Path) -> None:
    (asked,) = example("openai_agents", "ask", tmp_path)
    assert asked == 'waits for approval: refund {"order": 7}'
    refunded, said = example("openai_agents", "approve", tmp_path)
    assert (refunded, said) == ("refunded order 7", "done: order 7")
    assert example("openai_agents", "show", tmp_path) == [
        *("user", "function_call", "function_call_output", "assistant")
    ]
    manager = CheckpointManager(tmp_path)
    (info,) = manager.list("refund-7")
    assert (info.step_name, info.metadata) == ("approval", {"tools": ["refund"]})
    state = manager.load("refund-7")
    assert json.loads(json.dumps(state)) == state


def test_a_run_is_not_saved_into_a_session(session: MilepostSession) -> None:
    asyncio.run(session.add_items(messages(1)))

    class State:
        def get_interruptions(self) -> list[Any]:
            return []

        def to_json(self) -> dict[str, Any]:
            return {}

    state: Any = State()
    with pytest.raises(errors.WrongKind):
        save_run_state(session.manager, session.job_id, state)
    empty = CheckpointManager(storage=MemoryStorage())
    with pytest.raises(errors.NoCheckpoint):
        asyncio.run(load_run_state(empty, "none", Agent("a")))


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert page_runs("openai_agents") == 1
