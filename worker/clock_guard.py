"""Which jump of the clock stands, until somebody says that the clock is right.

It is kept in the store, because a worker that is started anew has no memory and would
take the wrong clock for right; and because the word may be given in another process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from journal.clock import stamp
from journal.keep_rules import how_long
from worker.clock_watch import ClockJump, ClockWatch, boot_id, jump_after
from worker.last_runs import LastRuns, UnreadableLastRuns

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

# How old what is written down of both clocks may be.
WRITE_SECONDS = 600.0

log = logging.getLogger("milepost.worker")


class ClockGuard:
    """Looks at the clock for the tasks that count ages.  Thread-safe."""

    def __init__(
        self,
        watch: ClockWatch,
        last_runs: LastRuns,
        clock: Callable[[], datetime],
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._watch = watch
        self._last_runs = last_runs
        self._clock = clock
        self._boot = boot()  # no process outlives a start of the machine
        self._has_begun = False
        self._told_at = 0.0  # when what was seen was last written down, steady
        self._lock = threading.Lock()
        self._ahead_seconds = 0.0
        self._jump: ClockJump | None = None
        self._is_stored = True

    @property
    def jump(self) -> ClockJump | None:
        """The jump that stood when it was last looked."""
        return self._jump

    def look(self, max_seconds: float, max_downtime_seconds: float) -> ClockJump | None:
        """Return the jump that stands: ahead by more than `max_seconds`.

        The first look goes on from what a process before this one saw; see
        `ClockWatch.resume` for `max_downtime_seconds`.

        Raises:
            OSError: it can't be remembered; this process knows it all the same.
        """
        with self._lock:
            if not self._has_begun:
                self._begin(max_downtime_seconds)
            step = self._watch.step_seconds()
            known = self._known()
            if known is not None:
                self._ahead_seconds = known.by_seconds
            elif self._jump is not None:
                self._ahead_seconds = 0.0  # somebody said that the clock is right
            self._ahead_seconds += step
            found = jump_after(known, self._ahead_seconds, self._clock(), max_seconds)
            self._jump = found
            if found != known:
                self._tell(found)
                self._is_stored = False
            if not self._is_stored:
                self._last_runs.write_clock_jump(found)
                self._is_stored = True
            self._write_down()
            return found

    def _begin(self, max_downtime_seconds: float) -> None:
        with contextlib.suppress(UnreadableLastRuns, OSError):
            if (seen := self._last_runs.clock_seen()) is not None:
                self._watch.resume(seen, self._boot, max_downtime_seconds)
        self._has_begun = True
        self._told_at = -WRITE_SECONDS

    def _write_down(self) -> None:
        seen = self._watch.seen(self._boot)
        if seen.steady - self._told_at >= WRITE_SECONDS:
            self._last_runs.write_clock_seen(seen)
            self._told_at = seen.steady

    def pass_over(self) -> None:
        """Leave what happened since the last look to the process that leads."""
        self._watch.step_seconds()
        self._has_begun = False

    def approve(self) -> ClockJump | None:
        """Take the clock for right; return the jump that stood.

        Raises:
            OSError: it can't be remembered.
        """
        with self._lock:
            known = self._known()
            self._jump, self._ahead_seconds = None, 0.0
            self._last_runs.write_clock_seen(self._watch.seen(self._boot))
            if known is not None:
                self._last_runs.write_clock_jump(None)
            return known

    def _known(self) -> ClockJump | None:
        if not self._is_stored:
            return self._jump
        try:
            return self._last_runs.clock_jump()
        except (UnreadableLastRuns, OSError):
            return self._jump

    @staticmethod
    def _tell(found: ClockJump | None) -> None:
        if found is None:
            log.info("the clock was set back to where it was")
        else:
            log.warning("%s", why_waiting(found))


def why_waiting(jump: ClockJump) -> str:
    """Return the line for a task that must not count ages."""
    return (
        f"the clock jumped forward by {how_long(timedelta(seconds=jump.by_seconds))}, "
        f"to {stamp(jump.at)}:"
        " nothing is removed until it is set back, or `milepost worker run"
        " --trust-clock` says that it is right"
    )
