"""The JSON form of executions, their steps and approvals, for HTTP and ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.journal.execution_models import ApprovalInfo


def step_fields(step: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `StepOfExecution`, of an item of a history."""
    return {**step, "state": step["state"].value}


def approval_fields(approval: ApprovalInfo, **subject: Any) -> dict[str, Any]:
    """Return the fields of `ListedApproval`, with the `subject` if given."""
    found = approval._asdict()
    del found["subject"]
    return {**found, **subject}
