"""What the worker does to a store: one file per task, and this list of them.

To add a task: write its file, add its schedule to `[worker]` under its name, add it
here.  The rest (retries, records, status, stopping) is the same for all.
"""

from __future__ import annotations

from milepost.worker.tasks.compaction import COMPACTION
from milepost.worker.tasks.retention import RETENTION
from milepost.worker.tasks.trash import TRASH
from milepost.worker.tasks.verification import VERIFICATION

# In the order in which `milepost worker task` takes them: each may make work for the
# next.
TASKS = (RETENTION, COMPACTION, TRASH, VERIFICATION)
TASK_NAMES = tuple(task.name for task in TASKS)


__all__ = ["TASKS", "TASK_NAMES"]
