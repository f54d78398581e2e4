"""Upcasts: events of older schemas, as the current one tells them.  Pure.

Bytes on disk stay as they are (I4).  An event is lifted when it is decoded, so that
everything behind the codec knows one schema only.

When `SCHEMA_VERSION` goes from n to n + 1, every type that n had gets a line here:
what it became, or `unchanged`.  A test holds the table against the golden journals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.events.vocabulary import EVENT_TYPES, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Upcast = Callable[[str, Mapping[str, Any]], "Fact"]


class Fact(NamedTuple):
    """What an event says: all of it but its place in the journal."""

    type: str
    data: Mapping[str, Any]


def unchanged(type_: str, data: Mapping[str, Any]) -> Fact:
    """Return what the next schema says in the same words."""
    return Fact(type_, data)


# What an upcast may raise about an event that is not what its schema says.
MALFORMED = (AttributeError, KeyError, TypeError, ValueError)

# By type and schema: what the event is in the schema after that.
UPCASTS: dict[tuple[str, int], Upcast] = {}


def lift(event: dict[str, Any]) -> dict[str, Any]:
    """Return `event` as the current schema has it; as it is if nobody here knows how.

    Seq, time, actor, span and hash are its own for ever.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is not what its schema says.
    """
    version = event["v"]
    if not _is_known(version):
        return event
    fact = Fact(event["type"], event["data"])
    while version < SCHEMA_VERSION:
        upcast = UPCASTS.get((fact.type, version))
        if upcast is None:
            if fact.type in EVENT_TYPES:
                return event
            break  # a type that was never known here means nothing in any schema
        fact = upcast(*fact)
        version += 1
    return {**event, "v": SCHEMA_VERSION, "type": fact.type, "data": fact.data}


def _is_known(version: int) -> bool:
    return any(known == version for _, known in UPCASTS)
