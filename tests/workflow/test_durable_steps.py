"""Durable steps: a finished step never runs twice, whatever ends the process."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, errors
from milepost.journal.errors import (
    Expired,
    Rejected,
    StepFailed,
    StepsChanged,
    StepUncertain,
)
from milepost.journal.workflow.retries import Fatal, Retry, RetryAfter, Suspended
from milepost.journal.workflow.run import Run
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.clock import Clock


class Killed(BaseException):
    """What ends a process, as far as the program can see."""


class Lab:
    """A store, and what the steps of a program did."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root = root
        self.clock = clock
        self.ran: list[str] = []

    def run(self, program: Callable[[Run], object], **how: Any) -> str:
        """Run a program in a process of its own; return the status it ended with."""
        with CheckpointManager(self.root, actor="me", clock=self.clock) as manager:
            block = manager.execution("work", job_id=JOB, **how)
            with block as run:
                program(run)
            return block.status

    def did(self, name: str, result: Any = None) -> Any:
        self.ran.append(name)
        return result

    def types(self) -> list[str]:
        with CheckpointManager(self.root) as manager:
            return [event["type"] for event in manager.history(JOB)]

    def status(self) -> dict[str, Any]:
        with CheckpointManager(self.root) as manager:
            return manager.list_executions()[-1]


@pytest.fixture
def lab(tmp_path: Path, clock: Clock) -> Lab:
    return Lab(tmp_path, clock)


def test_a_finished_step_never_runs_again(lab: Lab) -> None:
    def program(run: Run) -> None:
        rows = run.step("download", lab.did, "download", {"rows", "cells"})

        @run.step("clean")
        def clean() -> list[str]:
            return lab.did("clean", sorted(rows))

        assert clean == ["cells", "rows"]
        if "killed" not in lab.ran:
            lab.did("killed")
            raise Killed
        run.step("publish", lab.did, "publish")

    with pytest.raises(Killed):
        lab.run(program)
    assert lab.status()["status"] == "interrupted"
    assert lab.run(program) == "completed"
    assert lab.ran == ["download", "clean", "killed", "publish"]


def test_a_step_costs_one_event(lab: Lab) -> None:
    lab.run(lambda run: [run.step("s", int) for _ in range(3)])
    assert lab.types().count("step.completed") == 3
    assert "step.started" not in lab.types()


def test_steps_of_one_name_are_numbered(lab: Lab) -> None:
    def program(run: Run) -> list[Any]:
        found = [run.step("s", lab.did, f"s{n}", n) for n in range(3)]
        if len(lab.ran) == 3:
            raise Killed
        return found

    with pytest.raises(Killed):
        lab.run(program)
    lab.ran.append("again")
    results: list[Any] = []
    lab.run(lambda run: results.extend(program(run)))
    assert (results, lab.ran) == ([0, 1, 2], ["s0", "s1", "s2", "again"])


def test_steps_inside_a_step_have_numbers_of_their_own(lab: Lab) -> None:
    found: list[Any] = []

    def program(run: Run) -> None:
        outer = run.step("outer", lambda: run.step("s", lab.did, "inner", 1) + 10)
        if not lab.ran.count("killed"):
            lab.did("killed")
            raise Killed
        found.extend([outer, run.step("s", lab.did, "s", 2)])

    with pytest.raises(Killed):
        lab.run(program)
    assert lab.run(program) == "completed"
    assert (found, lab.ran) == ([11, 2], ["inner", "killed", "s"])
    with CheckpointManager(lab.root) as manager:
        (end,) = manager.history(JOB, types=["execution.completed"])
    assert "unused_steps" not in end["data"]


def test_a_step_that_ends_while_its_execution_is_paused_keeps_its_result(
    lab: Lab,
) -> None:
    def program(run: Run) -> None:
        def paused() -> None:
            lab.did("first")
            with CheckpointManager(lab.root) as manager:
                manager.pause_execution(run.execution_id)

        run.step("first", paused)
        run.step("second", lab.did, "second")

    assert lab.run(program) == "waiting"
    with CheckpointManager(lab.root) as manager:
        manager.resume_execution(f"exec_{JOB}")
    assert lab.run(program) == "completed"
    assert lab.ran == ["first", "second"]


