"""The session service for Google ADK, beside the one in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions import InMemorySessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types

from milepost import errors
from milepost.adapters.adk import MilepostSessionService
from tests.adapters.children import example, killed, page_runs

if TYPE_CHECKING:
    from pathlib import Path

WHO: Any = {"app_name": "app", "user_id": "user"}
ID: Any = {**WHO, "session_id": "s"}


@pytest.fixture(params=["milepost", "in memory"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Both services: what is asserted of one is true of the other."""
    if request.param == "milepost":
        return MilepostSessionService(tmp_path)
    return InMemorySessionService()


def event(text: str = "hello", at: float = 5.0, **delta: Any) -> Event:
    state = {key.replace("__", ":"): value for key, value in delta.items()}
    return Event(
        author="user",
        timestamp=at,
        content=types.Content(role="user", parts=[types.Part.from_text(text=text)]),
        actions=EventActions(state_delta=state),
    )


def texts(session: Any) -> list[str]:
    return [each.content.parts[0].text for each in session.events]


def test_a_session_is_created_once(service: Any) -> None:
    async def use() -> None:
        made = await service.create_session(**WHO, session_id=" s ", state={"a": 1})
        assert (made.id, made.state, made.events) == ("s", {"a": 1}, [])
        found = await service.get_session(**ID)
        assert found.state == {"a": 1}
        assert found.last_update_time == made.last_update_time > 1e9
        with pytest.raises(AlreadyExistsError):
            await service.create_session(**ID)
        other = await service.create_session(**WHO)
        assert other.id not in ("", "s")
        assert await service.get_session(**WHO, session_id="none") is None

    asyncio.run(use())


def test_events_and_their_state_come_back(service: Any) -> None:
    async def use() -> None:
        session = await service.create_session(**ID)
        first = event("one", a=1, b=[1, {"c": None}], app__x=1, user__y=2, temp__z=3)
        await service.append_event(session, first)
        assert session.state["temp:z"] == 3
        second = await service.append_event(session, event("two", 6.5, a=None, b="é"))
        session = await service.get_session(**ID)
        assert session.state == {"a": None, "b": "é", "app:x": 1, "user:y": 2}
        assert texts(session) == ["one", "two"]
        assert session.events[1] == second
        assert session.last_update_time == 6.5

    asyncio.run(use())


def test_an_event_comes_back_equal_with_bytes_and_calls(service: Any) -> None:
    parts = [
        types.Part(inline_data=types.Blob(data=bytes(range(256)), mime_type="x/y")),
        types.Part(function_call=types.FunctionCall(name="f", args={"a": [1, None]})),
    ]
    whole = Event(
        author="model",
        invocation_id="i",
        branch="a.b",
        content=types.Content(role="model", parts=parts),
        actions=EventActions(artifact_delta={"f": 1}, transfer_to_agent="b"),
        long_running_tool_ids={"t"},
        custom_metadata={"k": {"n": 1}},
        usage_metadata=types.GenerateContentResponseUsageMetadata(total_token_count=5),
    )

    async def use() -> None:
        session = await service.create_session(**ID)
        await service.append_event(session, whole)
        assert (await service.get_session(**ID)).events == [whole]

    asyncio.run(use())


def test_app_and_user_state_are_shared_as_far_as_they_reach(service: Any) -> None:
    async def use() -> None:
        state = {"app:a": 1, "user:u": 2, "own": 3, "temp:t": 4}
        session = await service.create_session(**ID, state=state)
        del state["temp:t"]
        assert (await service.get_session(**ID)).state == state
        await service.append_event(session, event(app__a=5, user__u=6, own=7))
        same = await service.create_session(**WHO)
        assert same.state == {"app:a": 5, "user:u": 6}
        other = await service.create_session(app_name="app", user_id="other")
        assert other.state == {"app:a": 5}
        away = await service.create_session(app_name="away", user_id="user")
        assert away.state == {}
        assert await service.get_user_state(**WHO) == {"u": 6}
        nobody = await service.get_user_state(app_name="app", user_id="nobody")
        assert nobody == {}

    asyncio.run(use())


