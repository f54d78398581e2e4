"""Remove states from the disk permanently: compact, purge and erase."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal import ids
from milepost.journal.clock import stamp
from milepost.journal.commands.command import Writer
from milepost.journal.commands.marks import refuse_held
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import Conflict, NoSpace, ReadOnlyStore, StorageFailed
from milepost.journal.store import compaction
from milepost.journal.store.batch import Batch
from milepost.journal.store.compaction import Compaction, Threshold

if TYPE_CHECKING:
    from milepost.journal.index.job_view import JobView
    from milepost.journal.store.views import OnPiece

_ALWAYS = Threshold()
# Waits of an erasure for a running compaction.
_PAUSES_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, *(1.0 for _ in range(30)))


class _Due(NamedTuple):
    """The content that a compaction at `now` removes."""

    now: datetime
    trash_seconds: float

    def due(self, view: JobView) -> frozenset[int]:
        """Return the saves whose states are due."""
        return compaction.due(view, self.now, self.trash_seconds)

    def salvage_files(self, view: JobView) -> list[str]:
        """Return the salvage files that are due."""
        latest = stamp(self.now - timedelta(seconds=self.trash_seconds))
        return sorted(name for name, at in view.salvage_files.items() if at <= latest)


# No state is due by age at this time.
_PURGED = _Due(datetime.min.replace(tzinfo=UTC), 0.0)


class Erasure(Writer):
    """Removes states from the disk; their events stay."""

    def compact(
        self,
        job_id: str,
        *,
        actor: str | None = None,
        threshold: Threshold = _ALWAYS,
        rewrap: bool = False,
        trust_clock: bool = False,
        on_piece: OnPiece | None = None,
    ) -> Compaction | None:
        """Rewrite the job's journal without the states that are due.

        These are the states of deleted checkpoints that were purged or whose trash
        period has ended, and salvaged bytes after the same period.  No event is
        removed.  Disk space is freed; other callers are blocked only briefly.

        Args:
            job_id: the job.
            actor: the actor of the compaction, instead of the manager's.
            threshold: what makes it worthwhile; by default, any state that is due.
            rewrap: compact in any case, so that the current key wraps all states.
            trust_clock: accept the current time although the clock jumped.
            on_piece: called between pieces of the journal with the bytes read since the
                last call; its exceptions end the compaction without any change.

        Returns:
            The result, None if nothing was due.

        Raises:
            ClockJumped: a state is due by age, and the clock jumped.
            Conflict: another compaction of the job is running.
            UnreadableState: a live state differs from what was saved.
            DamagedJournal, StorageFailed: as `save`.
        """
        if (view := self._reader.view(job_id)).seq == 0:
            return None
        aged = self._aged()
        if aged.due(view) - _PURGED.due(view) or aged.salvage_files(view):
            self._check_clock(trust_clock=trust_clock)
        return self._compact(job_id, actor, aged, threshold, rewrap, on_piece)

    def _aged(self) -> _Due:
        return _Due(self._clock(), self.trash_seconds)

    def _compact(
        self,
        job_id: str,
        actor: str | None,
        due: _Due,
        threshold: Threshold = _ALWAYS,
        rewrap: bool = False,
        on_piece: OnPiece | None = None,
    ) -> Compaction | None:
        def is_worth(view: JobView, drop: frozenset[int]) -> bool:
            return rewrap or threshold.is_met(view, drop, due.now, due.trash_seconds)

        try:
            return self._store.compact(
                job_id,
                due.due,
                due.salvage_files,
                is_worth,
                self._who(actor),
                self._reader.vault,
                on_piece,
            )
        except Busy:
            raise Conflict(
                f"another compaction of job {job_id!r} is running",
                hint="try again",
            ) from None

    def erase(
        self, job_id: str, *, actor: str | None = None, reason: str | None = None
    ) -> Compaction | None:
        """Erase every state of a job immediately and permanently; its events stay.

        Returns:
            The result of the compaction, None for an unknown job.

        Raises:
            OnHold: one of its checkpoints is held; nothing was erased.
            Conflict: another compaction did not finish in time; the checkpoints are
                deleted, and the next compaction erases their states.
            DamagedJournal, StorageFailed: as `save`.
        """

        def request(batch: Batch) -> bool:
            for checkpoint_id in batch.view.held:
                refuse_held(batch.view, checkpoint_id)
            data = {}
            if reason is not None:
                data["reason"] = ids.check_label("reason", reason)
            batch.add("job.erased", self._who(actor), data)
            return True

        if not self._change(job_id, request):
            return None
        if (done := self._erase_states(job_id, actor)) is not None:
            return done
        size = self._reader.view(job_id).end  # nothing to do, or the worker was faster
        return Compaction(job_id, 0, 0, size, size)

    def _erase_states(self, job_id: str, actor: str | None) -> Compaction | None:
        """Compact the job to erase purged states; wait for a running compaction.

        Raises:
            Conflict: another compaction did not finish in time.
            StorageFailed: it failed; purged checkpoints stay purged.
        """
        # A purge does not depend on the clock; removal by age does.
        jumped = self._look_at_clock() is not None
        why = "another compaction did not finish in time"
        for pause in _PAUSES_SECONDS:
            try:
                return self._compact(job_id, actor, _PURGED if jumped else self._aged())
            except (NoSpace, ReadOnlyStore) as exc:
                # Not re-raised unchanged: its text may claim that nothing was written.
                raise StorageFailed(_left(job_id, exc), hint=_LATER) from exc
            except Conflict:
                time.sleep(pause)  # the running one started before this state was due
        raise Conflict(_left(job_id, why), hint=_LATER)


_LATER = "the next compaction erases them"


def _left(job_id: str, why: object) -> str:
    return (
        f"job {job_id!r}: the checkpoints are deleted, but their states are still on "
        f"the disk: {why}"
    )
