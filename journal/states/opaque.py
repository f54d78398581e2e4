"""Show states that are no JSON as plain data: objects are named, never made."""

from __future__ import annotations

import base64
import math
from typing import Any

from milepost.journal.errors import UnreadableState
from milepost.journal.states import framing

# The type of a state of LangGraph: a framed type and bytes of its serializer.
LANGGRAPH = "langgraph"
# What LangGraph's serializer makes of objects in MessagePack.
_ARRAY, _SNAPSHOT = 6, 7
_NAMED_PARTS = 3  # module, name, and what the object was made of


def shown(raw: bytes) -> dict[str, Any]:
    """Return the checkpoint or the writes of a thread as plain JSON.

    An object is ``{"$object": CLASS, "value": …}``, bytes are ``{"$bytes": BASE64}``.
    What cannot be read, as it is encrypted, pickled, or needs ormsgpack, is
    ``{"$type": TYPE, "size_bytes": N}``.
    """
    try:
        parts = framing.parts_of(raw)
        values = [
            _value(kind.decode(), data)
            for kind, data in zip(parts[::2], parts[1::2], strict=True)
        ]
    except (UnreadableState, ValueError):
        return _sealed("unknown", raw)
    if values and isinstance(values[0], dict):
        found: dict[str, Any] = values[0]
        return found
    return {"values": values}


def _value(kind: str, data: bytes) -> Any:
    match kind:
        case "null":
            return None
        case "bytes" | "bytearray":
            return _plain(data)
        case "json":
            import json

            return _plain(json.loads(data))
        case "msgpack":
            try:
                return _plain(_unpacked(data))
            except ModuleNotFoundError:
                hint = "pip install ormsgpack shows it"
                return {**_sealed(kind, data), "hint": hint}
    return _sealed(kind, data)


def _sealed(kind: str, data: bytes) -> dict[str, Any]:
    return {"$type": kind, "size_bytes": len(data)}


def _unpacked(data: bytes) -> Any:
    import ormsgpack

    option = ormsgpack.OPT_NON_STR_KEYS
    return ormsgpack.unpackb(data, ext_hook=_named, option=option)


def _named(code: int, data: bytes) -> Any:
    """Return what an extension of LangGraph's serializer stands for."""
    inner = _unpacked(bytes(data))
    if code == _SNAPSHOT:
        return {"$object": "langgraph.DeltaSnapshot", "value": inner}
    if code == _ARRAY:
        dtype, shape, *_ = inner
        return {"$object": "numpy.ndarray", "dtype": dtype, "shape": shape}
    module, name, value, *_ = [*inner, None, None, None][
        : max(len(inner), _NAMED_PARTS)
    ]
    return {"$object": f"{module}.{name}", "value": value}


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case bytes() | bytearray() | memoryview():
            return {"$bytes": base64.b64encode(value).decode()}
        case float() if not math.isfinite(value):
            return {"$float": str(value)}
    return value