def test_a_result_that_cannot_be_stored_fails_the_execution(lab: Lab) -> None:
    with pytest.raises(errors.InvalidState):
        lab.run(lambda run: setattr(run, "result", object()))
    assert lab.status()["status"] == "failed"


def test_an_error_fails_the_execution_with_its_text(lab: Lab) -> None:
    def program(run: Run) -> None:
        run.step("divide", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        lab.run(program)
    found = lab.status()
    assert (found["status"], found["error"]) == (
        "failed",
        "ZeroDivisionError: division by zero",
    )


def test_a_step_is_tried_again_as_its_retry_says(lab: Lab) -> None:
    def flaky() -> int:
        lab.did("try")
        if len(lab.ran) < 3:
            raise OSError("busy")
        return len(lab.ran)

    found: list[int] = []
    retry = Retry(5, delay=0.001, on=(OSError,))
    lab.run(lambda run: found.append(run.step("s", flaky, retry=retry)))
    assert (found, lab.types().count("step.failed")) == ([3], 2)


@pytest.mark.parametrize(
    ("error", "retry", "tries", "raised"),
    [
        (OSError("x"), Retry(3, delay=0.001), 3, StepFailed),
        (OSError("x"), Retry(3, delay=0.001, on=(KeyError,)), 1, OSError),
        (OSError("x"), Retry(3, delay=0.001, when=lambda _: False), 1, OSError),
        (Fatal("x"), Retry(3, delay=0.001), 1, Fatal),
        (RetryAfter(0.001), Retry(2), 2, StepFailed),
        (OSError("x"), Retry(1), 1, OSError),
    ],
)
def test_a_step_fails_when_its_tries_are_used_up(
    lab: Lab, error: Exception, retry: Retry, tries: int, raised: type[Exception]
) -> None:
    def fails() -> None:
        lab.did("try")
        raise error

    with pytest.raises(raised):
        lab.run(lambda run: run.step("s", fails, retry=retry))
    assert len(lab.ran) == tries


def test_a_long_pause_between_tries_needs_no_process(lab: Lab, clock: Clock) -> None:
    def program(run: Run) -> None:
        def limited() -> str:
            lab.did("try")
            if len(lab.ran) == 1:
                raise RetryAfter(3600)
            return "ok"

        run.step("s", limited, retry=Retry(3))

    assert lab.run(program) == "waiting"
    assert lab.run(program) == "waiting"
    clock.turn(hours=1)
    with CheckpointManager(lab.root, clock=clock) as manager:
        (found,) = manager.workflows.unfinished(JOB)
        assert manager.workflows.wake(found.execution_id, actor="worker")
    assert lab.run(program) == "completed"
    assert lab.ran == ["try", "try"]


def test_a_step_that_may_have_run_is_not_run_twice(lab: Lab) -> None:
    def program(run: Run) -> None:
        def charge() -> None:
            lab.did("charge")
            raise Killed

        run.step("charge", charge, once=True)

    with pytest.raises(Killed):
        lab.run(program)
    with pytest.raises(StepUncertain, match="may have run in attempt 1"):
        lab.run(program)
    assert lab.ran == ["charge"]


def test_a_step_that_may_have_run_is_reconciled(lab: Lab) -> None:
    found: list[Any] = []

    def program(run: Run) -> None:
        def charge() -> None:
            lab.did("charge")
            raise Killed

        found.append(run.step("charge", charge, once=True, reconcile=lambda: "paid"))

    with pytest.raises(Killed):
        lab.run(program)
    lab.run(program)
    assert (lab.ran, found) == (["charge"], ["paid"])


def test_a_key_for_other_systems_is_the_same_in_every_attempt(lab: Lab) -> None:
    keys: list[str] = []

    def program(run: Run) -> None:
        for _ in range(2):
            keys.append(run.key("pay"))
            run.step("pay", lab.did, "pay")
        if len(keys) == 2:
            raise Killed

    with pytest.raises(Killed):
        lab.run(program)
    lab.run(program)
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]


