"""An agent that charges three orders; killed, it pays for no model request twice.

python examples/adapters/pydantic_agent.py run [FOLDER] [DIE_IN]

DIE_IN: the tool call in which the process is killed.
"""

import asyncio
import os
import signal
import sys

from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

from milepost import CheckpointManager
from milepost.adapters.pydantic_ai import MilepostDurability, durable

_, folder, *die_in = [*sys.argv[1:], "checkpoints"][:3]
manager = CheckpointManager(folder, actor="biller")
DIE_IN = int(die_in[0]) if die_in and die_in[0].isdigit() else 0


def stand_in(messages, info):
    """Stand in for a model: charge one order after the other, then answer."""
    done = len(messages) // 2
    print(f"model request {done + 1}", flush=True)
    if done < 3:
        part = ToolCallPart("charge", {"order": done + 1}, tool_call_id=f"c{done}")
        return ModelResponse(parts=[part])
    return ModelResponse(parts=[TextPart("charged 3 orders")])


agent = Agent(
    FunctionModel(stand_in), name="biller", capabilities=[MilepostDurability()]
)


@agent.tool_plain
def charge(order: int) -> str:
    if order == DIE_IN:
        os.kill(os.getpid(), signal.SIGKILL)
    print(f"charge order {order}", flush=True)
    return f"order {order}"


async def main():
    async with manager.aexecution("billing", job_id="billing-7") as run:
        with durable(run):
            run.result = (await agent.run("charge the orders")).output
    print(f"{run.status}: {run.result}")


asyncio.run(main())
