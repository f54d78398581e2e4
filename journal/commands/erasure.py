"""Remove states from the disk for good: compact, purge and erase."""

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
# How long an erasure waits, time after time, for a compaction that is on its way.
_PAUSES_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, *(1.0 for _ in range(30)))


class _Due(NamedTuple):
    """What a compaction at `now` takes off the disk."""

    now: datetime
    trash_seconds: float

    def due(self, view: JobView) -> frozenset[int]:
        """Return the saves whose states have to go."""
        return compaction.due(view, self.now, self.trash_seconds)

    def salvage_files(self, view: JobView) -> list[str]:
        """Return the salvage files that have to go."""
        latest = stamp(self.now - timedelta(seconds=self.trash_seconds))
        return sorted(name for name, at in view.salvage_files.items() if at <= latest)


# By this clock nothing is old yet.
_PURGED = _Due(datetime.min.replace(tzinfo=UTC), 0.0)


class Erasure(Writer):
    """Takes states off the disk; what was said of them stays."""

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
        """Rewrite the job's journal without the states that have to go.

        These are the states of deleted checkpoints whose trash period has ended, or
        that were purged; and bytes that a recovery kept aside, after the same period.
        No event goes: the record stays, the disk space is free, nobody is kept
        waiting but for a moment.

        Args:
            job_id: which.
            actor: who asks for it, if not the manager.
            threshold: what makes it worth while; by default, any state that is due.
            rewrap: do it in any case, so that the current key wraps all that stays.
            trust_clock: the clock is right, though it is far ahead of what is known.
            on_piece: called between pieces of the journal with the bytes that were read
                since; what it raises ends the compaction, and nothing was changed.

        Returns:
            What was done, None if there was nothing to do.

        Raises:
            ClockJumped: something would go because it is old, and the clock jumped.
            Conflict: another compaction of the job is on its way.
            UnreadableState: a live state is not what was saved.
            DamagedJournal, StorageFailed: as `save`.
        """
        if (view := self._view(job_id)).seq == 0:
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
                self._vault,
                on_piece,
            )
        except Busy:
            raise Conflict(
                f"job {job_id!r} is being compacted by somebody else",
                hint="try again",
            ) from None

    def erase(
        self, job_id: str, *, actor: str | None = None, reason: str | None = None
    ) -> Compaction | None:
        """Erase every state of a job, at once and for good; its record stays.

        Returns:
            What the compaction did, None for an unknown job.

        Raises:
            OnHold: a checkpoint of it is held; nothing was erased.
            Conflict: another compaction took too long: the checkpoints are gone, their
                states go with the next one.
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
        size = self._view(job_id).end  # there was nothing, or the worker was quicker
        return Compaction(job_id, 0, 0, size, size)

    def _erase_states(self, job_id: str, actor: str | None) -> Compaction | None:
        """Compact, after whoever is at it, so that what was purged leaves the disk.

        Raises:
            Conflict: another compaction took too long.
            StorageFailed: it failed; what was purged stays purged.
        """
        # What was purged goes whatever the clock says; what is old does not.
        jumped = self._look_at_clock() is not None
        why = "somebody else has been compacting it all the time"
        for pause in _PAUSES_SECONDS:
            try:
                return self._compact(job_id, actor, _PURGED if jumped else self._aged())
            except (NoSpace, ReadOnlyStore) as exc:
                # Not as it is: it would say that nothing was written.
                raise StorageFailed(_left(job_id, exc), hint=_LATER) from exc
            except Conflict:
                time.sleep(pause)  # the other one began before ours was due
        raise Conflict(_left(job_id, why), hint=_LATER)


_LATER = "they go with the next compaction"


def _left(job_id: str, why: object) -> str:
    return (
        f"job {job_id!r}: the checkpoints are gone, but their states are still on the "
        f"disk: {why}"
    )
