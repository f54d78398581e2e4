"""The worker's tasks, one per file.

To add a task, write its file, add its schedule to `[worker]` under its name, and add it
to `TASKS`.  Retries, records, status and stopping are common to all tasks.
"""

from __future__ import annotations

from milepost.worker.tasks.compaction import COMPACTION
from milepost.worker.tasks.retention import RETENTION
from milepost.worker.tasks.trash import TRASH
from milepost.worker.tasks.verification import VERIFICATION

# In the order of `milepost worker task`: each may create work for the next.
TASKS = (RETENTION, COMPACTION, TRASH, VERIFICATION)
TASK_NAMES = tuple(task.name for task in TASKS)


__all__ = ["TASKS", "TASK_NAMES"]
