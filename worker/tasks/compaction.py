"""Compaction: journals that are shorter without their removed states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost.worker.tasks.rewriting import rewrite
from milepost.worker.tasks.task import Run, Task

if TYPE_CHECKING:
    from milepost.worker.schedule.report import RunReport


def _run(run: Run) -> RunReport:
    """Rewrite where enough is dead; being late alone is the trash's business."""
    threshold = run.settings.retention.compaction
    return rewrite(run, COMPACTION.name, threshold._replace(erase_within_seconds=None))


COMPACTION = Task("compact", _run, counts_ages=True)
