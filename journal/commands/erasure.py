"""Remove states from the disk permanently: compact, purge and erase."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.clock import EARLIEST, before, stamp
from milepost.journal.commands.marks import refuse_held
from milepost.journal.commands.reason import with_reason
from milepost.journal.commands.requests import NO_KEY, Request, answers_repeats
from milepost.journal.disk.disk import Busy
from milepost.journal.errors import (
    Conflict,
    IllegalTransition,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)
from milepost.journal.store import compaction
from milepost.journal.store.compaction import Compaction, Threshold

if TYPE_CHECKING:
    from datetime import datetime

    from milepost.journal.batch import Batch
    from milepost.journal.index.job_view import JobView
    from milepost.journal.reading.reader import Reader
    from milepost.journal.storage.contract import OnPiece
    from milepost.journal.store.compaction import Need

ALWAYS = Threshold()
# Waits of an erasure for a running compaction.
_PAUSES_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, *(1.0 for _ in range(30)))


class Due(NamedTuple):
    """The content that a compaction at `now` removes."""

    now: datetime
    trash_seconds: float

    def due(self, view: JobView) -> frozenset[int]:
        """Return the saves whose states are due."""
        return compaction.due(view, self.now, self.trash_seconds)

    def salvage_files(self, view: JobView) -> list[str]:
        """Return the salvage files that are due."""
        latest = stamp(before(self.now, self.trash_seconds))
        return sorted(name for name, at in view.salvage_files.items() if at <= latest)

    def counts_ages(self, view: JobView) -> bool:
        """Return whether anything is due by its age."""
        by_age = self.due(view) - PURGED.due(view)
        return bool(by_age or self.salvage_files(view))


# No state is due by age at this time.
PURGED = Due(EARLIEST, 0.0)


@answers_repeats(True)
def erase(
    batch: Batch, *, actor: str, reason: str | None, request: Request = NO_KEY
) -> bool:
    """Delete every checkpoint of a job, whose states are due from then on.

    A repeat of a request changes nothing.

    Raises:
        OnHold: one of them is held.
        IllegalTransition: an execution of the job is live.
        InvalidArgument: the reason is out of bounds.
    """
    for checkpoint_id in batch.view.held:
        refuse_held(batch.view, checkpoint_id)
    refuse_live(batch.view)
    batch.add("job.erased", actor, request.recorded(with_reason({}, reason)))
    return True


def refuse_live(view: JobView) -> None:
    """Refuse to erase a job that an execution needs.

    Raises:
        IllegalTransition: an execution is live.
    """
    for execution in view.workflows.live.values():
        if execution.is_live:
            raise IllegalTransition(
                f"cannot erase job {view.job_id!r}: execution "
                f"{execution.execution_id} is {execution.status}",
                hint="complete, fail or cancel it first",
            )


def compact(
    reader: Reader,
    job_id: str,
    due: Due,
    *,
    actor: str,
    threshold: Threshold = ALWAYS,
    rewrap: bool = False,
    on_piece: OnPiece | None = None,
) -> Compaction | None:
    """Rewrite a job's journal without the states that are due.

    Raises:
        Conflict: another compaction of the job is running.
    """

    def need(view: JobView, drop: frozenset[int]) -> Need:
        if rewrap or due.salvage_files(view):
            return "required"
        return threshold.need(view, drop, due.now, due.trash_seconds)

    try:
        return reader.store.compact(
            job_id, due.due, due.salvage_files, need, actor, reader.vault, on_piece
        )
    except Busy:
        raise Conflict(
            f"another compaction of job {job_id!r} is running",
            hint="try again",
        ) from None


def erase_states(
    reader: Reader, job_id: str, due: Due, *, actor: str
) -> Compaction | None:
    """Compact a job to erase purged states; wait for a running compaction.

    Raises:
        Conflict: another compaction did not finish in time.
        StorageFailed: it failed; purged checkpoints stay purged.
    """
    why = "another compaction did not finish in time"
    for pause in _PAUSES_SECONDS:
        try:
            return compact(reader, job_id, due, actor=actor)
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
