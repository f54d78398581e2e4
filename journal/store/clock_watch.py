"""Detect that the wall clock was set.

A machine that boots with a wrong clock, or a wrong time server, must not cost a year of
checkpoints.  The steady clock, which counts since boot, cannot be set: any difference
between the two clocks means that the wall clock was set.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from milepost.journal.clock import boot_seconds
from milepost.journal.disk.disk import read_whole
from milepost.journal.process.mutex import Mutex

# Smaller steps are corrections of a clock that runs slightly fast or slow.
MIN_STEP_SECONDS = 1.0


class ClockJump(NamedTuple):
    """The clock is `by_seconds` ahead of the expected time; `at` is its reading."""

    at: datetime
    by_seconds: float


class Seen(NamedTuple):
    """Readings of both clocks, and the boot that the steady one counts from.

    `boot_id` is empty if it is unknown, or if there is no steady clock.
    """

    wall: datetime
    steady: float
    boot_id: str


def steady_seconds() -> float:
    """Return the seconds since boot, including sleep."""
    try:
        # From the kernel: tools that fake a process's clocks do not change it.
        return float(read_whole(Path("/proc/uptime")).split()[0])
    except (OSError, ValueError, IndexError):
        return boot_seconds()


class ClockWatch:
    """Compares `wall` with `steady`, starting at construction.  Thread-safe.

    Without a `steady` clock, a clock that was set looks the same as elapsed time; then
    a step is the part beyond the accepted downtime.
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
        """Return the current readings of both clocks."""
        return self._mutex.hold(partial(self._now, boot))

    def resume(self, seen: Seen, boot: str, max_downtime_seconds: float) -> float:
        """Continue from `seen`, the readings of another process, perhaps long ago.

        After a reboot the downtime is unknown: up to `max_downtime_seconds` are
        accepted, and the time beyond is returned.
        """
        off = self._mutex.hold(partial(self._resume, seen, boot))
        return _beyond(off, max_downtime_seconds)

    def _resume(self, seen: Seen, boot: str) -> float:
        """Return the time from `seen` to now that no clock has counted."""
        now = self._now(boot)
        if boot and seen.boot_id == now.boot_id and seen.steady <= now.steady:
            self._seen = seen
            return 0.0
        return (self._seen.wall - seen.wall).total_seconds()

    def step_seconds(self, max_downtime_seconds: float = 0.0) -> float:
        """Return how far the clock was set since the last call, 0.0 if it was not.

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
    """Return the jump in force when the clock is `ahead_seconds` ahead; pure.

    None if that is at most `max_seconds`: a clock that was set back has no jump to
    accept.
    """
    if ahead_seconds <= max_seconds:
        return None
    if known is not None and known.by_seconds == ahead_seconds:
        return known
    return ClockJump(now, ahead_seconds)
