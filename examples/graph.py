"""A LangGraph agent that is killed, resumed, approved, and sent back in time.

python examples/graph.py run THREAD [FOLDER] [--die-at N]   as far as it goes
python examples/graph.py approve THREAD [FOLDER]            or reject
python examples/graph.py travel THREAD [FOLDER]             with another outline
"""

import argparse
import operator
import os
import signal
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from milepost.langgraph import MilepostSaver

PLAN = ("search", "read", "outline", "draft", "publish", "announce")
parser = argparse.ArgumentParser()
parser.add_argument("command", choices=("run", "approve", "reject", "travel"))
parser.add_argument("thread")
parser.add_argument("folder", nargs="?", default="checkpoints")
parser.add_argument("--die-at", type=int, default=0)
given = parser.parse_args()
config = {"configurable": {"thread_id": given.thread}}


class State(TypedDict):
    """What the agent knows."""

    task: str
    notes: Annotated[list[str], operator.add]


def think(state):
    """Stand in for a language model: choose the next tool, from what is known."""
    notes = state["notes"]
    is_done = len(notes) == len(PLAN) or notes[-1:] == ["not published"]
    return Command(goto=END if is_done else PLAN[len(notes)])


def tool(name):
    """Stand in for a tool, which is paid for once."""

    def use(state):
        if name == "publish" and interrupt(state["notes"][-1]) != "approve":
            return {"notes": ["not published"]}
        if given.die_at == len(state["notes"]) + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        about = (state["notes"] or [state["task"]])[-1]
        print(f"  {name}: {about}", flush=True)
        return {"notes": [f"{name} of {about}"]}

    return use


builder = StateGraph(State)
builder.add_node("think", think)
builder.add_edge(START, "think")
for each in PLAN:
    builder.add_node(each, tool(each))
    builder.add_edge(each, "think")

with MilepostSaver(given.folder) as saver:
    graph = builder.compile(checkpointer=saver)
    state = graph.get_state(config)
    begin = None if state.values else {"task": "durable graphs", "notes": []}
    match given.command:
        case "approve" | "reject":
            begin = Command(resume=given.command)
        case "travel":
            history = graph.get_state_history(config)
            before = next(s for s in history if s.next == ("outline",))
            edit = {"notes": ["an outline by hand"]}
            config = graph.update_state(before.config, edit, as_node="outline")
            begin = None
    if given.command != "run" or not state.interrupts:
        graph.invoke(begin, config, durability="sync")
    state = graph.get_state({"configurable": {"thread_id": given.thread}})
    for asked in state.interrupts:
        print(f"{given.thread} waits for approval of: {asked.value}")
    if not state.next:
        print(f"{given.thread} is done: {state.values['notes'][-1]}")
