"""The key record of a store (``keys.json``): which keys were dropped.  Pure.

If the file exists, a writer without a key adds no state.  No writer uses a dropped key.
Writers check the record under the job's lock.  So once a drop has recorded its key and
then taken every job's lock once, no further state can appear under that key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from milepost.journal.errors import NewerFormat, StorageFailed

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
MAX_BYTES = 1024 * 1024


class KeyRecord(NamedTuple):
    """The content of ``keys.json``.

    Attributes:
        dropped: ids of keys that no writer uses any more.
    """

    dropped: frozenset[str] = frozenset()


def marked(record: KeyRecord | None) -> KeyRecord:
    """Return `record`, or an empty one if there is none."""
    return KeyRecord() if record is None else record


def encode(record: KeyRecord) -> bytes:
    """Return the content of the file."""
    values = {"format": FORMAT, "dropped": sorted(record.dropped)}
    return orjson.dumps(values) + b"\n"


def decode(raw: bytes, path: Path) -> KeyRecord:
    """Return the record in the file's content.

    Raises:
        NewerFormat: a newer version wrote it.
        StorageFailed: it is malformed.
    """
    try:
        values = orjson.loads(raw)
        format_, dropped = values["format"], frozenset(map(str, values["dropped"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageFailed(
            f"{path} is not a valid key record; nothing was written",
            hint='restore it from a backup, or write {"format":1,"dropped":[]} to it',
        ) from exc
    if format_ != FORMAT:
        raise NewerFormat(
            f"{path} has format {format_}, this version knows {FORMAT}", hint="upgrade"
        )
    return KeyRecord(dropped)
