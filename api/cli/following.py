"""Following an execution until it ends or waits for a person."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from milepost.api.cli.exits import Problem
from milepost.api.cli.output import say
from milepost.api.cli.starting import starting_worker
from milepost.api.cli.workflows import (
    owner,
    pending,
    status_of,
    voters,
    waits_for,
)
from milepost.journal.index.executions import PAUSED

if TYPE_CHECKING:
    from milepost.api.cli.starting import Handed
    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.settings import Settings

_LOOK_SECONDS = 0.1


def follow(
    manager: CheckpointManager,
    settings: Settings | None,
    execution_id: str,
    handed: Handed | None,
) -> tuple[dict[str, Any], Problem | None]:
    """Report the progress of an execution; return its last status, and why it stopped.

    The problem is None if it completed.
    """
    said = None
    while True:
        # Asked first: a job that has ended by now has written all that it will write.
        has_gone = _has_gone(handed, execution_id, manager)
        status = status_of(manager, execution_id)
        if (line := _line(status)) != said:
            said = line
            say(line)
        if status["status"] == "completed":
            return status, None
        problem = _problem(manager, settings, status, has_gone=has_gone)
        if problem is not None:
            return status, problem
        time.sleep(_LOOK_SECONDS)


def _line(status: dict[str, Any]) -> str:
    step = status["current_checkpoint"]
    parts = [status["status"], step and f"step {step}", owner(status)]
    return f"{status['execution_id']}: {', '.join(filter(None, parts))}"


def _has_gone(
    handed: Handed | None, execution_id: str, manager: CheckpointManager
) -> bool:
    """Return whether the job that was started has ended, as far as that is known."""
    if handed is None or handed.executor is None:
        return False
    ask = getattr(handed.executor, "is_running", None)
    job_id = status_of(manager, execution_id)["correlation_id"]
    return callable(ask) and ask(job_id) is False


def _problem(
    manager: CheckpointManager,
    settings: Settings | None,
    status: dict[str, Any],
    *,
    has_gone: bool,
) -> Problem | None:
    """Return why an execution does not go on by itself; None if it may."""
    name, word = status["execution_id"], status["status"]
    if word == "waiting":
        return _waits(manager, status)
    if word == "pending" and has_gone:
        word = "not started"
    if word not in _STOPS:
        return None
    if word == "interrupted" and starting_worker(
        manager, settings, status["workflow_name"]
    ):
        return None  # the worker resumes it
    code, what, hint = _STOPS[word]
    why = status["error"] or status["reason"]
    because = f": {why}" if why else ""
    return Problem(code, f"execution {name} {what}{because}", hint and hint + name)


# status -> code, what is said, the command that helps
_STOPS = {
    "failed": ("execution_failed", "failed", "milepost execution retry "),
    "cancelled": ("execution_cancelled", "was cancelled", None),
    "interrupted": (
        "execution_interrupted",
        "lost its process",
        "milepost execution resume ",
    ),
    "not started": (
        "execution_interrupted",
        "is pending, and its job ended without taking the lease",
        None,
    ),
}


def _waits(manager: CheckpointManager, status: dict[str, Any]) -> Problem:
    name, code = status["execution_id"], "execution_waiting"
    approval = pending(manager, status["correlation_id"]).get(status["waiting_on"])
    if approval is not None:
        what = f"execution {name} waits for approval of {voters(approval)}"
        return Problem(code, what, f"milepost approve {approval.approval_id}")
    if status["waiting_on"] != PAUSED:
        what = f"execution {name} waits for {waits_for(status, {})}"
        return Problem(code, what)
    why = f": {status['reason']}" if status["reason"] else ""
    hint = f"milepost execution resume {name}"
    return Problem(code, f"execution {name} is paused{why}", hint)
