"""A checkpointer for LangGraph: the threads of graphs as jobs of a store.

    from milepost.langgraph import MilepostSaver

    graph = builder.compile(checkpointer=MilepostSaver("./checkpoints"))

docs/langgraph.md says what retention, audit, undo and encryption mean for a thread.
"""

from __future__ import annotations

try:
    from milepost.langgraph.saver import MilepostSaver
except ModuleNotFoundError as exc:
    if exc.name is None or exc.name.partition(".")[0] not in (
        "langgraph",
        "langchain_core",
    ):
        raise
    raise ModuleNotFoundError(
        "milepost.langgraph needs LangGraph: pip install 'milepost[langgraph]'",
        name=exc.name,
    ) from exc

__all__ = ["MilepostSaver"]
