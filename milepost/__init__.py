"""Checkpoints of long-running jobs, in an append-only journal per job.

    from milepost import CheckpointManager

    manager = CheckpointManager("./checkpoints")
    checkpoint_id = manager.save("orders", "extract", {"rows": 1200})
    manager.restore("orders", checkpoint_id)

Importing this package starts nothing and reads neither environment nor configuration.
`milepost.api` has `create_app`, the HTTP API.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.journal import errors
    from milepost.journal.commands.appending import Appended
    from milepost.journal.commands.approvals import Terms
    from milepost.journal.crypto.keys import Key, KeyRing
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.execution_models import (
        ApprovalInfo,
        CheckpointExecution,
        CheckpointState,
        LeaseInfo,
        Outcome,
        StepRecord,
        WorkflowExecution,
    )
    from milepost.journal.importing.importing import FileNote, Imported, ImportedJob
    from milepost.journal.manager import CheckpointManager
    from milepost.journal.models import (
        Checkpoint,
        CheckpointInfo,
        Hold,
        JobInfo,
        JobReport,
    )
    from milepost.journal.process.graceful import Stop
    from milepost.journal.recovery.diagnosis import Diagnosis
    from milepost.journal.recovery.steps import Repair
    from milepost.journal.retention.decisions import Ruling, Verdict
    from milepost.journal.retention.duration import Span
    from milepost.journal.retention.field_kinds import Best
    from milepost.journal.retention.plans import Applied, JobPlan, Plan
    from milepost.journal.retention.policies import Match, Policies
    from milepost.journal.retention.policy import Policy
    from milepost.journal.states.diff import Change
    from milepost.journal.states.types import AS_STORED, Types
    from milepost.journal.storage.memory import MemoryStorage
    from milepost.journal.store.compaction import Compaction, Threshold
    from milepost.journal.workflow.async_run import AsyncRun
    from milepost.journal.workflow.functions import WorkflowFunction
    from milepost.journal.workflow.retries import (
        Fatal,
        NotRun,
        Retry,
        RetryAfter,
        Suspended,
    )
    from milepost.journal.workflow.run import MapItem, Run
    from milepost.journal.workflow.triggers import CheckpointTrigger, TriggerEvent

    __version__: str

__all__ = [
    "AS_STORED",
    "Appended",
    "Applied",
    "ApprovalInfo",
    "AsyncRun",
    "Best",
    "Change",
    "Checkpoint",
    "CheckpointExecution",
    "CheckpointInfo",
    "CheckpointManager",
    "CheckpointState",
    "CheckpointTrigger",
    "Compaction",
    "Diagnosis",
    "Event",
    "Fatal",
    "FileNote",
    "Hold",
    "Imported",
    "ImportedJob",
    "JobInfo",
    "JobPlan",
    "JobReport",
    "Key",
    "KeyRing",
    "LeaseInfo",
    "MapItem",
    "Match",
    "MemoryStorage",
    "NotRun",
    "Outcome",
    "Plan",
    "Policies",
    "Policy",
    "Repair",
    "Retry",
    "RetryAfter",
    "Ruling",
    "Run",
    "Span",
    "StepRecord",
    "Stop",
    "Suspended",
    "Terms",
    "Threshold",
    "TriggerEvent",
    "Types",
    "Verdict",
    "WorkflowExecution",
    "WorkflowFunction",
    "__version__",
    "errors",
]

_NAMES_OF = {
    "journal.crypto.keys": ("Key", "KeyRing"),
    "journal.commands.appending": ("Appended",),
    "journal.commands.approvals": ("Terms",),
    "journal.events.vocabulary": ("Event",),
    "journal.execution_models": (
        *("ApprovalInfo", "CheckpointExecution", "CheckpointState", "LeaseInfo"),
        *("Outcome", "StepRecord", "WorkflowExecution"),
    ),
    "journal.importing.importing": ("FileNote", "Imported", "ImportedJob"),
    "journal.manager": ("CheckpointManager",),
    "journal.models": ("Checkpoint", "CheckpointInfo", "Hold", "JobInfo", "JobReport"),
    "journal.process.graceful": ("Stop",),
    "journal.recovery.diagnosis": ("Diagnosis",),
    "journal.recovery.steps": ("Repair",),
    "journal.retention.decisions": ("Ruling", "Verdict"),
    "journal.retention.duration": ("Span",),
    "journal.retention.field_kinds": ("Best",),
    "journal.retention.plans": ("Applied", "JobPlan", "Plan"),
    "journal.retention.policies": ("Match", "Policies"),
    "journal.retention.policy": ("Policy",),
    "journal.states.diff": ("Change",),
    "journal.states.types": ("AS_STORED", "Types"),
    "journal.storage.memory": ("MemoryStorage",),
    "journal.store.compaction": ("Compaction", "Threshold"),
    "journal.workflow.async_run": ("AsyncRun",),
    "journal.workflow.functions": ("WorkflowFunction",),
    "journal.workflow.retries": ("Fatal", "NotRun", "Retry", "RetryAfter", "Suspended"),
    "journal.workflow.run": ("MapItem", "Run"),
    "journal.workflow.triggers": ("CheckpointTrigger", "TriggerEvent"),
}
_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:  # whatever the module holds
    # Each name is imported when it is asked for: a command that lists checkpoints must
    # not pay for plans and repairs (PEP 562).
    found: Any
    if name == "errors":
        return import_module("milepost.journal.errors")
    if name == "__version__":
        from importlib.metadata import version

        found = version("milepost")
    elif name in _HOME_OF:
        found = getattr(import_module(f"milepost.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
