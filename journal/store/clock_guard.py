"""Decide whether the clock can be trusted to remove checkpoints by age.

The worker, the command line and the library share one guard.  It compares the clock
with the best reference available, in this order:

| reference | the clock is ahead by |
|---|---|
| both clocks, since this boot | the wall clock's excess over the steady clock |
| the wall clock before this boot | the time beyond `max_downtime` |
| the events of the store only | the same, since the newest event |

A jump stays in force, for other processes too, until the clock is set back or an
operator accepts it.
"""

from __future__ import annotations

import contextlib
import logging
import math
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal.clock import stamp, utc_now
from milepost.journal.disk.boot import boot_id
from milepost.journal.errors import ClockJumped
from milepost.journal.process.mutex import Mutex
from milepost.journal.retention.duration import how_long
from milepost.journal.storage.memory import MemoryStorage
from milepost.journal.store.clock_memory import ClockMemory
from milepost.journal.store.clock_watch import (
    ClockJump,
    ClockWatch,
    Seen,
    jump_after,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from milepost.journal.storage.contract import Storage

# How old the stored readings of both clocks may be.
WRITE_SECONDS = 600.0

log = logging.getLogger("milepost.clock")


class ClockGuard:
    """Checks the clock before checkpoints are removed by age.  Thread-safe.

    Args:
        watch: compares the clocks.
        memory: stores readings and jumps.
        recorded: returns event times; consumed until one is recent enough.
        clock: the clock to check.
        boot: returns an id that changes with every boot.
    """

    def __init__(
        self,
        watch: ClockWatch,
        memory: ClockMemory,
        recorded: Callable[[], Iterable[datetime]],
        clock: Callable[[], datetime],
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._watch = watch
        self._memory = memory
        self._recorded = recorded
        self._clock = clock
        self._boot = boot()  # constant in the lifetime of a process
        self._has_begun = False
        self._written_at = 0.0  # steady time of the last stored reading
        self._mutex = Mutex()
        self._ahead_seconds = 0.0
        self._jump: ClockJump | None = None
        self._is_stored = True

    @property
    def jump(self) -> ClockJump | None:
        """The jump found by the last look."""
        return self._jump

    def look(
        self,
        max_seconds: float,
        max_downtime_seconds: float,
    ) -> ClockJump | None:
        """Return the jump in force: the clock is ahead by more than `max_seconds`.

        The first look starts from the reading of an earlier process; see
        `ClockWatch.resume` for `max_downtime_seconds`.  Without one, it starts from the
        newest event.

        Raises:
            OSError: the jump cannot be stored; this process still applies it.
        """
        return self._mutex.hold(partial(self._look, max_seconds, max_downtime_seconds))

    def in_force(
        self, max_seconds: float, max_downtime_seconds: float
    ) -> ClockJump | None:
        """Return the jump in force, also if it cannot be stored.

        Called before a removal is journaled: its event time would vouch for a wrong
        clock.
        """
        with contextlib.suppress(OSError):
            self.look(max_seconds, max_downtime_seconds)
        return self._jump

    def check(
        self, max_seconds: float, max_downtime_seconds: float, *, trust_clock: bool
    ) -> None:
        """Refuse removals by age after a clock jump.

        Raises:
            ClockJumped: the clock jumped, and its time was not accepted.
        """
        if trust_clock:
            with contextlib.suppress(OSError):
                self.trust()
        elif (jump := self.in_force(max_seconds, max_downtime_seconds)) is not None:
            raise ClockJumped(
                why_waiting(jump),
                hint="if the clock is right: --trust-clock, or trust_clock=True",
            )

    def _look(
        self, max_seconds: float, max_downtime_seconds: float
    ) -> ClockJump | None:
        known = self._known()
        if self._has_begun:
            step = self._watch.step_seconds(max_downtime_seconds)
        else:
            step = self._begin(max_downtime_seconds)
            # Without a stored jump, setting the clock back since then has no effect.
            step = step if known else max(step, 0.0)
        if known is not None:
            self._ahead_seconds = known.by_seconds
        elif self._jump is not None:
            self._ahead_seconds = 0.0  # an operator accepted the clock
        self._ahead_seconds += step
        found = jump_after(known, self._ahead_seconds, self._clock(), max_seconds)
        self._jump = found
        if found != known:
            self._tell(found)
        self._is_stored &= found == known
        if not self._is_stored:
            self._memory.write_jump(found)
            self._is_stored = True
        self._write_down()
        return found

    def _begin(self, downtime_seconds: float) -> float:
        """Return how far the clock moved since it was last known to be right."""
        self._written_at = -math.inf
        seen = None
        with contextlib.suppress(OSError):
            seen = self._memory.seen()
        if seen is None and (last := self._last(downtime_seconds)) is not None:
            seen = Seen(last, 0.0, "")
        beyond = 0.0
        if seen is not None:
            beyond = self._watch.resume(seen, self._boot, downtime_seconds)
        beyond += self._watch.step_seconds(downtime_seconds)
        self._has_begun = True
        return beyond

    def _last(self, seconds: float) -> datetime | None:
        """Return the time of the newest event, or of the first recent enough."""
        now, newest = self._clock(), None
        for at in self._recorded():
            if newest is None or at > newest:
                newest = at
            if (now - newest).total_seconds() <= seconds:
                break
        return newest

    def _write_down(self) -> None:
        seen = self._watch.seen(self._boot)
        if seen.steady - self._written_at >= WRITE_SECONDS:
            self._memory.write_seen(seen)
            self._written_at = seen.steady

    def pass_over(self) -> None:
        """Skip the time since the last look; the leading process accounts for it."""
        self._watch.step_seconds()
        self._has_begun = False

    def trust(self) -> ClockJump | None:
        """Accept the current time of the clock; return the jump that was in force.

        Raises:
            OSError: it cannot be stored.
        """
        return self._mutex.hold(self._trust)

    def _trust(self) -> ClockJump | None:
        known = self._known()
        self._jump, self._ahead_seconds = None, 0.0
        self._watch.step_seconds()
        self._has_begun = True
        self._memory.write_seen(self._watch.seen(self._boot))
        if known is not None:
            self._memory.write_jump(None)
        return known

    def _known(self) -> ClockJump | None:
        if not self._is_stored:
            return self._jump
        try:
            return self._memory.jump()
        except OSError:
            return self._jump

    @staticmethod
    def _tell(found: ClockJump | None) -> None:
        if found is None:
            log.info("the clock was set back to where it was")
        else:
            log.warning("%s", why_waiting(found))


def guard_of(
    storage: Storage,
    recorded: Callable[[], Iterable[datetime]],
    clock: Callable[[], datetime],
) -> ClockGuard:
    """Return the guard of a store, in which it keeps its readings."""
    if clock is utc_now:
        return ClockGuard(ClockWatch(clock), ClockMemory(storage), recorded, clock)
    # A clock given by the caller is unrelated to the machine's.
    unstored = ClockMemory(MemoryStorage())
    return ClockGuard(ClockWatch(clock, None), unstored, recorded, clock)


def why_waiting(jump: ClockJump) -> str:
    """Return the message for work that must not remove by age."""
    return (
        f"the clock jumped forward by {how_long(timedelta(seconds=jump.by_seconds))}, "
        f"to {stamp(jump.at)}:"
        " nothing is removed until it is set back or accepted with"
        " `milepost worker task --trust-clock`"
    )
