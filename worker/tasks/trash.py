"""Trash: erasing states that are overdue after their trash period."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from milepost.worker.tasks.rewriting import rewrite
from milepost.worker.tasks.task import Task, TaskContext

if TYPE_CHECKING:
    from milepost.worker.schedule.report import TaskReport


def _run(run: TaskContext) -> TaskReport:
    """Erase states within `retention.erase_within`, and salvage files (I9).

    Unlike compaction, this rewrites a journal for a single overdue state.
    """
    threshold = run.settings.retention.compaction
    return rewrite(run, TRASH.name, threshold._replace(min_bytes=sys.maxsize))


TRASH = Task("purge", _run, counts_ages=True)
