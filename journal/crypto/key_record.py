"""What a store records of its keys: that it has some, and which were dropped.

``keys.json`` beside ``store.json``.  Its existence marks the store as encrypted: who
has no key writes no state there.  A key that it calls dropped is written with by nobody
any more.  Whoever writes looks at it under the job's lock, so a drop that has recorded
its key and then met every lock once has seen all that is under that key.
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
    """What an encrypted store records.

    Attributes:
        dropped: ids of keys that no state is encrypted with any more.
    """

    dropped: frozenset[str] = frozenset()


def marked(record: KeyRecord | None) -> KeyRecord:
    """Return `record`, or a first one."""
    return KeyRecord() if record is None else record


def encode(record: KeyRecord) -> bytes:
    """Return the content of the file."""
    values = {"format": FORMAT, "dropped": sorted(record.dropped)}
    return orjson.dumps(values) + b"\n"


def decode(raw: bytes, path: Path) -> KeyRecord:
    """Return what the file says.

    Raises:
        NewerFormat: a newer version wrote it.
        StorageFailed: it makes no sense.
    """
    try:
        values = orjson.loads(raw)
        format_, dropped = values["format"], frozenset(map(str, values["dropped"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageFailed(
            f"{path} is not what an encrypted store has there; nothing was written",
            hint='put it back from a backup, or write {"format":1,"dropped":[]} to it',
        ) from exc
    if format_ != FORMAT:
        raise NewerFormat(
            f"{path} says format {format_}, this version knows {FORMAT}", hint="upgrade"
        )
    return KeyRecord(dropped)
