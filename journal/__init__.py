"""Milepost's journal: checkpoints of long-running jobs, kept for good.

    from journal import CheckpointManager

    manager = CheckpointManager("./checkpoints")
    checkpoint_id = manager.save("orders", "extract", {"rows": 1200})
    manager.restore("orders", checkpoint_id)

Importing this package starts nothing and reads neither environment nor configuration.
"""

from journal import errors
from journal.checkpoints import CheckpointManager
from journal.compaction import Compaction, Threshold
from journal.diff import Change
from journal.events import Event
from journal.info import Checkpoint, CheckpointInfo, Hold, JobInfo, JobReport
from journal.keys import Key, KeyRing
from journal.retention import Plan, Policy, Verdict
from journal.storage import MemoryStorage

__all__ = [
    "Change",
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointManager",
    "Compaction",
    "Event",
    "Hold",
    "JobInfo",
    "JobReport",
    "Key",
    "KeyRing",
    "MemoryStorage",
    "Plan",
    "Policy",
    "Threshold",
    "Verdict",
    "errors",
]
