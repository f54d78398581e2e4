"""An exception at any point of a durable step leaves the execution usable.

The block has ended then: this process holds no lease of it, and the next block goes on,
whichever manager opens it.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from milepost.journal.errors import StepUncertain
from tests.support.interruptions import JOB, LAP, Injector, Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost import Run
    from tests.support.tally import Tally


def step(run: Run) -> None:
    run.step("a", int)


def once(run: Run) -> None:
    run.step("a", int, once=True)


def spread(run: Run) -> None:
    run.map("m", int, range(2))


def spread_in_threads(run: Run) -> None:
    run.map("m", int, range(2), workers=2)


def signal(run: Run) -> None:
    run.signal("paid")


def approval(run: Run) -> None:
    run.approval("publish", {"rows": 3})


def save(run: Run) -> None:
    run.save("s", {"rows": 3})


PROGRAMS = {
    "the block": lambda _: None,
    "step": step,
    "once": once,
    "map": spread,
    "map in threads": spread_in_threads,
    "signal": signal,
    "approval": approval,
    "save": save,
}


class StepScene(Scene):
    """A store of two managers, and a program that one of them runs."""

    def __init__(self, root: Path, program: Callable[[Run], object]) -> None:
        super().__init__(root)
        self._program = program

    def prepare(self) -> None:
        for found in self.other.workflows.unfinished(JOB):
            assert self.other.cancel_execution(found.execution_id)
        started = self.other.start_workflow_execution(JOB, "w", {}, pending=True)
        self.other.signal(started.execution_id, "paid", {"n": 1})

    def run(self) -> None:
        with self.manager.execution("w", job_id=JOB) as run:
            self._program(run)

    def go_on(self) -> object:
        """Continue the execution as another caller; return what is wrong."""
        wrong = super().go_on()
        if wrong is not None:
            return wrong
        if known := self.other.workflows.known():
            return f"leases stay: {known}"
        for found in self.other.workflows.unfinished(JOB):
            if self.other.workflows.why_dead(found.execution_id) is None:
                return f"{found.execution_id} has a lease that the process has not"
        return self._finish()

    def _finish(self) -> object:
        for manager in (self.other, self.manager):
            block: Any = manager.execution("w", job_id=JOB)
            try:
                with block as run:
                    self._program(run)
            except StepUncertain:
                return None
            if block.status == "completed":
                return None
            for asked in manager.approvals(job_id=JOB):
                digest = asked.subject_digest
                self.other.decide(
                    asked.approval_id, "approve", subject_digest=digest, actor="ann"
                )
            if self._program is signal:
                self.other.signal(block.execution_id, "paid", {"n": 2})
        return f"ends as {block.status}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "every", [499, pytest.param(7, marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_block_that_is_interrupted_anywhere_leaves_no_lease(
    tmp_path: Path, name: str, every: int, tally: Tally
) -> None:
    problems: dict[str, object] = {}
    scene = StepScene(tmp_path / "0", PROGRAMS[name])
    scene.prepare()
    scene.run()
    for tried in count():
        if tried % LAP == LAP - 1:  # a store gets slower with the years
            assert scene.close() is None
            scene = StepScene(tmp_path / f"{tried}", PROGRAMS[name])
        scene.prepare()
        injector = Injector(1 + tried * every)
        injector.run(scene.run)
        if not injector.place:
            break
        if (wrong := scene.wrong()) is not None:
            problems[f"{injector.place} {injector.kind.__name__}"] = wrong
            break
    assert problems == {}
    assert scene.close() is None
    assert tried * every > 1000
    tally("interruptions", tried)
