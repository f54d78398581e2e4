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
from journal.diagnosis import Diagnosis
from journal.diff import Change
from journal.events import Event
from journal.info import Checkpoint, CheckpointInfo, Hold, JobInfo, JobReport
from journal.keys import Key, KeyRing
from journal.plans import JobPlan, Plan
from journal.policies import Match, Policies
from journal.policy import Best, Policy
from journal.repair import Repair
from journal.retention import Ruling, Verdict
from journal.span import Span
from journal.storage import MemoryStorage

__all__ = [
    "Best",
    "Change",
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointManager",
    "Compaction",
    "Diagnosis",
    "Event",
    "Hold",
    "JobInfo",
    "JobPlan",
    "JobReport",
    "Key",
    "KeyRing",
    "Match",
    "MemoryStorage",
    "Plan",
    "Policies",
    "Policy",
    "Repair",
    "Ruling",
    "Span",
    "Threshold",
    "Verdict",
    "errors",
]
