"""States and transitions of executions, checkpoints and approvals, as one table.  Pure.

The fold applies the table, writers are refused by it, and a test proves that no event
is ambiguous, every state is reachable, and every state can end.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Machine = Literal["execution", "checkpoint", "approval"]

NONE = ""  # the state of what does not exist yet
LIVE = frozenset({"pending", "running", "waiting"})
UNFINISHED = LIVE | {"interrupted"}


class Row(NamedTuple):
    """A transition: an event moves from any of some states to one."""

    sources: frozenset[str]
    target: str


def _row(sources: str, target: str) -> Row:
    return Row(frozenset(sources.split(" ")), target)


TRANSITIONS: dict[Machine, dict[str, Row]] = {
    "execution": {
        "execution.started": _row(NONE, "pending"),
        "lease.acquired": _row("pending", "running"),
        "execution.waiting": _row("pending running waiting", "waiting"),
        "execution.ready": _row("waiting", "pending"),
        "execution.interrupted": _row("running", "interrupted"),
        "execution.resumed": _row("interrupted failed cancelled", "pending"),
        "execution.completed": _row("running", "completed"),
        "execution.failed": _row("pending running waiting interrupted", "failed"),
        "execution.cancelled": _row("pending running waiting interrupted", "cancelled"),
    },
    "checkpoint": {
        "checkpoint.created": _row(NONE, "open"),
        "checkpoint.saved": Row(frozenset({NONE, "open"}), "completed"),
        "checkpoint.failed": _row("open", "failed"),
        "checkpoint.skipped": _row("open", "skipped"),
        "checkpoint.abandoned": _row("open", "abandoned"),
        "checkpoint.deleted": _row("completed", "deleted"),
        "checkpoints.cleaned": _row("completed", "deleted"),
        "checkpoint.undeleted": _row("deleted", "completed"),
        "checkpoint.purged": _row("completed deleted purged", "purged"),
    },
    "approval": {
        "approval.requested": _row(NONE, "pending"),
        "approval.voted": _row("pending", "pending"),
        "approval.reminded": _row("pending", "pending"),
        "approval.approved": _row("pending", "approved"),
        "approval.rejected": _row("pending", "rejected"),
        "approval.expired": _row("pending", "expired"),
        "approval.withdrawn": _row("pending", "withdrawn"),
    },
}


def after(machine: Machine, event: str, state: str) -> str | None:
    """Return the state after an event, None if the event does not fit `state`."""
    row = TRANSITIONS[machine].get(event)
    return row.target if row is not None and state in row.sources else None


def possible(machine: Machine, state: str) -> list[str]:
    """Return the events that fit `state`, sorted."""
    rows = TRANSITIONS[machine].items()
    return sorted(event for event, row in rows if state in row.sources)
