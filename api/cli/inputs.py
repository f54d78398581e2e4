"""JSON objects that a command takes: from a file, stdin or its arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from milepost.api.cli.exits import Failure
from milepost.api.cli.output import say

# White space can make the text far larger than the state, but an endless pipe must not
# fill the memory.
_TEXT_MAX_BYTES = 256 * 1024 * 1024


def object_option(text: str | None, option: str) -> dict[str, Any] | None:
    """Return the JSON object of an option: JSON, ``@file``, or ``-`` for stdin.

    Raises:
        Failure: state_too_large; invalid_state: not JSON, not an object, a repeated
            key.
    """
    if text is None:
        return None
    if text == "-":
        return state_in(read_file("-"), "stdin")
    if text.startswith("@"):
        return state_in(read_file(text[1:]), text[1:])
    return state_in(text, option)


def read_file(file: str) -> bytes:
    """Return the whole file, or stdin for `-`.

    Raises:
        Failure: state_too_large.
    """
    if file != "-":
        with Path(file).open("rb") as opened:
            text = opened.read(_TEXT_MAX_BYTES + 1)
    else:
        if sys.stdin is None:
            raise Failure("io_failed", "stdin is closed", "name a FILE")
        if sys.stdin.isatty():
            say("reading a JSON object; end with Ctrl-D")
        text = sys.stdin.buffer.read(_TEXT_MAX_BYTES + 1)
    if len(text) > _TEXT_MAX_BYTES:
        msg = f"{file} has more than {_TEXT_MAX_BYTES} bytes of JSON"
        raise Failure("state_too_large", msg, "save it through the Python library")
    return text


def state_in(text: bytes | str, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`, which came from `where`.

    Uses the standard library's parser: it keeps an integer beyond 64 bits exact, so
    that `save` refuses it and names its path; orjson would return a rounded float.

    Raises:
        Failure: invalid_state: not JSON, not an object, or a repeated key.
    """
    import json

    try:
        state = json.loads(text, object_pairs_hook=unique)
    except RecursionError as exc:
        msg = f"{where} is nested deeper than any state may be"
        raise Failure("state_too_large", msg, "the limit is [store] max_depth") from exc
    except ValueError as exc:
        raise Failure("invalid_state", f"{where} is not valid JSON: {exc}") from exc
    if not isinstance(state, dict):
        msg = f"{where} has a {type(state).__name__}, but a state is a JSON object"
        raise Failure("invalid_state", msg, 'wrap it: {"items": […]}')
    return state


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON from its pairs.

    Raises:
        ValueError: a key occurs twice.
    """
    state = dict(pairs)
    if len(state) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        # One of the two values would be lost silently.
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return state
