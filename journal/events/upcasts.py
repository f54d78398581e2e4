"""Upcasts: conversion of events from older schemas to the current one.  Pure.

Bytes on disk never change (I4).  Events are converted while they are decoded, so that
all other code handles one schema only.

When `SCHEMA_VERSION` goes from n to n + 1, each type of schema n gets an entry here: a
conversion, or `unchanged`.  A test compares the table with the golden journals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.events.vocabulary import EVENT_TYPES, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Upcast = Callable[[str, Mapping[str, Any]], "Fact"]


class Fact(NamedTuple):
    """Type and data of an event, without its position in the journal."""

    type: str
    data: Mapping[str, Any]


def unchanged(type_: str, data: Mapping[str, Any]) -> Fact:
    """Return an event that is the same in the next schema."""
    return Fact(type_, data)


# Exceptions that an upcast may raise for an event that violates its own schema.
MALFORMED = (AttributeError, KeyError, TypeError, ValueError)

# By type and schema: the conversion to the next schema.
UPCASTS: dict[tuple[str, int], Upcast] = {}


def lift(event: dict[str, Any]) -> dict[str, Any]:
    """Return `event` in the current schema, unchanged if there is no conversion.

    Seq, time, actor, span and hash never change.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it violates its own schema.
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
            break  # a type that was never known is ignored in every schema
        fact = upcast(*fact)
        version += 1
    return {**event, "v": SCHEMA_VERSION, "type": fact.type, "data": fact.data}


def _is_known(version: int) -> bool:
    return any(known == version for _, known in UPCASTS)
