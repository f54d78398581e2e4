"""What is done to executions while the store is watched; see `workloads`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from milepost.journal.errors import LeaseLost
from milepost.journal.execution_models import LeaseInfo
from tests.crash.ledger import GATE, Violation
from tests.crash.session import forget_attempts

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from tests.crash.session import Session

JOB = "job"
_SECRET = "a secret input"


class _Work:
    """An execution, and what its calls promise."""

    def __init__(self, session: Session, manager: CheckpointManager) -> None:
        self.session = session
        self.manager = manager
        self.id = ""

    def promise(self) -> None:
        self.manager.list(JOB)  # it may have yet to notice a compaction of its own
        self.session.acknowledge(self.manager, JOB)

    def start(self) -> None:
        started = self.manager.start_workflow_execution(JOB, "w", {"url": "x"})
        self.id = started.execution_id
        self.promise()

    def create(self, name: str, value: str = "in") -> None:
        self.manager.create_checkpoint(self.id, name, "a", {"v": value}, name == GATE)
        self.promise()

    def complete(self, name: str) -> str:
        output = {"rows": name}
        assert self.manager.complete_checkpoint(self.id, name, output)
        checkpoint_id = self.manager.list(JOB)[-1].checkpoint_id
        self.session.ledger.states[checkpoint_id] = output
        self.promise()
        return checkpoint_id

    def ask(self, **terms: Any) -> str:
        asked = self.manager.request_approval(self.id, {"v": 1}, **terms)
        self.promise()
        return asked.approval_id

    def finish(self) -> None:
        assert self.manager.complete_execution(self.id, {"rows": 2})
        self.promise()


def _begun(session: Session) -> _Work:
    """Return a running execution that is safely on the disk."""
    manager = session.open()
    session.save(manager, JOB, {"rows": 1})
    work = _Work(session, manager)
    work.start()
    session.quiet()
    return work


def execute(session: Session) -> None:
    """Steps, a gate and a decision, from the start to the end."""
    manager = session.open()
    session.save(manager, JOB, {"rows": 1})
    session.quiet()
    work = _Work(session, manager)
    work.start()
    work.create("step")
    work.complete("step")
    work.create(GATE)
    assert manager.approve_checkpoint(work.id, GATE, True)
    work.promise()
    work.complete(GATE)
    work.finish()


def take_over_an_execution(session: Session) -> None:
    """The process of an attempt dies; another one goes on, and the dead one is late."""
    work = _begun(session)
    work.create("step")
    first = LeaseInfo(work.id, 1, 30.0)
    session.kill(work.manager)
    other = _Work(session, session.open())
    other.id = work.id
    other.create("step")
    _refuse_late(other, first)
    other.complete("step")
    other.create("late")
    session.kill(other.manager)
    third = _Work(session, session.open())
    third.id = work.id
    dead = third.manager.workflows
    assert dead.expire(work.id, 2, actor="w", reason="its process ended")
    third.promise()
    third.create("step")


def _refuse_late(work: _Work, lease: LeaseInfo) -> None:
    try:
        work.manager.release_lease(lease)
    except LeaseLost:
        return
    raise Violation("a stale attempt wrote")


def clear_executions(session: Session) -> None:
    """What executions need stays, and what they left goes from the disk."""
    work = _begun(session)
    work.manager.trash_seconds = 0
    work.create("step", _SECRET)
    work.complete("step")
    work.finish()
    work.start()
    work.create("step")
    needed = work.complete("step")
    session.quiet()
    session.save(work.manager, JOB, {"rows": 5})
    work.manager.cleanup(JOB, keep_last=1)
    work.promise()
    if needed not in {info.checkpoint_id for info in work.manager.list(JOB)}:
        raise Violation(f"{needed} was removed, though an execution needs it")
    assert work.manager.cleanup_old_executions(0) == 1
    work.promise()
    assert work.manager.compact(JOB) is not None
    work.promise()
    session.look(work.manager, JOB)
    if _SECRET.encode() in session.content(JOB):
        raise Violation("the input of a removed execution is still there")
    session.save(work.manager, JOB, {"rows": 6})


def end_executions(session: Session) -> None:
    """Pauses, a deadline, a cancellation, and an erasure."""
    work = _begun(session)
    work.create("step")
    assert work.manager.pause_execution(work.id)
    work.promise()
    assert work.manager.resume_execution(work.id)
    work.promise()
    deadline = session.now() + timedelta(seconds=60)
    approval_id = work.ask(deadline=deadline, on_timeout="fail")
    session.pass_time(120)
    workflows = work.manager.workflows
    assert workflows.expire_approval(approval_id, actor="w")
    work.promise()
    assert work.manager.resume_execution(work.id, retry=True)
    work.promise()
    work.create(GATE)
    assert work.manager.cancel_execution(work.id)
    work.promise()
    work.manager.erase(JOB)
    work.promise()


def go_on(session: Session, manager: CheckpointManager) -> None:
    """Continue the newest execution after a crash, whatever it was at."""
    unfinished = manager.workflows.unfinished(JOB)
    if not unfinished or unfinished[-1].status == "waiting":
        return
    work = _Work(session, manager)
    work.id = unfinished[-1].execution_id
    work.create("after")
    forget_attempts()