def test_sessions_are_listed_by_their_last_event(service: Any) -> None:
    async def use() -> None:
        for name, at in (("b", 3e9), ("a", 1e10), ("c/d", 2e9)):
            session = await service.create_session(**WHO, session_id=name)
            await service.append_event(session, event(at=at, n=name))
        mine = await service.create_session(app_name="app", user_id="me/you")
        await service.append_event(mine, event(at=9e9))
        await service.create_session(app_name="ap", user_id="user")
        listed = (await service.list_sessions(**WHO)).sessions
        assert [s.id for s in listed] == ["c/d", "b", "a"]
        assert [s.state for s in listed] == [{"n": n} for n in ("c/d", "b", "a")]
        assert all(s.events == [] for s in listed)
        everybody = (await service.list_sessions(app_name="app")).sessions
        assert [s.user_id for s in everybody] == ["user", "user", "me/you", "user"]
        assert (await service.list_sessions(app_name="none")).sessions == []

    asyncio.run(use())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "01234"),
        ({"num_recent_events": 2}, "34"),
        ({"num_recent_events": 9}, "01234"),
        ({"num_recent_events": 0}, ""),
        ({"after_timestamp": 3.0}, "34"),
        ({"after_timestamp": 2.5, "num_recent_events": 1}, "4"),
        ({"after_timestamp": 99.0}, ""),
    ],
)
def test_a_reader_may_ask_for_the_last_events(
    service: Any, config: dict[str, Any], expected: str
) -> None:
    async def use() -> None:
        session = await service.create_session(**ID)
        for n in range(5):
            await service.append_event(session, event(f"{n}", at=float(n), n=n))
        found = await service.get_session(**ID, config=GetSessionConfig(**config))
        assert texts(found) == [*expected]
        assert found.state == {"n": 4}

    asyncio.run(use())


def test_partial_events_are_not_stored(service: Any) -> None:
    async def use() -> None:
        session = await service.create_session(**ID)
        part = event("part", a=1)
        part.partial = True
        assert await service.append_event(session, part) is part
        assert (await service.get_session(**ID)).events == session.events == []
        assert (await service.get_session(**ID)).state == {}

    asyncio.run(use())


def test_a_deleted_session_is_gone_and_its_user_is_not(service: Any) -> None:
    async def use() -> None:
        session = await service.create_session(**ID, state={"user:u": 1, "a": 2})
        await service.delete_session(**ID)
        await service.delete_session(**ID)
        assert await service.get_session(**ID) is None
        assert (await service.list_sessions(**WHO)).sessions == []
        with pytest.raises(SessionNotFoundError):
            await service.append_event(session, event())
        again = await service.create_session(**ID)
        assert again.state == {"user:u": 1}

    asyncio.run(use())


def test_a_repeated_event_is_stored_once(service: Any) -> None:
    async def use() -> None:
        session = await service.create_session(**ID)
        one = event("one", n=1)
        await service.append_event(session, one)
        await service.append_event(session, event("two", n=2))
        await service.append_event(session, one)
        assert (
            texts(await service.get_session(**ID)) == texts(session) == ["one", "two"]
        )

    asyncio.run(use())


# -- what only Milepost promises -------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> MilepostSessionService:
    return MilepostSessionService(tmp_path)


def test_a_stale_writer_is_refused_by_seq_and_not_by_time(
    own: MilepostSessionService,
) -> None:
    async def use() -> None:
        await own.create_session(**ID)
        one, two = await own.get_session(**ID), await own.get_session(**ID)
        assert one is not None
        assert two is not None
        await own.append_event(one, event("one", at=5.0))
        late = event("two", at=5.0, app__a=1)
        two.last_update_time = 1e12  # times say that it is the newest
        with pytest.raises(StaleSessionError):
            await own.append_event(two, late)
        assert "app:a" not in (await own.create_session(**WHO)).state
        fresh = await own.get_session(**ID)
        assert fresh is not None
        await own.append_event(fresh, late)
        assert texts(await own.get_session(**ID)) == ["one", "two"]

    asyncio.run(use())


