"""Whether the clock can be trusted with removing what is old.

One guard serves the worker, the command line and the library.  It compares the clock
with what is known, in this order:

| known | the clock is ahead by |
|---|---|
| both clocks, since this start of the machine | what the wall clock moved besides |
| the wall clock, before the machine was started | what lies beyond `max_downtime` |
| only the events of the store | the same, since the newest event |

A jump stands, also for other processes, until the clock is set back or somebody says
that it is right.
"""

from __future__ import annotations

import contextlib
import logging
import math
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from milepost.journal.clock import stamp
from milepost.journal.process.mutex import Mutex
from milepost.journal.retention.keep_rules import how_long
from milepost.journal.store.clock_watch import (
    ClockJump,
    ClockWatch,
    Seen,
    boot_id,
    jump_after,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from milepost.journal.store.clock_memory import ClockMemory

# How old what is written down of both clocks may be.
WRITE_SECONDS = 600.0

log = logging.getLogger("milepost.clock")


class ClockGuard:
    """Looks at the clock for what counts ages.  Thread-safe.

    Args:
        watch: compares the clocks.
        memory: what is remembered of them.
        recorded: returns times of events, asked for until one is recent enough.
        clock: the one that is in doubt.
        boot: tells one start of the machine from another.
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
        self._boot = boot()  # no process outlives a start of the machine
        self._has_begun = False
        self._told_at = 0.0  # when what was seen was last written down, steady
        self._mutex = Mutex()
        self._ahead_seconds = 0.0
        self._jump: ClockJump | None = None
        self._is_stored = True

    @property
    def jump(self) -> ClockJump | None:
        """The jump that stood when it was last looked."""
        return self._jump

    def look(
        self,
        max_seconds: float,
        max_downtime_seconds: float,
    ) -> ClockJump | None:
        """Return the jump that stands: ahead by more than `max_seconds`.

        The first look goes on from what a process before this one saw; see
        `ClockWatch.resume` for `max_downtime_seconds`.  Where none has left a word, it
        goes on from the newest event.

        Raises:
            OSError: it can't be remembered; this process knows it all the same.
        """
        return self._mutex.hold(partial(self._look, max_seconds, max_downtime_seconds))

    def _look(
        self, max_seconds: float, max_downtime_seconds: float
    ) -> ClockJump | None:
        known = self._known()
        if self._has_begun:
            step = self._watch.step_seconds(max_downtime_seconds)
        else:
            step = self._begin(max_downtime_seconds)
            # Set back since another process looked: only a jump is undone by it.
            step = step if known else max(step, 0.0)
            self._is_stored = known is None  # else it may be of an older version
        if known is not None:
            self._ahead_seconds = known.by_seconds
        elif self._jump is not None:
            self._ahead_seconds = 0.0  # somebody said that the clock is right
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
        """Return by how much the clock was set since it was last known to be right."""
        self._told_at = -math.inf
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
        """Return when the newest event was, or the first that is recent enough."""
        now, newest = self._clock(), None
        for at in self._recorded():
            if newest is None or at > newest:
                newest = at
            if (now - newest).total_seconds() <= seconds:
                break
        return newest

    def _write_down(self) -> None:
        seen = self._watch.seen(self._boot)
        if seen.steady - self._told_at >= WRITE_SECONDS:
            self._memory.write_seen(seen)
            self._told_at = seen.steady

    def pass_over(self) -> None:
        """Leave what happened since the last look to the process that leads."""
        self._watch.step_seconds()
        self._has_begun = False

    def trust(self) -> ClockJump | None:
        """Accept the current time of the clock; return the jump that stood.

        Raises:
            OSError: it can't be remembered.
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


def why_waiting(jump: ClockJump) -> str:
    """Return the line for what must not count ages."""
    return (
        f"the clock jumped forward by {how_long(timedelta(seconds=jump.by_seconds))}, "
        f"to {stamp(jump.at)}:"
        " nothing is removed until it is set back, or `milepost worker task"
        " --trust-clock` says that it is right"
    )
