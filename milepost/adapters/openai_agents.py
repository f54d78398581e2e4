"""A session for the OpenAI Agents SDK, kept as a log; and runs that wait as states."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from agents import RunState, SessionSettings

from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agents import Agent, TResponseInputItem

_T = TypeVar("_T")


class MilepostSession:
    """Keeps the items of a conversation; see the SDK's `Session`.

        session = MilepostSession("user-7", "./checkpoints")
        await Runner.run(agent, "hello", session=session)

    The items are the log ``<prefix>/<session id>``.  Each `add_items` is one durable
    write, and so is each `pop_item`.  A cancelled call that writes has ended when it
    raises.

    Args:
        session_id: the conversation.
        store: the folder of the store, or an open manager.
        prefix: of the job id.
        session_settings: of the SDK; its `limit` is that of `get_items`.
    """

    def __init__(
        self,
        session_id: str,
        store: CheckpointManager | str | Path = "checkpoints",
        *,
        prefix: str = "openai-agents",
        session_settings: SessionSettings | None = None,
    ) -> None:
        if not isinstance(store, CheckpointManager):
            store = CheckpointManager(store)
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self.manager: CheckpointManager = store
        self.job_id = f"{prefix}/{quote(session_id, safe=' /@:')}"

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the items, oldest first; the last `limit` ones, or all.

        A negative limit is none, as in the sessions of the SDK.

        Raises:
            MilepostError: they cannot be read; no part of them is returned.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        last = None if limit is None or limit < 0 else limit
        found: Any = await asyncio.to_thread(
            self.manager.entries, self.job_id, last=last
        )
        return found

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items in one durable write.

        Raises:
            InvalidState: an item would not come back equal; nothing was added.
        """
        added: Any = items
        await _ended(lambda: self.manager.append(self.job_id, added))

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the last item and return it; None if there is none."""
        found: Any = await _ended(lambda: self.manager.pop(self.job_id))
        return found

    async def clear_session(self) -> None:
        """Delete all items; they can be undeleted until the trash period ends."""
        await _ended(lambda: self.manager.clear(self.job_id, reason="session cleared"))


def save_run_state(
    manager: CheckpointManager, job_id: str, state: RunState[Any, Any], **options: Any
) -> str:
    """Save a run that waits for approvals as a checkpoint; return its id.

    Args:
        manager: the store.
        job_id: a job of states: not that of a session.
        state: the run, from ``result.to_state()``.
        options: of `RunState.to_json`, such as `context_serializer`.

    Raises:
        WrongKind: the job is a log.
        InvalidState: the context of the run is not plain JSON.
    """
    asked = [item.tool_name for item in state.get_interruptions()]
    found: dict[str, Any] = state.to_json(**options)
    return manager.save(job_id, "approval", found, metadata={"tools": asked})


async def load_run_state(
    manager: CheckpointManager, job_id: str, agent: Agent[Any], **options: Any
) -> RunState[Any, Any]:
    """Return the run of the job's current checkpoint, to approve and to run on.

    Args:
        manager: the store.
        job_id: the job of `save_run_state`.
        agent: the first agent of the run.
        options: of `RunState.from_json`, such as `context_deserializer`.

    Raises:
        NoCheckpoint: (a FileNotFoundError) there is none.
        UnreadableState: its bytes differ from what was saved.
    """
    state: dict[str, Any] = await asyncio.to_thread(manager.load, job_id)
    return await RunState.from_json(agent, state, **options)


async def _ended(call: Callable[[], _T]) -> _T:
    """Return what `call` returns; if this task is cancelled, wait for its end first."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as exc:
            cancelled = cancelled or exc
    if cancelled is not None:
        running.exception()  # the cancellation is what the caller gets
        raise cancelled
    return running.result()
