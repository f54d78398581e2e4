"""An agent whose refund needs a person's approval, with a model that is a stand-in.

python examples/adapters/openai_agents.py ask [FOLDER]      runs up to the approval
python examples/adapters/openai_agents.py approve [FOLDER]  goes on, in another process
python examples/adapters/openai_agents.py show [FOLDER]     the conversation
"""

import asyncio
import sys

from agents import (
    Agent,
    Model,
    ModelResponse,
    Runner,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

from milepost import CheckpointManager
from milepost.adapters.openai_agents import (
    MilepostSession,
    load_run_state,
    save_run_state,
)

command, *folder = sys.argv[1:]
manager = CheckpointManager(folder[0] if folder else "checkpoints", actor="agent")
session = MilepostSession("user-7", manager)
set_tracing_disabled(disabled=True)


class StandIn(Model):
    """Call the tool first; answer once its result is there."""

    async def get_response(self, system_instructions, input, *args, **more):
        last = input[-1] if isinstance(input, list) else {}
        if last.get("type") == "function_call_output":
            text = ResponseOutputText(
                text=f"done: {last['output']}", type="output_text", annotations=[]
            )
            item = ResponseOutputMessage(
                id="m",
                type="message",
                role="assistant",
                content=[text],
                status="completed",
            )
        else:
            item = ResponseFunctionToolCall(
                id="f",
                call_id="c1",
                type="function_call",
                name="refund",
                arguments='{"order": 7}',
            )
        return ModelResponse(output=[item], usage=Usage(), response_id=None)

    def stream_response(self, *args, **more):
        raise NotImplementedError


@function_tool(needs_approval=True)
def refund(order: int) -> str:
    print(f"refunded order {order}")
    return f"order {order}"


agent = Agent("support", model=StandIn(), tools=[refund])


async def ask():
    result = await Runner.run(agent, "refund order 7", session=session)
    save_run_state(manager, "refund-7", result.to_state())
    for item in result.interruptions:
        print(f"waits for approval: {item.tool_name} {item.arguments}")


async def approve():
    state = await load_run_state(manager, "refund-7", agent)
    for item in state.get_interruptions():
        state.approve(item)
    result = await Runner.run(agent, state, session=session)
    manager.complete("refund-7", actor="ann")
    print(result.final_output)


async def show():
    for item in await session.get_items():
        print(item.get("role") or item["type"])


match command:
    case "ask":
        asyncio.run(ask())
    case "approve":
        asyncio.run(approve())
    case "show":
        asyncio.run(show())
