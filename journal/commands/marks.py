"""Pins and legal holds, which protect checkpoints from removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.arguments import id_of
from milepost.journal.clock import stamped
from milepost.journal.commands.command import Writer
from milepost.journal.errors import OnHold
from milepost.journal.reading.reader import entry_of
from milepost.journal.store.batch import Batch

if TYPE_CHECKING:
    from milepost.journal.index.job_view import JobView
    from milepost.journal.models import CheckpointInfo

_PINS = frozenset({"checkpoint.pinned", "checkpoint.unpinned"})
_PROTECTS = frozenset({"checkpoint.pinned", "checkpoint.held"})


class Protection(Writer):
    """Protects checkpoints from policies and from users."""

    def pin(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Protect a checkpoint from every policy; return False if it already is.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.pinned", actor, reason, expected_seq
        )

    def unpin(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Remove a pin; return False if there is none.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.unpinned", actor, reason, expected_seq
        )

    def hold(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Place a legal hold on a checkpoint; return False if it already is held.

        No policy and no `cleanup`, `delete` or `erase` removes it until `release`, not
        even with force.  The journal records the actor, time and reason; a second hold
        does not change them.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.held", actor, reason, expected_seq
        )

    def release(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """End a hold, also one of another actor; return False if there is none.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.released", actor, reason, expected_seq
        )

    def _mark(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        type_: str,
        actor: str | None,
        reason: str | None,
        expected_seq: int | None,
    ) -> bool:
        """Pin, unpin, hold or release; return False if nothing changes."""
        checkpoint_id = id_of(checkpoint_id)
        self._markable(self._reader.view(job_id), checkpoint_id, type_)

        def request(batch: Batch) -> bool:
            view = batch.view
            self._markable(view, checkpoint_id, type_)
            batch.check_seq(expected_seq)
            marked = view.pinned if type_ in _PINS else view.held
            if (checkpoint_id in marked) == (type_ in _PROTECTS):
                return False
            data = {"checkpoint_id": checkpoint_id}
            if reason is not None:
                data["reason"] = ids.check_label("reason", reason)
            batch.add(type_, self._who(actor), data)
            return True

        return self._change(job_id, request)

    def _markable(self, view: JobView, checkpoint_id: str, type_: str) -> None:
        # A version without holds may have deleted it; it can still be released.
        if type_ != "checkpoint.released" or checkpoint_id not in view.held:
            entry_of(view, checkpoint_id)


def refuse_held(view: JobView, checkpoint_id: str) -> None:
    """Refuse to remove a held checkpoint.

    Raises:
        OnHold: it is held.
    """
    if (held := view.held.get(checkpoint_id)) is not None:
        raise OnHold(
            checkpoint_id,
            held_by=held.actor,
            held_since=stamped(held.at),
            reason=held.reason,
        )
