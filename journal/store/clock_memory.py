"""Persistent readings of the clocks, in two records of the store.

``clock-jump`` has the clock jump in force, or null; ``clock-seen`` has the last
readings of both clocks.  They are apart so that no process can undo another's write.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from milepost.journal.clock import stamp
from milepost.journal.storage.records import change
from milepost.journal.store.clock_watch import ClockJump, Seen

if TYPE_CHECKING:
    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.records import Record


class ClockMemory:
    """The two records of a store."""

    def __init__(self, storage: Storage) -> None:
        self._jump: Record = storage.record("clock-jump")
        self._seen: Record = storage.record("clock-seen")

    def jump(self) -> ClockJump | None:
        """Return the jump that is not accepted yet.

        Raises:
            OSError: it cannot be read.
        """
        try:
            found = _read(self._jump)
            return ClockJump(_moment(found["at"]), float(found["by_seconds"]))
        except (ValueError, TypeError, LookupError):
            return None

    def seen(self) -> Seen | None:
        """Return the clock readings of the last look.

        Raises:
            OSError: as `jump`.
        """
        try:
            found = _read(self._seen)
            return Seen(
                _moment(found["wall"]), float(found["steady"]), str(found["boot_id"])
            )
        except (ValueError, TypeError, LookupError):
            return None

    def write_jump(self, jump: ClockJump | None) -> None:
        """Store durably that the clock jumped; None: that it is right again.

        Raises:
            OSError: it cannot be written; the stored jump is unchanged.
        """
        _write(self._jump, jump and jump._asdict() | {"at": stamp(jump.at)})

    def write_seen(self, seen: Seen) -> None:
        """Store durably the readings of both clocks.

        Raises:
            OSError: as `write_jump`.
        """
        _write(self._seen, seen._asdict() | {"wall": stamp(seen.wall)})


def _read(record: Record) -> Any:
    found = record.get()
    return None if found is None else orjson.loads(found.value)


def _write(record: Record, content: dict[str, Any] | None) -> None:
    change(record, lambda _: orjson.dumps(content) + b"\n")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