def test_a_map_runs_each_item_once_and_keeps_the_order(lab: Lab) -> None:
    found: list[Any] = []

    def program(run: Run) -> None:
        def embed(item: int) -> int:
            lab.did(f"item {item}")
            if item == 4 and lab.ran.count("item 4") == 1:
                raise Killed
            return item * item

        outcomes = run.map("embed", embed, range(6), key=lambda item: f"r{item}")
        found.extend(outcome.value for outcome in outcomes)

    with pytest.raises(Killed):
        lab.run(program)
    lab.run(program)
    assert found == [0, 1, 4, 9, 16, 25]
    assert sorted(lab.ran) == sorted([*(f"item {n}" for n in range(6)), "item 4"])


def test_a_map_tolerates_so_many_failures(lab: Lab) -> None:
    def program(run: Run) -> None:
        def odd(item: int) -> int:
            if item % 2:
                raise ValueError(f"odd {item}")
            return item

        found = run.map("odd", odd, range(4), workers=3, tolerate=2)
        assert [outcome.is_ok for outcome in found] == [True, False, True, False]
        with pytest.raises(StepFailed, match="2 of 4 items of 'odd' failed"):
            run.map("odd", odd, range(4), tolerate=1)
        with pytest.raises(errors.InvalidArgument, match="have the key 'x'"):
            run.map("same", odd, [1, 2], key=lambda _: "x")

    assert lab.run(program) == "completed"


def test_an_approval_is_awaited_without_a_process(lab: Lab) -> None:
    seen: list[str] = []

    def program(run: Run) -> None:
        run.step("build", lab.did, "build")
        seen.append(run.approval("publish", {"rows": 3}).status)
        run.step("publish", lab.did, "publish")

    assert lab.run(program) == "waiting"
    assert lab.run(program) == "waiting"
    with CheckpointManager(lab.root, actor="ops") as manager:
        (asked,) = manager.approvals()
        assert (asked.step_name, asked.checkpoint_id) == ("publish", None)
        digest = asked.subject_digest
        manager.decide(asked.approval_id, "approve", subject_digest=digest)
    assert lab.run(program) == "completed"
    assert (seen, lab.ran) == (["approved"], ["build", "publish"])


@pytest.mark.parametrize("decision", ["reject", "expire"])
def test_an_approval_that_is_not_given_is_an_error_of_the_program(
    lab: Lab, clock: Clock, decision: str
) -> None:
    def program(run: Run) -> None:
        try:
            run.approval("publish", {}, deadline=timedelta(hours=1))
        except (Rejected, Expired) as exc:
            run.step("note", lab.did, type(exc).__name__)

    assert lab.run(program) == "waiting"
    with CheckpointManager(lab.root, actor="ops", clock=clock) as manager:
        (asked,) = manager.approvals()
        if decision == "reject":
            digest = asked.subject_digest
            manager.decide(asked.approval_id, "reject", subject_digest=digest)
        else:
            clock.turn(hours=1)
            manager.workflows.expire_approval(asked.approval_id, actor="worker")
    assert lab.run(program) == "completed"
    assert lab.ran == ["Rejected" if decision == "reject" else "Expired"]


def test_a_sleep_is_as_long_as_it_was_at_first(lab: Lab, clock: Clock) -> None:
    def program(run: Run) -> None:
        run.sleep("cool", hours=2)
        run.step("after", lab.did, "after")

    assert lab.run(program) == "waiting"
    clock.turn(hours=1)
    with CheckpointManager(lab.root, clock=clock) as manager:
        (found,) = manager.workflows.unfinished(JOB)
        assert not manager.workflows.wake(found.execution_id, actor="worker")
        clock.turn(hours=1)
        assert manager.workflows.wake(found.execution_id, actor="worker")
    assert lab.run(program) == "completed"
    assert lab.ran == ["after"]


