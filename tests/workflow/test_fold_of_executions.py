"""The fold of executions depends on their events alone, however they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.events.codec import Mark
from milepost.journal.events.workflow_events import WORKFLOW_EVENT_TYPES
from milepost.journal.index import job_view
from milepost.journal.index.job_view import JobView
from tests.crash.ledger import plain
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.clock import Clock


@pytest.fixture
def lived(manager: CheckpointManager, clock: Clock) -> CheckpointManager:
    """Return a manager of a job whose executions went every way."""
    run = manager.start_workflow_execution(JOB, "w", {"x": 1}).execution_id
    manager.create_checkpoint(run, "a", "agent", {"in": 1})
    manager.complete_checkpoint(run, "a", {"out": 1})
    manager.create_checkpoint(run, "b", "agent", {}, True)
    manager.approve_checkpoint(run, "b", False)
    manager.resume_execution(run)
    manager.signal(run, "go", {"n": 1})
    manager.consume_signal(run, "go")
    asked = manager.request_approval(run, {"v": 1}, required=2, actor="zoe")
    for actor in ("bob", "cyd"):
        digest = asked.subject_digest
        manager.decide(asked.approval_id, "approve", subject_digest=digest, actor=actor)
    manager.create_checkpoint(run, "c", "agent", {})
    manager.complete_checkpoint(run, "c", {"error": "no"}, False)
    manager.resume_execution(run, retry=True)
    manager.release_lease(manager.acquire_lease(run))
    manager.create_checkpoint(run, "d", "agent", {})
    manager.workflows.close()  # as if the process had died
    manager.create_checkpoint(run, "e", "agent", {})
    manager.pause_execution(run)
    manager.request_approval(_resumed(manager, run), {"v": 2})
    manager.cancel_execution(run)
    clock.turn(seconds=1)
    manager.start_workflow_execution(JOB, "w")
    manager.cleanup_old_executions(0)
    manager.complete_execution(f"exec_{JOB}", {"rows": 1})
    return manager


def _resumed(manager: CheckpointManager, run: str) -> str:
    assert manager.resume_execution(run)
    return run


def folded(root: Path) -> object:
    with CheckpointManager(root) as manager:
        return plain(manager._store.view(JOB).workflows)


def test_events_one_by_one_fold_like_all_at_once(lived: CheckpointManager) -> None:
    store, last = lived._store, lived.seq(JOB)
    view, types = JobView(JOB, lived.storage.store_id), set()
    for event, size, fault in store._job(JOB).stored.events(Mark(), last):
        job_view.apply(view, event, size, fault)
        types.add(event["type"])
        at_once = store.replay(JOB, until_seq=view.seq)
        assert plain(view.workflows) == plain(at_once.workflows)
        assert not view.misfit
    assert plain(view.workflows) == plain(store.view(JOB).workflows)
    # Not every one, but all families, so that a new type does not fail here.
    assert len(WORKFLOW_EVENT_TYPES & types) >= 20


def test_what_is_stored_now_does_not_change_the_fold(
    lived: CheckpointManager, clock: Clock, tmp_path: Path
) -> None:
    before = folded(tmp_path)
    clock.turn(seconds=lived.trash_seconds + 1)
    done = lived.compact(JOB, trust_clock=True)
    assert done is not None
    assert done.dropped > 5
    assert folded(tmp_path) == before == plain(lived._store.view(JOB).workflows)
    assert lived.erase(JOB) is not None
    erased = plain(lived._store.view(JOB).workflows)
    assert folded(tmp_path) == erased
