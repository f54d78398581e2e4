"""Helpers shared by write operations."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.clock import moment, utc_now
from milepost.journal.errors import ClockJumped, MilepostError
from milepost.journal.reading.queries import CheckpointReader
from milepost.journal.store.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from milepost.journal.store.clock_guard import ClockGuard
    from milepost.journal.store.clock_watch import ClockJump


class Writer(CheckpointReader):
    """Writes to jobs in the name of an actor."""

    @property
    def clock_guard(self) -> ClockGuard:
        """The guard that checks the clock before removals by age."""
        if self._clock_guard is None:
            from milepost.journal.store.clock_guard import ClockGuard
            from milepost.journal.store.clock_memory import ClockMemory
            from milepost.journal.store.clock_watch import ClockWatch

            # A clock given by the caller is unrelated to the machine's.
            is_own = self._clock is utc_now
            watch = ClockWatch(self._clock) if is_own else ClockWatch(self._clock, None)
            memory = ClockMemory(self.root if is_own else None)
            self._clock_guard = ClockGuard(watch, memory, self.event_times, self._clock)
        return self._clock_guard

    @clock_guard.setter
    def clock_guard(self, guard: ClockGuard) -> None:
        self._clock_guard = guard

    def _look_at_clock(self) -> ClockJump | None:
        """Return the clock jump in force, if any.

        Called before a removal is journaled: its event time would vouch for a wrong
        clock.
        """
        with suppress(OSError):  # the jump cannot be stored, but still applies
            self.clock_guard.look(
                self.max_clock_jump_seconds,
                self.max_downtime_seconds,
            )
        return self.clock_guard.jump

    def event_times(self) -> Iterator[datetime]:
        """Yield the time of each job's last write, from its journal."""
        for job_id in self._store.storage.job_ids():
            with suppress(MilepostError):
                if (at := self._reader.view(job_id).last_at) is not None:
                    yield moment(at)

    def _check_clock(self, *, trust_clock: bool) -> None:
        """Refuse removals by age after a clock jump.

        Raises:
            ClockJumped: the clock jumped, and its time was not accepted.
        """
        from milepost.journal.store.clock_guard import why_waiting

        if trust_clock:
            with suppress(OSError):
                self.clock_guard.trust()
        elif (jump := self._look_at_clock()) is not None:
            raise ClockJumped(
                why_waiting(jump),
                hint="if the clock is right: --trust-clock, or trust_clock=True",
            )

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else ids.check_label("actor", actor)

    def _new_id(self, batch: Batch, step_name: str) -> str:
        view = batch.view
        while True:
            new = ids.new_checkpoint_id(step_name, batch.now)
            if not (new in view.checkpoints or new in view.trash or new in batch.ids):
                return new

    def _change(self, job_id: str, request: Callable[[Batch], bool]) -> bool:
        """Write to a job that must exist; return False if it does not."""
        if self._reader.view(job_id).seq == 0:
            return False
        changed: bool = self._store.write(job_id, request)
        return changed
