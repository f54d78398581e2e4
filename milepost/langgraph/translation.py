"""From LangGraph's checkpoints to what a store has to know of them; pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

from milepost.journal.states.json_states import MAX_METADATA_BYTES
from milepost.journal.threads import Put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langgraph.checkpoint.serde.base import SerializerProtocol

    from milepost.journal.threads import Blob

_COUNTERS = "counters_since_delta_snapshot"


class _NotPlain(Exception):
    """A value that JSON would not give back."""


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return metadata as JSON has it; None if it would not read back, or is too large.

    Tuples become lists, as they do in LangGraph's savers for SQL.
    """
    try:
        plain: dict[str, Any] = _plain(dict(metadata))
        is_small = len(orjson.dumps(plain)) <= MAX_METADATA_BYTES
    except (_NotPlain, orjson.JSONEncodeError, RecursionError):
        return None
    return plain if is_small else None


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in (str, bool, type(None)):
        return value
    if kind is int and -(2**63) <= value < 2**64:
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind in (list, tuple):
        return [_plain(each) for each in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _plain(each) for key, each in value.items()}
    raise _NotPlain


def as_put(
    ns: str,
    checkpoint_id: str,
    parent_id: str | None,
    value: Blob,
    metadata: Mapping[str, Any],
    checkpoint: Mapping[str, Any] | None,
    serde: SerializerProtocol,
) -> Put:
    """Return what a store has to know of a checkpoint.

    Args:
        ns: its namespace.
        checkpoint_id: its id.
        parent_id: the id of its parent.
        value: the whole checkpoint, serialized.
        metadata: all of its metadata.
        checkpoint: its channels and their versions; None if they cannot be read.
        serde: for metadata that is no JSON.
    """
    plain = plain_metadata(metadata)
    run_id = metadata.get("run_id")
    return Put(
        ns=ns,
        id=checkpoint_id,
        parent_id=parent_id,
        source=str(metadata.get("source") or ""),
        value=value,
        metadata=serde.dumps_typed(dict(metadata)) if plain is None else plain,
        run_id=run_id if isinstance(run_id, str) else None,
        # Only the namespace of a call ends with the checkpoint it started from.
        root_id=(metadata.get("parents") or {}).get("") if ":" in ns else None,
        lacks=_lacking(checkpoint, metadata.get(_COUNTERS) or {}),
    )


def _lacking(
    checkpoint: Mapping[str, Any] | None, counted: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the channels whose value is not in the checkpoint but in earlier writes.

    These are the `DeltaChannel`s between two snapshots, which LangGraph counts in the
    metadata.  One without a version was never written, and needs nothing.
    """
    if checkpoint is None:
        return tuple(counted)
    values = checkpoint.get("channel_values") or {}
    versions = checkpoint.get("channel_versions") or {}
    return tuple(n for n in counted if n in versions and n not in values)
