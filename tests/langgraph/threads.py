"""Threads that tests put together by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


def config_of(thread: Any = "t", ns: str | None = "", **more: Any) -> RunnableConfig:
    found = {"thread_id": thread, "checkpoint_ns": ns, **more}
    return {"configurable": {k: v for k, v in found.items() if v is not None}}


def checkpoint_of(checkpoint_id: str, **values: Any) -> Any:
    return {
        "v": 4,
        "id": checkpoint_id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, 1),
        "versions_seen": {},
        "updated_channels": None,
    }


def put(
    saver: Any, checkpoint_id: str, thread: Any = "t", ns: str = "", **metadata: Any
) -> RunnableConfig:
    config = config_of(thread, ns)
    found: RunnableConfig = saver.put(
        config, checkpoint_of(checkpoint_id), {"source": "loop", **metadata}, {}
    )
    return found


def ids(found: Any) -> list[str]:
    return [each.config["configurable"]["checkpoint_id"] for each in found]
