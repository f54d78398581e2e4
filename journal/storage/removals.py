"""Tombstones: the record that a job was removed, for those who have seen it.

The name of the record is made of the job's origin, a digest of store, job id and nonce
(FORMAT.md).  Nothing in it names the job.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, Protocol

from milepost.journal.errors import StorageFailed
from milepost.journal.events.codec import Mark
from milepost.journal.storage.records import change

if TYPE_CHECKING:
    from milepost.journal.storage.records import Record

PREFIX = "removed-"


class Removal(NamedTuple):
    """The removal of a job.

    Attributes:
        last: the last event of the job.
        at: the time of the removal.
        actor: who removed it.
        reason: why.
    """

    last: Mark
    at: str
    actor: str
    reason: str | None = None

    def covers(self, seen: Mark) -> bool:
        """Return whether an event went with the job, as far as its seq tells."""
        return seen.seq < self.last.seq or seen == self.last


class Records(Protocol):
    """What has records: a storage."""

    def record(self, name: str) -> Record:
        """See `Storage.record`."""


def record_name(origin: str) -> str:
    """Return the name of the tombstone of a job."""
    return PREFIX + origin


def bury(store: Records, origin: str, removal: Removal) -> None:
    """Write the tombstone of a job durably, in place of one that came to nothing.

    Raises:
        InvalidArgument, StorageFailed: as `Record.compare_and_set`.
    """
    seq, hash_ = removal.last
    fields = {"format": 1, "seq": seq, "hash": hash_, "at": removal.at}
    fields |= {"actor": removal.actor}
    if removal.reason is not None:
        fields["reason"] = removal.reason
    value = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
    change(store.record(record_name(origin)), lambda _: value)


def find(store: Records, origin: str) -> Removal | None:
    """Return the recorded removal of a job; None if there is none.

    Raises:
        StorageFailed: it cannot be read.
    """
    found = store.record(record_name(origin)).get()
    if found is None:
        return None
    try:
        fields = json.loads(found.value)
        last = Mark(fields["seq"], fields["hash"])
        return Removal(last, fields["at"], fields["actor"], fields.get("reason"))
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageFailed(
            f"record {record_name(origin)} is not a valid tombstone",
            hint="restore it from a backup",
        ) from exc
