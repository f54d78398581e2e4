"""Content of a save, compared when an idempotency key is reused.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.events.vocabulary import DEFAULT_WORKFLOW_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

# Fields that the journal adds or derives, and the key itself.
_NOT_CONTENT = frozenset(
    {
        *("checkpoint_id", "parent", "state_digest", "state_bytes", "has_metadata"),
        *("idempotency_key", "saved_at"),
    }
)


class Content(NamedTuple):
    """Step name, labels, metadata and state of a save.

    Attributes:
        fields: the caller's fields of the event.
        raw: the state's JSON.
        metadata: the metadata's JSON, empty if there is none.
    """

    fields: dict[str, Any]
    raw: bytes
    metadata: bytes

    def equals(self, other: Content) -> bool:
        """Return whether both are equal; object keys and tags have no order."""
        return (
            self.fields == other.fields
            and (self.raw == other.raw or "state_type" not in self.fields)
            and _canonical(self.raw) == _canonical(other.raw)
            and _canonical(self.metadata) == _canonical(other.metadata)
        )


def fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content fields of a ``checkpoint.saved`` event's data."""
    fields = {name: data[name] for name in data if name not in _NOT_CONTENT}
    fields.setdefault("workflow_version", DEFAULT_WORKFLOW_VERSION)
    if "tags" in fields:
        fields["tags"] = frozenset(fields["tags"])
    return fields


def _canonical(text: bytes) -> bytes:
    # As text: Python objects compare 1, 1.0 and True as equal.
    return text and orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
