"""Real graphs, and scripts that drive them.

A script yields what a user of the graph sees, without ids and times.  Between two
values, the test does something to the store.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

CONFIG = {"configurable": {"thread_id": "agent/7"}}
SNAPSHOT_EVERY = 3


class Notes(TypedDict):
    """The state of most graphs."""

    notes: Annotated[list[str], operator.add]


def _join(notes: list[str], writes: list[list[str]]) -> list[str]:
    return [*(notes or []), *(note for write in writes for note in write)]


class Deltas(TypedDict):
    """A state whose list is stored as writes, with a snapshot now and then."""

    notes: Annotated[list[str], DeltaChannel(_join, snapshot_frequency=SNAPSHOT_EVERY)]


class Open:
    """A graph over a saver; `reopened` gives it another one."""

    def __init__(
        self, saver: BaseCheckpointSaver[Any], build: Callable[..., CompiledStateGraph]
    ) -> None:
        self._build = build
        self.reopened(saver)

    def reopened(self, saver: BaseCheckpointSaver[Any]) -> None:
        """Compile the graph over `saver`."""
        self.saver = saver
        self.graph = self._build(saver)

    def notes(self) -> Any:
        """Return the list of the newest state, and what comes next."""
        state = self.graph.get_state(CONFIG)
        return state.values.get("notes"), state.next


def one_node(state: Any, node: Any) -> Callable[..., CompiledStateGraph]:
    builder = StateGraph(state)
    builder.add_node("work", node)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    return lambda saver: builder.compile(checkpointer=saver)


def ask(_: Notes) -> Notes:
    first = interrupt("publish?")
    second = interrupt("really?")
    return {"notes": [f"{first}, {second}"]}


def an_interrupt(run: Open) -> Iterator[Any]:
    asked = run.graph.invoke({"notes": ["draft"]}, CONFIG)
    yield [each.value for each in asked["__interrupt__"]]
    asked = run.graph.invoke(Command(resume="yes"), CONFIG)
    yield [each.value for each in asked["__interrupt__"]]
    yield run.notes()
    yield run.graph.invoke(Command(resume="sure"), CONFIG)
    yield run.notes()


def tool(call: dict[str, Any]) -> Notes:
    return {
        "notes": ["{name}: {answer}".format(answer=interrupt(call["name"]), **call)]
    }


def tools(saver: Any) -> CompiledStateGraph:
    builder = StateGraph(Notes)
    builder.add_node("tool", tool)
    names = ("search", "read", "write")
    builder.add_conditional_edges(
        START, lambda _: [Send("tool", {"name": name}) for name in names], ["tool"]
    )
    builder.add_edge("tool", END)
    return builder.compile(checkpointer=saver)


def interrupts_of_several_tools(run: Open) -> Iterator[Any]:
    asked = run.graph.invoke({"notes": ["plan"]}, CONFIG)["__interrupt__"]
    yield sorted(each.value for each in asked)
    first = next(each for each in asked if each.value == "read")
    left = run.graph.invoke(Command(resume={first.id: "done"}), CONFIG)
    yield sorted(each.value for each in left["__interrupt__"])
    answers = {each.id: each.value.upper() for each in left["__interrupt__"]}
    yield run.graph.invoke(Command(resume=answers), CONFIG)
    yield run.notes()


def nested(saver: Any) -> CompiledStateGraph:
    inner = StateGraph(Notes)
    inner.add_node("think", lambda _: {"notes": ["thought"]})
    inner.add_node("ask", ask)
    inner.add_edge(START, "think")
    inner.add_edge("think", "ask")
    inner.add_edge("ask", END)
    return one_node(Notes, inner.compile())(saver)


def a_subgraph(run: Open) -> Iterator[Any]:
    asked = run.graph.invoke({"notes": ["begin"]}, CONFIG)
    yield [each.value for each in asked["__interrupt__"]]
    inside = run.graph.get_state(CONFIG, subgraphs=True).tasks[0].state
    yield inside.values, inside.next
    asked = run.graph.invoke(Command(resume="yes"), CONFIG)
    yield [each.value for each in asked["__interrupt__"]]
    yield run.graph.invoke(Command(resume="sure"), CONFIG)
    yield run.graph.invoke({"notes": ["again"]}, CONFIG)["__interrupt__"][0].value
    yield run.notes()


def turn(state: Any) -> Any:
    return {"notes": [f"answer {len(state['notes'])}"]}


def a_delta_channel(run: Open) -> Iterator[Any]:
    for number in range(8):
        yield run.graph.invoke({"notes": [f"question {number}"]}, CONFIG)
        yield run.notes()


def a_delta_channel_that_is_edited(run: Open) -> Iterator[Any]:
    for number in range(4):
        yield run.graph.invoke({"notes": [f"question {number}"]}, CONFIG)
        run.graph.update_state(CONFIG, {"notes": [f"edited {number}"]})
        yield run.notes()


def _older(run: Open, back: int) -> Any:
    return [*run.graph.get_state_history(CONFIG)][back].config


def a_fork_by_update_state(run: Open) -> Iterator[Any]:
    for number in range(3):
        run.graph.invoke({"notes": [f"question {number}"]}, CONFIG)
    forked = run.graph.update_state(
        _older(run, 3), {"notes": ["edited"]}, as_node="work"
    )
    yield run.graph.get_state(forked).values
    yield run.graph.invoke({"notes": ["after the edit"]}, CONFIG)
    yield run.graph.invoke({"notes": ["and on"]}, CONFIG)
    yield run.notes()


def a_replay_from_an_older_checkpoint(run: Open) -> Iterator[Any]:
    for number in range(3):
        run.graph.invoke({"notes": [f"question {number}"]}, CONFIG)
    yield run.graph.invoke(None, _older(run, 4))
    yield run.notes()
    yield run.graph.invoke({"notes": ["and on"]}, CONFIG)
    yield run.notes()


# A script, and the graph that it drives.
SCRIPTS: dict[str, tuple[Callable[[Open], Iterator[Any]], Any]] = {
    "interrupt": (an_interrupt, one_node(Notes, ask)),
    "interrupts of several tools": (interrupts_of_several_tools, tools),
    "subgraph": (a_subgraph, nested),
    "delta channel": (a_delta_channel, one_node(Deltas, turn)),
    "edited delta channel": (a_delta_channel_that_is_edited, one_node(Deltas, turn)),
    "fork": (a_fork_by_update_state, one_node(Notes, turn)),
    "fork of a delta channel": (a_fork_by_update_state, one_node(Deltas, turn)),
    "replay": (a_replay_from_an_older_checkpoint, one_node(Notes, turn)),
    "replay of a delta channel": (
        a_replay_from_an_older_checkpoint,
        one_node(Deltas, turn),
    ),
}
