"""Compaction: rewriting journals without their removed states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.worker.tasks.rewriting import rewrite
from milepost.worker.tasks.task import Task, TaskContext

if TYPE_CHECKING:
    from milepost.worker.schedule.report import TaskReport


def _run(run: TaskContext) -> TaskReport:
    """Rewrite journals with enough removed states; `purge` handles overdue ones."""
    threshold = run.settings.retention.compaction
    return rewrite(run, COMPACTION.name, threshold._replace(erase_within_seconds=None))


COMPACTION = Task("compact", _run, counts_ages=True)
