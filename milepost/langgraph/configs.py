"""The configs and arguments that LangGraph and its users pass to a saver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from milepost.journal.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import RunnableConfig


class Asked:
    """What a config names; a missing namespace or id is None."""

    __slots__ = ("id", "ns", "thread_id")

    def __init__(self, config: RunnableConfig | None) -> None:
        found = config["configurable"] if config else {}
        # LangGraph passes whatever its user gave; the id of a job is a string.
        self.thread_id = str(found.get("thread_id", ""))
        self.ns: str | None = found.get("checkpoint_ns")
        self.id: str | None = found.get("checkpoint_id") or None


def config_of(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    """Return the config of a checkpoint, as LangGraph's savers return it."""
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": ns,
            "checkpoint_id": checkpoint_id,
        }
    }


def checked_folder(root: str | Path | None) -> str | Path | None:
    """Return the folder of a store.

    Raises:
        InvalidArgument: it is a file, or the address of a database.
    """
    text = str(root)
    if "://" in text or text.startswith(("sqlite:", "postgresql:")):
        hint = (
            "give a folder; milepost import langgraph moves the threads of a database"
        )
        raise InvalidArgument(f"{text} is not a folder", hint=hint)
    if root is not None and Path(root).is_file():
        hint = (
            f"give a folder; milepost import langgraph sqlite:{text} moves threads in"
        )
        raise InvalidArgument(f"{text} is a file, not a folder", hint=hint)
    return root


def several(name: str, values: Sequence[str]) -> list[str]:
    """Return the strings of an argument.

    Raises:
        TypeError: it is a single string, whose letters would be taken one by one.
    """
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list of strings, got {values!r}")
    return [str(value) for value in values]
