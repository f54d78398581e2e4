"""States like those of real jobs: results of a walk over many files, and histories."""

from __future__ import annotations

import random
from typing import Any

import orjson

_NOUNS = ("parser", "reader", "index", "table", "stream", "encoder", "route", "model")
_PARTS = ("token", "schema", "cache", "plan", "writer", "client", "server", "queue")
_WORDS = [random.Random(number).randbytes(4).hex() for number in range(5000)]
_KINDS = ("NAME", "OP", "NUMBER", "STRING", "COMMENT", "NEWLINE", "INDENT")


def states(size_bytes: int, *, count: int = 16, seed: int = 7) -> list[dict[str, Any]]:
    """Return `count` different states, each of exactly `size_bytes` as JSON."""
    source = random.Random(seed)
    return [_state(source, size_bytes, number) for number in range(count)]


def _state(source: random.Random, size_bytes: int, number: int) -> dict[str, Any]:
    files: list[dict[str, Any]] = []
    state: dict[str, Any] = {
        "cursor": f"{source.choice(_NOUNS)}/{number:05d}",
        "done": number * 100,
        "share": round(source.random(), 6),
        "is_final": False,
        "error": None,
        "files": files,
        "rest": "",
    }
    size = len(orjson.dumps(state))
    while True:
        entry = _file(source)
        size += len(orjson.dumps(entry)) + bool(files)
        if size > size_bytes:
            break
        files.append(entry)
    missing = size_bytes - len(orjson.dumps(state))
    state["rest"] = source.randbytes(missing).hex()[:missing]
    assert len(orjson.dumps(state)) == size_bytes
    return state


def _file(source: random.Random) -> dict[str, Any]:
    kinds = source.sample(_KINDS, k=4)
    name = f"{source.choice(_NOUNS)}_{source.choice(_PARTS)}"
    return {
        "path": f"lib/{name}_{source.randrange(1000)}.py",
        "sha256": source.randbytes(32).hex(),
        "lines": source.randrange(4000),
        "seconds": round(source.random() / 50, 6),
        "tokens": {kind: source.randrange(20_000) for kind in kinds},
    }


def text(source: random.Random, size_bytes: int) -> str:
    """Return words of 8 characters, incompressible below half their size."""
    return " ".join(source.choices(_WORDS, k=size_bytes // 9 + 1))[:size_bytes]


def chat(steps: int, constant_bytes: int = 0) -> list[dict[str, Any]]:
    """Return states that grow by one message of 1 KB of varied text."""
    source = random.Random(7)
    system = text(source, constant_bytes)
    said = [{"role": "user", "content": text(source, 1000)} for _ in range(steps)]
    return [{"system": system, "messages": said[:n]} for n in range(1, steps + 1)]


def edits(size_bytes: int, *, count: int, changed: int = 5) -> list[dict[str, Any]]:
    """Return states of records of 100 bytes, of which some change at each step."""
    source = random.Random(5)
    records = [text(source, 100) for _ in range(size_bytes // 103)]
    found = []
    for number in range(count):
        for _ in range(changed):
            records[source.randrange(len(records))] = text(source, 100)
        found.append({"step": number, "records": list(records)})
    return found


def growing(size_bytes: int, *, count: int) -> list[dict[str, Any]]:
    """Return states that grow from half of a size to one and a half of it."""
    source = random.Random(11)
    each = size_bytes // count
    begin = text(source, size_bytes // 2)
    said = [{"said": text(source, each - len('{"said":""},'))} for _ in range(count)]
    return [{"begin": begin, "messages": said[:n]} for n in range(1, count + 1)]


def in_turns(size_bytes: int, *, count: int) -> list[dict[str, Any]]:
    """Return states of two shapes in turns."""
    source = random.Random(3)
    shapes = [text(source, size_bytes), text(source, size_bytes)]
    return [{"step": number, "plan": shapes[number % 2]} for number in range(count)]


def noise(size_bytes: int, *, count: int) -> list[dict[str, Any]]:
    """Return states without any pattern, of random hexadecimal digits."""
    source = random.Random(1)
    return [{"noise": source.randbytes(size_bytes // 2).hex()} for _ in range(count)]
