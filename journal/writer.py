"""What every change has in common: somebody makes it, and the job must exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from journal import ids
from journal.batch import Batch
from journal.reader import CheckpointReader

if TYPE_CHECKING:
    from collections.abc import Callable


class Writer(CheckpointReader):
    """Writes to jobs, on behalf of an actor."""

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else ids.check_label("actor", actor)

    def _new_id(self, batch: Batch, step_name: str) -> str:
        view = batch.view
        while True:
            new = ids.new_checkpoint_id(step_name, batch.now)
            if not (new in view.checkpoints or new in view.trash or new in batch.ids):
                return new

    def _change(self, job_id: str, request: Callable[[Batch], bool]) -> bool:
        """Write to a job that must exist; False if it does not."""
        if self._view(job_id).seq == 0:
            return False
        changed: bool = self._store.write(job_id, request)
        return changed
