"""`--path a.b[0]`: paths into a state, in the notation of errors and diffs."""

from __future__ import annotations

import json
import re
from typing import Any

from milepost.api.cli.exits import Failure

_STEP = re.compile(
    r"""
      \.?(?P<key>[^.\[\]"]+)
    | \[(?P<at>[0-9]+)\]
    | \[(?P<quoted>"(?:[^"\\]|\\.)*")\]
    """,
    re.VERBOSE,
)
_NAMES_SHOWN = 8


def value_at(value: Any, path: str) -> Any:
    """Return the value at `path`; a leading `$` or `$.` is optional.

    Raises:
        Failure: not_found, with the longest existing prefix; usage, if malformed.
    """
    walked = "$"
    for key in parse_path(path):
        try:
            value = _step(value, key)
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            msg = f"no {key!r} at {walked} in the state"
            raise Failure("not_found", msg, _inside(value)) from exc
        walked += f"[{key}]" if isinstance(key, int) else f".{key}"
    return value


def parse_path(path: str) -> list[str | int]:
    """Split `a.b[0]["c.d"]` into its keys.

    Raises:
        Failure: usage.
    """
    keys: list[str | int] = []
    at = 1 if path.startswith("$") else 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            msg = f"can't read the path {path!r} from {path[at:]!r} on"
            raise Failure("usage", msg, 'write a.b[0], or a["b.c"]')
        keys.append(_key(step))
        at = step.end()
    return keys


def _key(step: re.Match[str]) -> str | int:
    if step["at"] is not None:
        return int(step["at"])
    if step["quoted"] is not None:
        key: str = json.loads(step["quoted"])
        return key
    return step["key"]


def _step(value: Any, key: str | int) -> Any:
    if isinstance(value, list):
        # Many users type `items.0` for `items[0]`.
        return value[int(key)]
    if isinstance(value, dict):
        return value[str(key)]
    raise TypeError(value)


def _inside(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        names = list(value)
        more = " …" if len(names) > _NAMES_SHOWN else ""
        return "it has " + ", ".join(names[:_NAMES_SHOWN]) + more
    return f"a {type(value).__name__}"
