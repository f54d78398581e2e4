"""A shop's agent whose session survives its process, with a model that is a stand-in.

python examples/adapters/adk_agent.py say TEXT [FOLDER]   one turn of the conversation
python examples/adapters/adk_agent.py show [FOLDER]       the events and the state
python examples/adapters/adk_agent.py undo [FOLDER]       back to before the last turn
"""

import asyncio
import sys

from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.genai import types

from milepost.adapters.adk import MilepostSessionService

command, *words = sys.argv[1:]
text = words.pop(0) if command == "say" else ""
service = MilepostSessionService(words[0] if words else "checkpoints")
ID = {"app_name": "shop", "user_id": "ann", "session_id": "s1"}


class StandIn(BaseLlm):
    """Stand in for a model: say how many messages there are."""

    async def generate_content_async(self, llm_request, stream=False):
        said = f"message {len(llm_request.contents)}"
        parts = [types.Part.from_text(text=said)]
        yield LlmResponse(content=types.Content(role="model", parts=parts))


agent = LlmAgent(name="clerk", model=StandIn(model="stand-in"), output_key="user:last")


async def say():
    if await service.get_session(**ID) is None:
        await service.create_session(**ID, state={"app:open": True})
    runner = Runner(agent=agent, app_name="shop", session_service=service)
    message = types.Content(role="user", parts=[types.Part.from_text(text=text)])
    async for event in runner.run_async(
        user_id="ann", session_id="s1", new_message=message
    ):
        print(f"{event.author}: {event.content.parts[0].text}")


async def show():
    session = await service.get_session(**ID)
    for event in session.events:
        print(f"{event.author}: {event.content.parts[0].text}")
    print(dict(sorted(session.state.items())))


def undo():
    job_id = service.job_id("shop", "ann", "s1")
    *_, before, _, _ = service.manager.list(job_id)
    service.manager.restore(job_id, before)


match command:
    case "say":
        asyncio.run(say())
    case "show":
        asyncio.run(show())
    case "undo":
        undo()
