"""Noticing that the clock was set: ages are counted by it, and what is old goes.

A machine that starts with a wrong clock, or a time server that is wrong, must not cost
a year of checkpoints.  Nobody can set the clock that counts since the machine was
started; what the other one moves besides was set.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

# Less is the correction of a clock that runs a little fast or slow.
MIN_STEP_SECONDS = 1.0


class ClockJump(NamedTuple):
    """The clock is `by_seconds` ahead of where it would be; `at` is what it said."""

    at: datetime
    by_seconds: float


class Seen(NamedTuple):
    """What both clocks said, and since which start of the machine one of them counts.

    `boot_id` is empty where that can't be known.
    """

    wall: datetime
    steady: float
    boot_id: str


def boot_id() -> str:
    """Return what is another after each start of the machine, empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def steady_seconds() -> float:
    """Return the time since the machine was started, its sleep included."""
    # Not `time.monotonic`, which stands still in a laptop that is closed for the night.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ClockWatch:
    """Compares `wall` with `steady`, from when it is made.  Thread-safe."""

    def __init__(
        self,
        wall: Callable[[], datetime],
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._lock = threading.Lock()
        self._seen = wall(), steady()

    def seen(self, boot: str) -> Seen:
        """Return what both clocks say now."""
        with self._lock:
            return Seen(self._wall(), self._steady(), boot)

    def resume(self, seen: Seen, boot: str, max_downtime_seconds: float) -> None:
        """Compare from `seen` on, which another process saw, perhaps long ago.

        Of a machine that was started since, nobody knows how long it was off: up to
        `max_downtime_seconds` are believed.
        """
        with self._lock:
            wall, steady = self._wall(), self._steady()
            if boot and seen.boot_id == boot and seen.steady <= steady:
                self._seen = seen.wall, seen.steady
                return
            off = (wall - seen.wall).total_seconds()
            beyond = max(0.0, off - max_downtime_seconds)
            self._seen = wall - timedelta(seconds=beyond), steady

    def step_seconds(self) -> float:
        """Return by how much the clock was set since the last call, 0.0 if it was not.

        Negative if it was set back.
        """
        with self._lock:
            wall, steady = self._wall(), self._steady()
            moved = (wall - self._seen[0]).total_seconds() - (steady - self._seen[1])
            self._seen = wall, steady
        return moved if abs(moved) >= MIN_STEP_SECONDS else 0.0


def jump_after(
    known: ClockJump | None, ahead_seconds: float, now: datetime, max_seconds: float
) -> ClockJump | None:
    """Return the jump that stands when the clock is `ahead_seconds` ahead; pure.

    None if that is at most `max_seconds`: a clock that was set back where it belongs
    needs nobody's approval.
    """
    if ahead_seconds <= max_seconds:
        return None
    if known is not None and known.by_seconds == ahead_seconds:
        return known
    return ClockJump(now, ahead_seconds)
