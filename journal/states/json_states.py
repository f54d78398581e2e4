"""States as JSON: a restored state equals the saved one, or the save fails.  Pure."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.errors import InvalidState, StateTooLarge
from milepost.journal.process import gc_pause

if TYPE_CHECKING:
    from milepost.journal.states.types import Types

MAX_METADATA_BYTES = 64 * 1024
INT_MIN, INT_MAX = -(2**63), 2**64 - 1
_ORJSON_DEPTH = 254
# With types: a value of a subclass is not plain JSON.
_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS
# What orjson raises for a value that JSON cannot represent.
_REFUSALS = (TypeError, ValueError, RecursionError)
# How often a state that changes meanwhile is encoded before the save fails.
_ATTEMPTS = 3
# A few levels less than orjson's: responses nest a state in objects of their own.
DEPTH_LIMIT = 250


class Limits(NamedTuple):
    """The bounds of a state: bytes of its JSON, levels of nesting."""

    max_bytes: int = 16 * 1024 * 1024
    max_depth: int = 200


def to_json(
    state: object, limits: Limits, *, what: str = "state", types: Types | None = None
) -> bytes:
    """Return `state` as JSON that reads back equal to it.

    Values that are not plain JSON are encoded by `types`.

    Raises:
        InvalidState: it would not read back equal; names the path and a remedy.
        StateTooLarge: it has more bytes or levels than `limits`.
    """
    if not isinstance(state, dict):
        raise InvalidState(
            "$", f"{what} must be a dict, got {type(state).__name__}", hint=_WRAP
        )
    # orjson has a fixed bound of levels.  Lists around the state turn it into ours, and
    # a slice removes their brackets.  The slice is a copy, without the write buffer of
    # orjson, which is about ten times as large.
    lists = _ORJSON_DEPTH - limits.max_depth
    wrapped: object = state
    for _ in range(lists // 9):
        wrapped = [[[[[[[[[wrapped]]]]]]]]]
    for _ in range(lists % 9):
        wrapped = [wrapped]
    try:
        raw = orjson.dumps(wrapped, option=None if types is None else _STRICT)
        is_plain = types is None or types.is_plain(state, raw)
    except _REFUSALS:
        is_plain = False
    if is_plain:
        raw = _stripped(raw, lists, limits, what)
        # Comparing with what a reader gets checks the promise itself, at C speed.
        if orjson.loads(raw) == state:
            return raw
    if types is not None:
        encoded: dict[str, Any] = types.encode(state)
        return to_json(encoded, limits, what=what)
    return _at_one_moment(state, wrapped, lists, limits, what)


def _stripped(raw: bytes, lists: int, limits: Limits, what: str) -> bytes:
    """Return the JSON of what is in as many lists, unless it is too large."""
    size = len(raw) - 2 * lists
    if size > limits.max_bytes:
        raise StateTooLarge(
            "$",
            f"{what} has {size} bytes as JSON, more than {limits.max_bytes}",
            hint="save less, keep large data in files, or raise max_state_bytes",
        )
    return raw[lists : lists + size]


def _at_one_moment(
    state: dict[str, Any], wrapped: object, lists: int, limits: Limits, what: str
) -> bytes:
    """Return `state`, which is in as many `lists`, as JSON that reads back, atomically.

    Another thread may change the state between two steps of Python code.  So one call
    of C code encodes, decodes and compares: the interpreter switches to no other thread
    within it, and the paused garbage collector runs no finalizers.  Only objects with
    Python code of their own can still change the state (docs/adr/0028).

    Raises:
        InvalidState, StateTooLarge: as `to_json`.
    """
    cause: Exception | None = None
    for _ in range(_ATTEMPTS):
        raws, again = tee(map(orjson.dumps, (wrapped,)))
        same = map(operator.eq, map(orjson.loads, again), (wrapped,))
        try:
            answers = zip(raws, same, strict=True)
            raw, is_same = gc_pause.at_rest(partial(next, answers))
        except _REFUSALS as exc:
            cause = exc
        else:
            cause = None
            if is_same:
                return _stripped(raw, lists, limits, what)
        problem = None
        with suppress(RuntimeError):  # a container changed during iteration
            problem = _find(state, limits, what)
        if problem is not None:
            raise problem from cause
    reason = str(cause or f"the {what} changed while it was being saved")
    raise InvalidState("$", reason) from cause


_WRAP = "wrap it: {'value': …}"


def _find(state: dict[str, Any], limits: Limits, what: str) -> InvalidState | None:
    """Return the problem of the first value that JSON cannot represent, or None.

    Another thread may change the state meanwhile, so each container is copied in one
    step before its items are visited.
    """
    where = "" if what == "state" else f"in the {what}, "
    stack: list[tuple[str, object, int]] = [("$", state, 1)]
    while stack:
        path, value, depth = stack.pop()
        if depth > limits.max_depth + 1:
            deep = f"{where}it nests deeper than {limits.max_depth} levels"
            return StateTooLarge(path[:60], deep)
        if (problem := _problem(value)) is not None:
            return InvalidState(path, where + problem[0], hint=problem[1])
        if isinstance(value, dict):
            for key, child in reversed([*value.items()]):
                if (problem := _key_problem(key)) is not None:
                    at = f"{path}.{key!r}"
                    return InvalidState(at, where + problem[0], hint=problem[1])
                name = key if key.isprintable() else repr(key)
                stack.append((f"{path}.{name}", child, depth + 1))
        elif isinstance(value, list):
            stack.extend(
                (f"{path}[{i}]", child, depth + 1)
                for i, child in reversed([*enumerate(value)])
            )
    return None


def _key_problem(key: object) -> tuple[str, str | None] | None:
    if type(key) is not str:
        return f"the key is {type(key).__name__}, not a plain string", "use str(key)"
    return _problem(key)


def _problem(  # noqa: PLR0911 - one return per kind of value, like a table
    value: object,
) -> tuple[str, str | None] | None:
    match value:
        case None | bool() | dict() | list():
            return None
        case str():
            return _text_problem(value)
        case int():
            if INT_MIN <= value <= INT_MAX:
                return None
            return "an integer beyond 64 bits", "save it as a string"
        case float():
            if type(value) is not float:
                return f"a {type(value).__name__} has no JSON form", "save float(value)"
            if value - value == 0:
                return None
            return f"{value} has no JSON form", "save None or a string"
        case tuple():
            return "a tuple would come back as a list", "save list(value)"
        case bytes() | bytearray():
            return "bytes have no JSON form", "save base64 text"
        case set() | frozenset():
            return "a set has no JSON form", "save sorted(value)"
    kind = type(value).__name__
    if hasattr(value, "isoformat"):
        return f"a {kind} would come back as a string", "save value.isoformat()"
    return f"a {kind} would not come back unchanged", "save plain JSON values"


def _text_problem(value: str) -> tuple[str, str | None] | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text with a lone surrogate has no UTF-8 form", "clean it first"
    return None


def metadata_json(metadata: Mapping[str, Any] | None) -> bytes:
    """Return `metadata` as JSON, empty if there is none.

    Raises:
        InvalidState: it would not read back equal.
        StateTooLarge: it has more than 64 KiB.
    """
    if metadata is None or metadata == {}:
        return b""
    plain = dict(metadata) if isinstance(metadata, Mapping) else metadata
    return to_json(plain, Limits(MAX_METADATA_BYTES), what="metadata")
