"""Trash: what has been out of its trash period for long is erased, however little."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from milepost.worker.tasks.rewriting import rewrite
from milepost.worker.tasks.task import Run, Task

if TYPE_CHECKING:
    from milepost.worker.schedule.report import RunReport


def _run(run: Run) -> RunReport:
    """Keep the promise of `retention.erase_within`; salvage files go as well (I9)."""
    threshold = run.settings.retention.compaction
    return rewrite(run, TRASH.name, threshold._replace(min_bytes=sys.maxsize))


TRASH = Task("purge", _run, counts_ages=True)
