"""The key record of a store: which keys were dropped.  Pure.

If it exists, a writer without a key adds no state.  No writer uses a dropped key.
Writers check the record under the job's lock.  So once a drop has recorded its key and
then taken every job's lock once, no further state can appear under that key.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from milepost.journal.errors import NewerFormat, StorageFailed

FORMAT = 1


class KeyRecord(NamedTuple):
    """The content of the record ``keys``.

    Attributes:
        dropped: ids of keys that no writer uses any more.
    """

    dropped: frozenset[str] = frozenset()


def marked(record: KeyRecord | None) -> KeyRecord:
    """Return `record`, or an empty one if there is none."""
    return KeyRecord() if record is None else record


def encode(record: KeyRecord) -> bytes:
    """Return the value of the record."""
    values = {"format": FORMAT, "dropped": sorted(record.dropped)}
    return orjson.dumps(values) + b"\n"


def decode(raw: bytes) -> KeyRecord:
    """Return the key record in the value of the record.

    Raises:
        NewerFormat: a newer version wrote it.
        StorageFailed: it is malformed.
    """
    try:
        values = orjson.loads(raw)
        format_, dropped = values["format"], frozenset(map(str, values["dropped"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageFailed(
            "the record 'keys' is not a valid key record; nothing was written",
            hint='restore it from a backup, or write {"format":1,"dropped":[]} to it',
        ) from exc
    if format_ != FORMAT:
        raise NewerFormat(
            f"the record 'keys' has format {format_}, this version knows {FORMAT}",
            hint="upgrade",
        )
    return KeyRecord(dropped)