def test_an_early_signal_is_kept_and_consumed_once(lab: Lab) -> None:
    got: list[Any] = []

    def program(run: Run) -> None:
        got.append(run.signal("paid"))
        if len(got) == 1:
            raise Killed
        got.append(run.signal("paid"))

    with CheckpointManager(lab.root) as manager:
        started = manager.start_workflow_execution(JOB, "work", pending=True)
        manager.signal(started.execution_id, "paid", {"n": 1})
    with pytest.raises(Killed):
        lab.run(program)
    assert lab.run(program) == "waiting"
    with CheckpointManager(lab.root) as manager:
        manager.signal(f"exec_{JOB}", "other", {})
        assert lab.status()["status"] == "waiting"
        manager.signal(f"exec_{JOB}", "paid", {"n": 2})
        assert lab.status()["status"] == "pending"
    assert lab.run(program) == "completed"
    assert got == [{"n": 1}, {"n": 1}, {"n": 1}, {"n": 2}]


def test_a_signal_that_does_not_come_in_time_is_its_default(
    lab: Lab, clock: Clock
) -> None:
    got: list[Any] = []

    def program(run: Run) -> None:
        got.append(run.signal("paid", timeout=timedelta(hours=1), default="late"))

    assert lab.run(program) == "waiting"
    clock.turn(hours=1)
    with CheckpointManager(lab.root, clock=clock) as manager:
        (found,) = manager.workflows.unfinished(JOB)
        assert manager.workflows.wake(found.execution_id, actor="worker")
    assert lab.run(program) == "completed"
    assert got == ["late"]


def test_a_pause_ends_the_block_at_its_next_step(lab: Lab) -> None:
    def program(run: Run) -> None:
        run.step("first", lab.did, "first")
        if "paused" not in lab.ran:
            lab.did("paused")
            with CheckpointManager(lab.root) as manager:
                manager.pause_execution(run.execution_id)
        run.step("second", lab.did, "second")

    assert lab.run(program) == "waiting"
    with CheckpointManager(lab.root) as manager:
        manager.resume_execution(f"exec_{JOB}")
    assert lab.run(program) == "completed"
    assert lab.ran == ["first", "paused", "second"]


def test_a_cancelled_execution_ends_the_block(lab: Lab) -> None:
    def program(run: Run) -> None:
        run.step("first", lab.did, "first")
        with CheckpointManager(lab.root) as manager:
            manager.cancel_execution(run.execution_id)
        run.step("second", lab.did, "second")

    with pytest.raises(errors.ExecutionFinal):
        lab.run(program)
    assert lab.status()["status"] == "cancelled"


def test_steps_that_the_program_does_not_ask_for_are_listed(lab: Lab) -> None:
    def old(run: Run) -> None:
        run.step("a", int)
        run.step("b", int)
        raise Killed

    with pytest.raises(Killed):
        lab.run(old)
    lab.run(lambda run: run.step("b", int))
    with CheckpointManager(lab.root) as manager:
        (event,) = manager.history(JOB, types=["execution.completed"])
    assert event["data"]["unused_steps"] == ["a"]


def test_a_strict_order_refuses_other_steps(lab: Lab) -> None:
    def old(run: Run) -> None:
        run.step("a", int)
        raise Killed

    with pytest.raises(Killed):
        lab.run(old)
    with pytest.raises(
        StepsChanged, match="'a' was recorded, and the program asks for 'b'"
    ):
        lab.run(lambda run: run.step("b", int), strict_order=True)


def test_suspension_is_no_exception_of_the_program() -> None:
    assert not issubclass(Suspended, Exception)


def test_a_second_process_is_refused(lab: Lab) -> None:
    def program(run: Run) -> None:
        with pytest.raises(errors.LeaseLive):
            _elsewhere(lab.root)
        run.step("s", int)

    assert lab.run(program) == "completed"


def _elsewhere(root: Path) -> None:
    import os

    child = os.fork()
    if child == 0:
        try:
            CheckpointManager(root).execution("work", job_id=JOB)
        except errors.LeaseLive:
            os._exit(7)
        except BaseException:  # noqa: BLE001 - a forked child must not go on
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7:
        raise errors.LeaseLive("exec", "child", None)
