"""An exception at any point of a workflow call leaves the execution usable.

The process may go on after it: no lease stays that it does not know, and its next call
works, whichever manager makes it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from milepost import CheckpointTrigger
from tests.support.interruptions import JOB, Scene, swept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost import LeaseInfo
    from tests.support.tally import Tally

SLOW = pytest.mark.slow


class WorkScene(Scene):
    """A store of two managers, with an execution of this process.

    Args:
        root: of the store.
        before: makes the state that the interrupted call builds on.
    """

    def __init__(self, root: Path, before: Callable[[WorkScene], object]) -> None:
        super().__init__(root)
        self._before = before
        self.run = self.approval = self.digest = ""
        self.lease: LeaseInfo | None = None

    def prepare(self) -> None:
        self._end_all()
        self._before(self)

    def start(self, *, pending: bool = False) -> None:
        started = self.manager.start_workflow_execution(JOB, "w", {}, pending=pending)
        self.run = started.execution_id

    def create(self, *, gate: bool = False) -> object:
        return self.manager.create_checkpoint(self.run, "s", "a", {"x": 1}, gate)

    def ask(self) -> None:
        asked = self.manager.request_approval(self.run, {"v": 1}, allow_self=True)
        self.approval, self.digest = asked.approval_id, asked.subject_digest

    def _unfinished(self) -> list[str]:
        known = self.other.workflows.unfinished(JOB)
        return [found.execution_id for found in known]

    def _end_all(self) -> None:
        for run in self._unfinished():
            assert self.other.cancel_execution(run)

    def go_on(self) -> object:
        """Continue every execution as another caller; return what is wrong."""
        wrong = super().go_on()
        if wrong is not None:
            return wrong
        known = self.other.workflows.known()
        for run in self._unfinished():
            if self.other.workflows.why_dead(run) is None and run not in known:
                return f"{run} has a lease that the process does not know"
            self.other.signal(run, "hello")
            self.manager.pause_execution(run)
            for approval in self.other.approvals(job_id=JOB):
                digest = approval.subject_digest
                self.other.decide(
                    approval.approval_id, "approve", subject_digest=digest
                )
            self.other.resume_execution(run)
            self.other.create_checkpoint(run, "after", "a", {})
            assert self.manager.complete_checkpoint(run, "after", {"y": 1})
            assert self.other.complete_execution(run, {"z": 1})
        if self.other.workflows.known():
            return f"leases stay: {self.other.workflows.known()}"
        return None


def hold(scene: WorkScene) -> None:
    scene.start(pending=True)
    scene.lease = scene.manager.acquire_lease(scene.run)


def give_back(scene: WorkScene) -> None:
    assert scene.lease is not None
    scene.manager.release_lease(scene.lease)


def begin(scene: WorkScene) -> None:
    scene.start()
    scene.create()


def watch(scene: WorkScene) -> None:
    trigger = CheckpointTrigger(on=["step.completed"], keep_last=1)
    scene.manager.add_trigger(trigger)
    begin(scene)


def wait(scene: WorkScene) -> None:
    scene.start()
    scene.create(gate=True)


def ask(scene: WorkScene) -> None:
    scene.start()
    scene.ask()


def pause(scene: WorkScene) -> None:
    scene.start()
    scene.manager.pause_execution(scene.run)


def die(scene: WorkScene) -> None:
    """End the attempt as if its process had died."""
    begin(scene)
    scene.manager.workflows.close()


class Case(NamedTuple):
    """A call, and what it builds on."""

    before: Callable[[WorkScene], object]
    call: Callable[[WorkScene], object]


CALLS: dict[str, Case] = {
    "start": Case(lambda _: None, WorkScene.start),
    "create": Case(WorkScene.start, WorkScene.create),
    "create a gate": Case(WorkScene.start, partial(WorkScene.create, gate=True)),
    "complete": Case(
        begin, lambda s: s.manager.complete_checkpoint(s.run, "s", {"y": 1})
    ),
    "fail": Case(
        begin, lambda s: s.manager.complete_checkpoint(s.run, "s", {}, success=False)
    ),
    "approve": Case(wait, lambda s: s.manager.approve_checkpoint(s.run, "s", True)),
    "reject": Case(wait, lambda s: s.manager.approve_checkpoint(s.run, "s", False)),
    "pause": Case(begin, lambda s: s.manager.pause_execution(s.run)),
    "resume": Case(pause, lambda s: s.manager.resume_execution(s.run)),
    "complete_execution": Case(
        begin, lambda s: s.manager.complete_execution(s.run, {"rows": 1})
    ),
    "cancel": Case(wait, lambda s: s.manager.cancel_execution(s.run)),
    "request_approval": Case(begin, WorkScene.ask),
    "decide": Case(
        ask,
        lambda s: s.manager.decide(s.approval, "approve", subject_digest=s.digest),
    ),
    "acquire_lease": Case(
        partial(WorkScene.start, pending=True),
        lambda s: s.manager.acquire_lease(s.run),
    ),
    "release_lease": Case(hold, give_back),
    "take over": Case(die, WorkScene.create),
    "a trigger": Case(
        watch, lambda s: s.manager.complete_checkpoint(s.run, "s", {"y": 1})
    ),
}

SWEEPS = [
    pytest.param("take over", 83, False, id="take over-some lines"),
    pytest.param("a trigger", 83, False, id="a trigger-some lines"),
    *(
        # Each point takes a store of its own; all points of all calls take an hour.
        pytest.param(name, 29, False, id=f"{name}-line", marks=SLOW)
        for name in CALLS
    ),
]


# An exception that strikes a generator while it is closed goes nowhere; Python says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "every", "opcodes"), SWEEPS)
def test_an_execution_goes_on_after_a_call_that_is_interrupted_anywhere(
    tmp_path: Path, name: str, every: int, tally: Tally, *, opcodes: bool
) -> None:
    before, call = CALLS[name]
    problems, points = swept(
        tmp_path,
        lambda scene, _: call(scene),
        every=every,
        opcodes=opcodes,
        open_=partial(WorkScene, before=before),
    )
    assert problems == {}
    assert points > 50
    tally("interruptions", points // every)
