"""Noticing that the clock was set: ages are counted by it, and what is old goes.

A machine that starts with a wrong clock, or a time server that is wrong, must not cost
a year of checkpoints.  Nobody can set the clock that counts since the machine was
started; what the other one moves besides was set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from milepost.journal.disk.disk import read_whole
from milepost.journal.process.mutex import Mutex

# Less is the correction of a clock that runs a little fast or slow.
MIN_STEP_SECONDS = 1.0


class ClockJump(NamedTuple):
    """The clock is `by_seconds` ahead of where it would be; `at` is what it said."""

    at: datetime
    by_seconds: float


class Seen(NamedTuple):
    """What both clocks said, and since which start of the machine one of them counts.

    `boot_id` is empty where that can't be known, or there is no second clock.
    """

    wall: datetime
    steady: float
    boot_id: str


def boot_id() -> str:
    """Return what is another after each start of the machine, empty if unknown."""
    try:
        return read_whole(Path("/proc/sys/kernel/random/boot_id")).decode().strip()
    except (OSError, ValueError):
        return ""


def steady_seconds() -> float:
    """Return the time since the machine was started, its sleep included."""
    try:
        # The kernel's own text: what fakes the clocks of a process leaves it alone.
        return float(read_whole(Path("/proc/uptime")).split()[0])
    except (OSError, ValueError, IndexError):
        # Not `time.monotonic`, which stands still in a laptop that is closed.
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return time.clock_gettime(clock)


class ClockWatch:
    """Compares `wall` with `steady`, from when it is made.  Thread-safe.

    Without a `steady` clock nobody can tell a clock that was set from time that passed:
    then a step is what lies beyond the downtime that is believed.
    """

    def __init__(
        self,
        wall: Callable[[], datetime],
        steady: Callable[[], float] | None = steady_seconds,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._mutex = Mutex()
        self._seen = self._now("")

    def _now(self, boot: str) -> Seen:
        if self._steady is None:
            return Seen(self._wall(), 0.0, "")
        return Seen(self._wall(), self._steady(), boot)

    def seen(self, boot: str) -> Seen:
        """Return what both clocks say now."""
        return self._mutex.hold(partial(self._now, boot))

    def resume(self, seen: Seen, boot: str, max_downtime_seconds: float) -> float:
        """Compare from `seen` on, which another process saw, perhaps long ago.

        Of a machine that was started since, nobody knows how long it was off: up to
        `max_downtime_seconds` are believed, and what lies beyond is returned.
        """
        off = self._mutex.hold(partial(self._resume, seen, boot))
        return _beyond(off, max_downtime_seconds)

    def _resume(self, seen: Seen, boot: str) -> float:
        """Return how much of the time from `seen` to here no clock has counted."""
        now = self._now(boot)
        if boot and seen.boot_id == now.boot_id and seen.steady <= now.steady:
            self._seen = seen
            return 0.0
        return (self._seen.wall - seen.wall).total_seconds()

    def step_seconds(self, max_downtime_seconds: float = 0.0) -> float:
        """Return by how much the clock was set since the last call, 0.0 if it was not.

        Negative if it was set back.
        """
        moved = self._mutex.hold(self._move)
        if self._steady is None:
            moved = _beyond(moved, max_downtime_seconds)
        return moved if abs(moved) >= MIN_STEP_SECONDS else 0.0

    def _move(self) -> float:
        before, self._seen = self._seen, self._now("")
        return _moved(before, self._seen)


def _moved(before: Seen, now: Seen) -> float:
    passed = now.steady - before.steady
    return (now.wall - before.wall).total_seconds() - passed


def _beyond(seconds: float, believed: float) -> float:
    return min(seconds, max(0.0, seconds - believed))


def jump_after(
    known: ClockJump | None, ahead_seconds: float, now: datetime, max_seconds: float
) -> ClockJump | None:
    """Return the jump that stands when the clock is `ahead_seconds` ahead; pure.

    None if that is at most `max_seconds`: a clock that was set back where it belongs
    has nothing to accept.
    """
    if ahead_seconds <= max_seconds:
        return None
    if known is not None and known.by_seconds == ahead_seconds:
        return known
    return ClockJump(now, ahead_seconds)
