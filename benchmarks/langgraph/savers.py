"""The savers that are measured, and the checkpoints that they store."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from milepost import CheckpointManager
from milepost.langgraph import MilepostSaver

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = "MilepostSaver"
SQLITE = "SqliteSaver"
MEMORY = "InMemorySaver"
ASYNC_SQLITE = "AsyncSqliteSaver"
NAMES = (OURS, SQLITE, ASYNC_SQLITE, MEMORY)


@contextmanager
def opened(name: str, folder: Path, *, is_durable: bool = True) -> Iterator[Any]:
    """Open a saver in a folder; without durability it is only being filled."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == OURS:
        durability: Any = "always" if is_durable else "never"
        with (
            CheckpointManager(folder, durability=durability) as manager,
            MilepostSaver(manager) as saver,
        ):
            yield saver
    elif name == SQLITE:
        with closing(
            sqlite3.connect(folder / "threads.db", check_same_thread=False, timeout=60)
        ) as connection:
            rows = SqliteSaver(connection)
            rows.setup()
            connection.execute(f"PRAGMA synchronous={2 if is_durable else 0}")
            yield rows
    else:
        yield InMemorySaver()


def config_of(thread_id: str) -> dict[str, Any]:
    """Return the config of a thread."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


class Thread:
    """A thread that is being written: each checkpoint is the parent of the next."""

    def __init__(self, saver: Any, thread_id: str) -> None:
        self._saver = saver
        self._config = config_of(thread_id)
        self._versions: dict[str, Any] = {}
        self._step = 0

    def next(self, **values: Any) -> tuple[Any, ...]:
        """Return the arguments of a put of all channels, with new versions."""
        self._step += 1
        self._versions = {
            name: self._saver.get_next_version(self._versions.get(name), None)
            for name in values
        }
        checkpoint = {
            "v": 4,
            "id": str(uuid6(clock_seq=self._step)),
            "ts": "2026-11-23T05:00:00.123456+00:00",
            "channel_values": values,
            "channel_versions": self._versions,
            "versions_seen": {"__input__": {}, "agent": dict(self._versions)},
            "updated_channels": list(values),
        }
        metadata = {"source": "loop", "step": self._step, "parents": {}}
        return self._config, checkpoint, metadata, self._versions

    def put(self, **values: Any) -> None:
        """Put the next checkpoint."""
        self._config = self._saver.put(*self.next(**values))

    async def aput(self, **values: Any) -> None:
        """Put the next checkpoint."""
        self._config = await self._saver.aput(*self.next(**values))

    def put_writes(self, *writes: tuple[str, Any]) -> None:
        """Put what a task wrote."""
        task_id = str(uuid.UUID(int=self._step))
        self._saver.put_writes(self._config, writes, task_id, "~__pregel_pull, agent")