def test_racing_writers_of_one_session_have_one_winner(tmp_path: Path) -> None:
    services = [MilepostSessionService(tmp_path) for _ in range(4)]

    async def use() -> None:
        await services[0].create_session(**ID)
        loaded = [await service.get_session(**ID) for service in services]
        appends = [
            service.append_event(session, event(f"{n}"))
            for n, (service, session) in enumerate(zip(services, loaded, strict=True))
            if session is not None
        ]
        done = await asyncio.gather(*appends, return_exceptions=True)
        assert sum(isinstance(one, StaleSessionError) for one in done) == 3
        found = await services[0].get_session(**ID)
        assert found is not None
        assert len(found.events) == 1

    asyncio.run(use())


def test_racing_sessions_lose_no_shared_state(tmp_path: Path) -> None:
    services = [MilepostSessionService(tmp_path) for _ in range(3)]

    async def work(n: int, service: MilepostSessionService) -> None:
        session = await service.create_session(**WHO, session_id=f"{n}")
        for turn in range(10):
            delta = {f"user__k{n}_{turn}": turn}
            await service.append_event(session, event(**delta))

    async def use() -> None:
        await asyncio.gather(*(work(n, s) for n, s in enumerate(services)))
        assert len(await services[0].get_user_state(**WHO)) == 30

    asyncio.run(use())


def test_a_pin_makes_no_session_stale_and_a_deleted_event_does(
    own: MilepostSessionService,
) -> None:
    async def use() -> None:
        session = await own.create_session(**ID)
        job, manager = own.job_id("app", "user", "s"), own.manager
        manager.pin(job, manager.list(job)[0])
        await own.append_event(session, event("one"))
        last = manager.list(job)[-1]
        manager.delete(job, last, purge=True)
        with pytest.raises(StaleSessionError):
            await own.append_event(session, event("two"))
        with pytest.raises(errors.Protected):
            await own.delete_session(**ID)

    asyncio.run(use())


def test_a_repeat_completes_shared_state_that_failed(
    own: MilepostSessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use() -> None:
        session = await own.create_session(**ID)
        one, save = event("one", user__u=1), own.manager.save

        def failing(*args: Any, **more: Any) -> str:
            monkeypatch.setattr(own.manager, "save", save)
            raise errors.NoSpace("the disk is full")

        monkeypatch.setattr(own.manager, "save", failing)
        with pytest.raises(errors.NoSpace):
            await own.append_event(session, one)
        await own.append_event(session, one)
        assert await own.get_user_state(**WHO) == {"u": 1}
        await own.append_event(session, event("two"))
        assert texts(await own.get_session(**ID)) == texts(session) == ["one", "two"]

    asyncio.run(use())


def test_an_acknowledged_event_survives_a_kill(tmp_path: Path) -> None:
    program = """\
import asyncio, sys
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from milepost.adapters.adk import MilepostSessionService
service = MilepostSessionService(sys.argv[1])
async def main():
    session = await service.create_session(
        app_name="app", user_id="user", session_id="s"
    )
    for n in range(10_000):
        actions = EventActions(state_delta={"n": n})
        await service.append_event(session, Event(author="user", actions=actions))
        print(n)
asyncio.run(main())
"""
    said = killed(program, tmp_path, after_lines=20)
    service = MilepostSessionService(tmp_path)
    session = asyncio.run(service.get_session(**ID))
    assert session is not None
    found = [each.actions.state_delta["n"] for each in session.events]
    assert found == [*range(len(found))]
    assert len(found) - (int(said[-1]) + 1) in (0, 1)
    assert session.state == {"n": len(found) - 1}
    asyncio.run(service.append_event(session, event("next")))


def test_a_conversation_goes_on_in_another_process_and_back(tmp_path: Path) -> None:
    assert example("adk_agent", "say", "hello", tmp_path) == ["clerk: message 1"]
    assert example("adk_agent", "say", "again", tmp_path) == ["clerk: message 3"]
    shown = example("adk_agent", "show", tmp_path)
    assert shown == [
        *("user: hello", "clerk: message 1", "user: again", "clerk: message 3"),
        "{'app:open': True, 'user:last': 'message 3'}",
    ]
    example("adk_agent", "undo", tmp_path)
    assert example("adk_agent", "show", tmp_path)[:2] == shown[:2]
    assert example("adk_agent", "say", "third", tmp_path) == ["clerk: message 3"]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert page_runs("adk") == 1
