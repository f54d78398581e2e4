"""How far each job was searched for events to send, in records of the store.

A job is named by a digest, since a record holds 1 MiB and an id may have 512 bytes.
Sixteen records hold the seqs of about 600,000 jobs.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.records import Record

_DIGEST_BYTES = 8


class _Shard:
    """The jobs whose digests begin with one digit."""

    def __init__(self, record: Record) -> None:
        self._record = record
        found = record.get()
        self._version = None if found is None else found.version
        self.seqs: dict[str, int] = {}
        self.is_known = False
        if found is not None:
            with suppress(ValueError, TypeError, AttributeError):
                stored = orjson.loads(found.value)
                self.seqs = {str(key): int(seq) for key, seq in stored.items()}
                self.is_known = True
        self.is_changed = not self.is_known

    def store(self) -> None:
        if self.is_changed:
            value = orjson.dumps(self.seqs)
            self._version = self._record.compare_and_set(self._version, value)
            self.is_changed = False


class Positions:
    """The last searched event of each job.  Not safe for threads.

    Attributes:
        are_known: False if some are missing, as in a store without webhooks so far.

    Raises:
        StorageFailed: they cannot be read.
    """

    def __init__(self, storage: Storage) -> None:
        self._shards = {
            digit: _Shard(storage.record(f"webhook-positions-{digit}"))
            for digit in "0123456789abcdef"
        }
        self.are_known = all(shard.is_known for shard in self._shards.values())

    def get(self, job_id: str) -> int:
        """Return the seq of the last searched event, 0 for a new job."""
        key = _key(job_id)
        return self._shards[key[0]].seqs.get(key, 0)

    def set(self, job_id: str, seq: int) -> None:
        """Note `seq` as searched; durable after `store`."""
        key = _key(job_id)
        shard = self._shards[key[0]]
        if shard.seqs.get(key) != seq:
            shard.seqs[key] = seq
            shard.is_changed = True

    def store(self) -> None:
        """Store what has changed.

        Raises:
            Conflict: another worker has stored positions.
            StorageFailed: they cannot be stored.
        """
        for shard in self._shards.values():
            shard.store()


def _key(job_id: str) -> str:
    return hashlib.blake2b(job_id.encode(), digest_size=_DIGEST_BYTES).hexdigest()
