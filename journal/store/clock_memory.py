"""Persistent readings of the clocks, stored next to the journals.

`<root>/worker/clock_jump.json` has the clock jump in force, or null;
`clock_seen.json` has the last readings of both clocks.  Each file is replaced as a
whole, so no process can undo another's write.  Earlier versions stored both in
`last-runs.json`, which is read if they are missing.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from milepost.journal.clock import stamp
from milepost.journal.disk.disk import read_whole, replace_whole
from milepost.journal.store.clock_watch import ClockJump, Seen

if TYPE_CHECKING:
    from pathlib import Path

_JUMP, _SEEN = "clock_jump", "clock_seen"


class ClockMemory:
    """The two files of a store; without a folder, the same in memory."""

    def __init__(self, root: Path | None) -> None:
        self._folder = root / "worker" if root else None
        self._kept: dict[str, Any] = {}

    def jump(self) -> ClockJump | None:
        """Return the jump that is not accepted yet.

        Raises:
            OSError: it cannot be read.
        """
        found = self._read(_JUMP)
        try:
            return ClockJump(_moment(found["at"]), float(found["by_seconds"]))
        except (ValueError, TypeError, LookupError):
            return None

    def seen(self) -> Seen | None:
        """Return the clock readings of the last look.

        Raises:
            OSError: as `jump`.
        """
        found = self._read(_SEEN)
        try:
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
        self._write(_JUMP, jump and jump._asdict() | {"at": stamp(jump.at)})

    def write_seen(self, seen: Seen) -> None:
        """Store durably the readings of both clocks.

        Raises:
            OSError: as `write_jump`.
        """
        self._write(_SEEN, seen._asdict() | {"wall": stamp(seen.wall)})

    def _read(self, name: str) -> Any:
        if self._folder is None:
            return self._kept.get(name)
        with suppress(ValueError, AttributeError):
            with suppress(FileNotFoundError):
                return orjson.loads(read_whole(self._folder / f"{name}.json"))
            with suppress(FileNotFoundError):
                raw = read_whole(self._folder / "last-runs.json")
                return orjson.loads(raw).get(name)
        return None

    def _write(self, name: str, content: dict[str, Any] | None) -> None:
        if self._folder is None:
            self._kept[name] = content
            return
        path = self._folder / f"{name}.json"
        replace_whole(path, orjson.dumps(content))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
