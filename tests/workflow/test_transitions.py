"""The table of states: unambiguous, reachable, finite; writers and readers obey it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, errors
from milepost.journal.events.workflow_events import WORKFLOW_EVENT_TYPES
from milepost.journal.index.transitions import (
    NONE,
    TRANSITIONS,
    UNFINISHED,
    Machine,
    after,
    possible,
)
from tests.support.lines import Draft, append_as_newer
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINES: list[Machine] = [*TRANSITIONS]


def states(machine: Machine) -> set[str]:
    rows = TRANSITIONS[machine].values()
    return {row.target for row in rows} | {s for row in rows for s in row.sources}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_state_is_reachable_and_can_end(machine: Machine) -> None:
    table = TRANSITIONS[machine]
    reached, grown = {NONE}, True
    while grown:
        new = {r.target for r in table.values() if r.sources & reached}
        grown = not new <= reached
        reached |= new
    assert reached == states(machine)
    # An approval, an execution and an open step end; a checkpoint is purged at last.
    last = {"execution": "completed", "checkpoint": "purged", "approval": "withdrawn"}
    ending = {s for s in states(machine) if not possible(machine, s)} | {last[machine]}
    grown = True
    while grown:
        new = {s for r in table.values() if r.target in ending for s in r.sources}
        grown = not new <= ending
        ending |= new
    assert ending == states(machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_an_event_leads_from_a_state_to_one_state(machine: Machine) -> None:
    for event in TRANSITIONS[machine]:
        targets = {after(machine, event, state) for state in states(machine)}
        assert len(targets - {None}) == 1


def test_every_event_of_a_workflow_moves_a_machine_or_is_a_note() -> None:
    moving = {event for table in TRANSITIONS.values() for event in table}
    notes = {"lease.released", "lease.expired", "signal.received", "signal.consumed"}
    notes |= {"trigger.failed", "step.started", "step.completed", "step.failed"}
    assert WORKFLOW_EVENT_TYPES - moving == notes


def test_cancel_works_from_every_unfinished_state() -> None:
    assert all("execution.cancelled" in possible("execution", s) for s in UNFINISHED)


def pending(manager: CheckpointManager) -> str:
    made = manager.start_workflow_execution(JOB, "w", pending=True)
    return made.execution_id


def running(manager: CheckpointManager) -> str:
    return manager.start_workflow_execution(JOB, "w").execution_id


def paused(manager: CheckpointManager) -> str:
    manager.pause_execution(name := running(manager))
    return name


def gated(manager: CheckpointManager) -> str:
    manager.create_checkpoint(name := running(manager), "gate", "a", {}, True)
    return name


def interrupted(manager: CheckpointManager) -> str:
    name = running(manager)
    manager.workflows.expire(name, 1, actor="w", reason="gone")
    return name


def completed(manager: CheckpointManager) -> str:
    manager.complete_execution(name := running(manager))
    return name


def failed(manager: CheckpointManager) -> str:
    manager.fail_execution(name := running(manager), "no space")
    return name


def cancelled(manager: CheckpointManager) -> str:
    manager.cancel_execution(name := running(manager))
    return name


STATES: list[Callable[[CheckpointManager], str]] = [
    *(pending, running, paused, gated, interrupted, completed, failed, cancelled)
]
_FINAL, _PAUSED, _GATED = "execution_final", "execution_paused", "approval_pending"
# What each call answers in each state: a result, or the code of an error.
CALLS: dict[str, tuple[Callable[[CheckpointManager, str], Any], dict[str, Any]]] = {
    "create": (
        lambda m, x: bool(m.create_checkpoint(x, "s", "a", {})),
        {"pending": True, "running": True, "paused": _PAUSED, "gated": _GATED}
        | {"interrupted": True, "completed": _FINAL, "failed": _FINAL}
        | {"cancelled": _FINAL},
    ),
    "pause": (
        lambda m, x: m.pause_execution(x),
        {"pending": True, "running": True, "paused": False, "gated": False}
        | {"interrupted": True, "completed": False, "failed": False}
        | {"cancelled": False},
    ),
    "resume": (
        lambda m, x: m.resume_execution(x),
        {"pending": False, "running": False, "paused": True, "gated": False}
        | {"interrupted": True, "completed": False, "failed": False}
        | {"cancelled": False},
    ),
    "retry": (
        lambda m, x: m.resume_execution(x, retry=True),
        {"pending": False, "running": False, "paused": True, "gated": False}
        | {"interrupted": True, "completed": False, "failed": True}
        | {"cancelled": True},
    ),
    "complete": (
        lambda m, x: m.complete_execution(x),
        {"pending": True, "running": True, "paused": _PAUSED, "gated": _GATED}
        | {"interrupted": True, "completed": False, "failed": _FINAL}
        | {"cancelled": _FINAL},
    ),
    "fail": (
        lambda m, x: m.fail_execution(x, "why"),
        {"pending": True, "running": True, "paused": True, "gated": True}
        | {"interrupted": True, "completed": _FINAL, "failed": False}
        | {"cancelled": _FINAL},
    ),
    "cancel": (
        lambda m, x: m.cancel_execution(x),
        {"pending": True, "running": True, "paused": True, "gated": True}
        | {"interrupted": True, "completed": _FINAL, "failed": _FINAL}
        | {"cancelled": False},
    ),
    "signal": (
        lambda m, x: m.signal(x, "go") > 0,
        {"pending": True, "running": True, "paused": True, "gated": True}
        | {"interrupted": True, "completed": _FINAL, "failed": _FINAL}
        | {"cancelled": _FINAL},
    ),
    "ask": (
        lambda m, x: m.request_approval(x, {}).status,
        {"pending": "pending", "running": "pending", "paused": _PAUSED}
        | {"gated": _GATED, "interrupted": "pending", "completed": _FINAL}
        | {"failed": _FINAL, "cancelled": _FINAL},
    ),
    "lease": (
        lambda m, x: m.acquire_lease(x).attempt > 0,
        {"pending": True, "running": "lease_live", "paused": _PAUSED, "gated": _GATED}
        | {"interrupted": True, "completed": _FINAL, "failed": _FINAL}
        | {"cancelled": _FINAL},
    ),
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_does_what_the_state_allows_or_names_the_state(
    manager: CheckpointManager,
    state: Callable[[CheckpointManager], str],
    call: str,
) -> None:
    act, expected = CALLS[call]
    name = state(manager)
    before, wanted = manager.history(JOB), expected[state.__name__]
    if wanted in (True, False, "pending"):
        assert act(manager, name) == wanted
        return
    with pytest.raises(errors.Conflict, match=name) as caught:
        act(manager, name)
    assert caught.value.code == wanted
    assert caught.value.hint
    assert manager.history(JOB) == before


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.create_checkpoint(x, "s", "a", {}),
        lambda m, x: m.complete_execution(x),
        lambda m, x: m.fail_execution(x, "why"),
        lambda m, x: m.cancel_execution(x),
        lambda m, x: m.request_approval(x, {}),
        lambda m, x: m.acquire_lease(x),
        lambda m, x: m.signal(x, "go"),
    ],
)
@pytest.mark.parametrize("name", ["exec_" + "0" * 20, "exec_", "nothing", "exec_ü"])
def test_an_unknown_execution_is_named(
    manager: CheckpointManager,
    call: Callable[[CheckpointManager, str], object],
    name: str,
) -> None:
    if name == "exec_ü" and "create_checkpoint" in call.__code__.co_names:
        return  # it starts one
    with pytest.raises(errors.UnknownExecution, match="does not exist"):
        call(manager, name)
    assert manager.jobs() == []


def test_an_event_that_fits_no_state_is_reported_by_readers(
    manager: CheckpointManager, run: str
) -> None:
    """A journal of another program: the reader reports, and never skips (I5)."""
    manager.close()
    assert manager.root is not None
    event = Draft("execution.ready", data={"execution_id": run})
    append_as_newer(manager.root, event)
    with CheckpointManager(manager.root) as other:
        with pytest.raises(errors.NewerFormat, match="does not fit execution"):
            other.list(JOB)
        assert other.history(JOB)[-1]["type"] == "execution.ready"
