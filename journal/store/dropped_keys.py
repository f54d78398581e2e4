"""The key record of a store, in its record ``keys``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.crypto import key_record
from milepost.journal.storage.records import change

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.crypto.key_record import KeyRecord
    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.records import Record


class DroppedKeys:
    """Which keys of a store were dropped (docs/adr/0031)."""

    def __init__(self, storage: Storage) -> None:
        self._record: Record = storage.record("keys")

    def read(self) -> KeyRecord | None:
        """Return the key record; None if the store is not encrypted.  Cheap.

        Raises:
            NewerFormat, StorageFailed: it cannot be read.
        """
        found = self._record.get()
        return None if found is None else key_record.decode(found.value)

    def change(self, decide: Callable[[KeyRecord | None], KeyRecord]) -> KeyRecord:
        """Replace the key record durably by the result of `decide`; return it.

        Raises:
            NewerFormat, StorageFailed: it cannot be read or written.
        """

        def decided(raw: bytes | None) -> bytes:
            before = None if raw is None else key_record.decode(raw)
            return key_record.encode(decide(before))

        return key_record.decode(change(self._record, decided))
