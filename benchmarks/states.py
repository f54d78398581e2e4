"""States as real jobs have them: the growing result of a walk over many files."""

from __future__ import annotations

import random
from typing import Any

import orjson

_NOUNS = ("parser", "reader", "index", "table", "stream", "encoder", "route", "model")
_PARTS = ("token", "schema", "cache", "plan", "writer", "client", "server", "queue")
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
