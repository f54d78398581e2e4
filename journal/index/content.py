"""What makes two saves the same: what a caller gives, but for who and when.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.events.vocabulary import DEFAULT_WORKFLOW_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the journal adds to a save or derives from it; and the key of the call.
_NOT_CONTENT = frozenset(
    {
        *("checkpoint_id", "parent", "state_digest", "state_bytes", "has_metadata"),
        *("idempotency_key", "saved_at"),
    }
)


class Content(NamedTuple):
    """Step name, labels, metadata and state of a save.

    Attributes:
        fields: those of the event that a caller gives.
        raw: the state's JSON.
        metadata: the metadata's JSON, empty without any.
    """

    fields: dict[str, Any]
    raw: bytes
    metadata: bytes

    def equals(self, other: Content) -> bool:
        """Tell whether both say the same; keys of objects and tags have no order."""
        return (
            self.fields == other.fields
            and (self.raw == other.raw or "state_type" not in self.fields)
            and _canonical(self.raw) == _canonical(other.raw)
            and _canonical(self.metadata) == _canonical(other.metadata)
        )


def fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a ``checkpoint.saved``'s data is content."""
    fields = {name: data[name] for name in data if name not in _NOT_CONTENT}
    fields.setdefault("workflow_version", DEFAULT_WORKFLOW_VERSION)
    if "tags" in fields:
        fields["tags"] = frozenset(fields["tags"])
    return fields


def _canonical(text: bytes) -> bytes:
    # Text, since Python objects compare 1, 1.0 and True as equal.
    return text and orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
