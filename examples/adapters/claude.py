"""Mirror a transcript as the Claude Agent SDK does, and read it as a resume does.

python examples/adapters/claude.py run [FOLDER]      appends three turns
python examples/adapters/claude.py show [FOLDER]     what a resume would load
python examples/adapters/claude.py undo [FOLDER]     back to the turn before
"""

import asyncio
import sys

from claude_agent_sdk import get_session_messages_from_store, list_sessions_from_store

from milepost.adapters.claude import MilepostSessionStore

command, *folder = sys.argv[1:]
PROJECT = "/srv/app"
SESSION = "550e8400-e29b-41d4-a716-446655440000"
store = MilepostSessionStore(folder[0] if folder else "checkpoints")


def key():
    from claude_agent_sdk import project_key_for_directory

    return {"project_key": project_key_for_directory(PROJECT), "session_id": SESSION}


def turn(n):
    """Return the entries of one turn: a prompt and its answer."""
    ids = [f"00000000-0000-4000-8000-{2 * n + i:012d}" for i in range(2)]
    before = f"00000000-0000-4000-8000-{2 * n - 1:012d}" if n else None
    common = {"sessionId": SESSION, "timestamp": f"2026-11-28T05:00:{n:02d}.000Z"}
    return [
        common
        | {"type": "user", "uuid": ids[0], "parentUuid": before}
        | {"message": {"role": "user", "content": f"question {n}"}},
        common
        | {"type": "assistant", "uuid": ids[1], "parentUuid": ids[0]}
        | {
            "message": {
                "role": "assistant",
                "content": [{"type": "text", "text": f"answer {n}"}],
            }
        },
    ]


async def run():
    for n in range(3):
        await store.append(key(), turn(n))
        await store.append(key(), turn(n))  # the SDK repeats an append that failed


async def show():
    found = await get_session_messages_from_store(store, SESSION, directory=PROJECT)
    for message in found:
        content = message.message["content"]
        print(message.type, content if isinstance(content, str) else content[0]["text"])
    for session in await list_sessions_from_store(store, directory=PROJECT):
        print("session:", session.summary)


def undo():
    job_id = store.job_id(key())
    *_, before, _ = store.manager.list(job_id)
    store.manager.restore(job_id, before)


match command:
    case "run":
        asyncio.run(run())
    case "show":
        asyncio.run(show())
    case "undo":
        undo()
