"""Milepost's journal: checkpoints of long-running jobs, kept for good.

    from journal import CheckpointManager

    manager = CheckpointManager("./checkpoints")
    checkpoint_id = manager.save("orders", "extract", {"rows": 1200})
    manager.restore("orders", checkpoint_id)

Importing this package starts nothing and reads neither environment nor configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from journal import errors
    from journal.checkpoints import CheckpointManager
    from journal.compaction import Compaction, Threshold
    from journal.diagnosis import Diagnosis
    from journal.diff import Change
    from journal.events import Event
    from journal.importing import FileNote, Imported, ImportedJob
    from journal.info import Checkpoint, CheckpointInfo, Hold, JobInfo, JobReport
    from journal.keys import Key, KeyRing
    from journal.memory_storage import MemoryStorage
    from journal.plans import Applied, JobPlan, Plan
    from journal.policies import Match, Policies
    from journal.policy import Best, Policy
    from journal.repair import Repair
    from journal.retention import Ruling, Verdict
    from journal.span import Span

__all__ = [
    "Applied",
    "Best",
    "Change",
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointManager",
    "Compaction",
    "Diagnosis",
    "Event",
    "FileNote",
    "Hold",
    "Imported",
    "ImportedJob",
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

_NAMES_OF = {
    "checkpoints": ("CheckpointManager",),
    "compaction": ("Compaction", "Threshold"),
    "diagnosis": ("Diagnosis",),
    "diff": ("Change",),
    "events": ("Event",),
    "importing": ("FileNote", "Imported", "ImportedJob"),
    "info": ("Checkpoint", "CheckpointInfo", "Hold", "JobInfo", "JobReport"),
    "keys": ("Key", "KeyRing"),
    "plans": ("Applied", "JobPlan", "Plan"),
    "policies": ("Match", "Policies"),
    "policy": ("Best", "Policy"),
    "repair": ("Repair",),
    "retention": ("Ruling", "Verdict"),
    "span": ("Span",),
    "memory_storage": ("MemoryStorage",),
}
_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:  # whatever the module holds
    # Each name is imported when it is asked for: a command that lists checkpoints must
    # not pay for plans and repairs (PEP 562).
    if name == "errors":
        return import_module("journal.errors")
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found = globals()[name] = getattr(import_module(f"journal.{home}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
