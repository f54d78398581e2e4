"""Rewriting journals without removed states, for compaction and trash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.journal.errors import Conflict
from milepost.worker.schedule.report import Tally, TaskReport
from milepost.worker.tasks.walk import walk

if TYPE_CHECKING:
    from milepost.journal.models import JobInfo
    from milepost.journal.store.compaction import Threshold
    from milepost.worker.tasks.task import TaskContext


def rewrite(run: TaskContext, task: str, threshold: Threshold) -> TaskReport:
    """Compact journals that meet `threshold`, up to `worker.max_rewrite` bytes."""
    tally = Tally(("compacted", "states_erased", "bytes_freed"))
    left = run.settings.worker.max_rewrite_bytes

    def visit(info: JobInfo) -> None:
        nonlocal left
        try:
            done = run.manager.compact(
                info.job_id,
                actor=f"worker:{task}",
                threshold=threshold,
                on_piece=run.on_piece,
            )
        except Conflict:
            return  # another compaction is running
        if done is not None:
            left -= done.bytes_before
            tally.add(
                compacted=1, states_erased=done.dropped, bytes_freed=done.bytes_freed
            )

    return walk(run, task, tally, visit, is_spent=lambda: left <= 0)
