"""How many bytes threads take on the disk."""

from __future__ import annotations

import operator
import random
import uuid
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import orjson
from langchain_core.messages import AIMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph

from benchmarks.langgraph.savers import OURS, SQLITE, Thread, config_of, opened
from benchmarks.running import Figure, Subject, Target
from benchmarks.states import text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.running import Run


def measure(run: Run) -> Subject:
    """Store the same threads with each saver, and sum up their closed files."""
    steps, loops = run.pick(200, 20), run.pick(100, 10)
    found = [
        *_beside(run, f"chat of {steps} steps", _chat(steps), 1 / 40),
        *_beside(run, f"chat of {steps} steps, 50 KB", _chat(steps, 50_000), 1 / 40),
        *_beside(run, f"graph of {loops} loops", _graph(_Plain, loops), 1 / 10),
        *_beside(run, f"{loops} loops, DeltaChannel", _graph(_Deltas, loops), None),
        *_after_deletion(run),
    ]
    return Subject(
        "Bytes on the disk",
        "Sum of all files of a closed store.  Each step of the chat puts the write of "
        "a message of 1 KB and then the whole checkpoint; *50 KB* is a channel that "
        "never changes.  The graph appends a message of 1 KB per loop.  After the "
        "deletion of a tenth of the threads, the trash is purged and the store "
        "compacted; their event lines stay, as the trail of what happened.",
        tuple(found),
    )


def _beside(
    run: Run, name: str, fill: Callable[[Any], None], share: float | None
) -> list[Figure]:
    sizes = {}
    for saver_name in (OURS, SQLITE):
        folder = run.new_folder(f"{name}-{saver_name}")
        with opened(saver_name, folder, is_durable=False) as saver:
            fill(saver)
        sizes[saver_name] = size(folder)
    target = None if share is None else Target(share, of="ratio")
    return [_figure(f"{name}, on the disk", sizes, target)]


def _figure(name: str, sizes: dict[str, int], target: Target | None) -> Figure:
    ours, theirs = sizes[OURS], sizes[SQLITE]
    why = f"{theirs / ours:.1f} times less"
    return Figure(
        *(name, ours, "bytes"),
        peer=SQLITE,
        peer_value=theirs,
        ratio=ours / theirs,
        target=target,
        why=why,
    )


def size(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _messages(count: int) -> list[AIMessage]:
    source = random.Random(7)
    return [
        AIMessage(text(source, 1000), id=str(uuid.UUID(bytes=source.randbytes(16))))
        for _ in range(count)
    ]


def _chat(steps: int, constant_bytes: int = 0) -> Callable[[Any], None]:
    messages = _messages(steps)
    constant: dict[str, Any] = {}
    if constant_bytes:
        constant["documents"] = text(random.Random(3), constant_bytes)

    def fill(saver: Any) -> None:
        thread = Thread(saver, "chat")
        for number, message in enumerate(messages, 1):
            if number > 1:
                thread.put_writes(("messages", message))
            thread.put(messages=messages[:number], **constant)

    return fill


def _join(messages: Any, writes: Any) -> Any:
    return [*(messages or []), *(each for write in writes for each in write)]


class _Plain(TypedDict):
    messages: Annotated[list[AIMessage], operator.add]


class _Deltas(TypedDict):
    messages: Annotated[list[AIMessage], DeltaChannel(_join)]


def _graph(state: Any, loops: int) -> Callable[[Any], None]:
    messages = _messages(loops + 1)
    builder = StateGraph(state)
    builder.add_node("agent", lambda s: {"messages": [messages[len(s["messages"])]]})
    builder.add_edge(START, "agent")
    builder.add_conditional_edges(
        "agent", lambda s: END if len(s["messages"]) > loops else "agent"
    )

    def fill(saver: Any) -> None:
        config: Any = {**config_of("graph"), "recursion_limit": loops + 5}
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"messages": messages[:1]}, config, durability="sync")

    return fill


def _after_deletion(run: Run) -> list[Figure]:
    """Delete a tenth of many threads; measure what is left of these."""
    threads, gone = run.pick(1000, 20), run.pick(100, 2)
    figures, left = {}, {}
    for name in (OURS, SQLITE):
        folder = run.new_folder(f"threads-{name}")
        with opened(name, folder, is_durable=False) as saver:
            fill_threads(saver, threads)
        figures[name] = size(folder)
        with opened(name, folder, is_durable=False) as saver:
            for number in range(gone):
                saver.delete_thread(f"thread-{number:04}")
            if name == OURS:
                saver.manager.trash_seconds = 0
                for number in range(gone):
                    saver.manager.compact(f"thread-{number:04}")
        left[name] = size(folder)
    lines = [
        orjson.loads(line)
        for number in range(gone)
        for line in (
            run.folder / f"threads-{OURS}" / "journals" / f"thread-{number:04}.jsonl"
        )
        .read_bytes()
        .splitlines()
    ]
    states = sum("state" in line for line in lines)
    events = sum(len(orjson.dumps(line)) + 1 for line in lines if "state" not in line)
    what = f"{threads:,} threads x 20 x 1 KB"
    return [
        _figure(f"{what}, on the disk", figures, None),
        _figure(f"{what}, {gone} of them deleted", left, None),
        Figure(f"states of the {gone} left", states, "lines", target=Target(0)),
        Figure(f"events of the {gone} left", events, "bytes"),
    ]


def fill_threads(saver: Any, threads: int, checkpoints: int = 20) -> None:
    """Put `checkpoints` of 1 KB in each thread."""
    source = random.Random(5)
    values = [text(source, 1000) for _ in range(64)]
    for number in range(threads):
        thread = Thread(saver, f"thread-{number:04}")
        for step in range(checkpoints):
            thread.put(text=values[(number + step) % 64])
