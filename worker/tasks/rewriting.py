"""Rewriting journals without removed states, for compaction and trash."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from milepost.journal.errors import Conflict
from milepost.worker.schedule.report import Tally, TaskReport
from milepost.worker.tasks.walk import walk

if TYPE_CHECKING:
    from milepost.journal.models import JobInfo
    from milepost.journal.store.compaction import Threshold
    from milepost.worker.tasks.task import TaskContext

log = logging.getLogger("milepost.worker")


def rewrite(run: TaskContext, task: str, threshold: Threshold) -> TaskReport:
    """Compact journals that meet `threshold`, up to `worker.max_rewrite` bytes."""
    tally = Tally(("compacted", "states_erased", "bytes_freed", "skipped"))
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
        if done is None:
            return
        left -= done.bytes_before
        if done.growth_bytes is not None:
            log.info(
                "compaction of %r skipped: the journal would grow by %d bytes",
                info.job_id,
                done.growth_bytes,
            )
            tally.add(skipped=1)
        else:
            tally.add(
                compacted=1, states_erased=done.dropped, bytes_freed=done.bytes_freed
            )

    return walk(run, task, tally, visit, is_spent=lambda: left <= 0)
