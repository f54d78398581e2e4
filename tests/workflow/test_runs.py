"""Workflows as functions, their asynchronous twin, children, and waits in a process."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost import (
    AsyncRun,
    CheckpointManager,
    NotRun,
    Outcome,
    Retry,
    Run,
    Suspended,
    WorkflowFunction,
    errors,
)
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.clock import Clock


class Killed(BaseException):
    """What ends a process, as far as the program can see."""


@pytest.fixture
def manager(tmp_path: Path, clock: Clock) -> Iterator[CheckpointManager]:
    with CheckpointManager(tmp_path, actor="me", clock=clock) as opened:
        yield opened


def next_process(manager: CheckpointManager) -> CheckpointManager:
    """Return a manager of the same store, after the first one's process has ended."""
    manager.close()
    clock = manager._clock
    return CheckpointManager(manager.root, actor="me", clock=clock)


def killed_after(manager: CheckpointManager, program: Callable[[Run], Any]) -> Any:
    """Run a program whose process is killed at its end; return what it returned."""
    block = manager.execution("work", job_id=JOB)
    found = program(block)
    with pytest.raises(Killed), block:
        raise Killed
    return found


# -- functions -------------------------------------------------------------------------


def test_a_function_runs_with_its_input_and_returns_its_result(
    manager: CheckpointManager,
) -> None:
    @manager.workflow("ingest", version="3")
    def ingest(run: Run, url: str, limit: int = 2) -> list[str]:
        """Read a page."""
        return run.step("download", lambda: [url] * limit)

    outcome = manager.run(ingest, job_id=JOB, url="a")
    assert outcome == Outcome(outcome.execution_id, "completed", ["a", "a"])
    assert manager.execution_outcome(outcome.execution_id) == outcome
    (status,) = manager.list_executions()
    assert (status["workflow_name"], status["workflow_version"]) == ("ingest", "3")
    assert (ingest.__doc__, repr(ingest)) == ("Read a page.", "<workflow 'ingest'>")


def test_a_function_goes_on_with_the_input_of_its_first_start(
    manager: CheckpointManager,
) -> None:
    seen: list[Any] = []

    @manager.workflow("work")
    def work(run: Run, n: int) -> int:
        seen.append(n)
        done = run.step("double", lambda: 2 * n)
        if len(seen) == 1:
            raise Killed
        return done

    with pytest.raises(Killed):
        manager.run(work, job_id=JOB, n=4)
    assert manager.execution_outcome(f"exec_{JOB}").status == "interrupted"
    assert manager.run(work, job_id=JOB, n=5).result == 8
    assert manager.run(work, job_id=JOB, n=5).result == 10  # another execution
    assert seen == [4, 4, 5]


def test_a_function_that_waits_is_not_run_until_it_can_go_on(
    manager: CheckpointManager, clock: Clock
) -> None:
    starts: list[int] = []

    @manager.workflow("work")
    def work(run: Run) -> str:
        starts.append(1)
        run.sleep("cool-down", hours=1)
        return "cool"

    first = manager.run(work, job_id=JOB)
    assert (first.status, first.waiting_on) == ("waiting", "cool-down")
    assert manager.run(work, job_id=JOB) == first
    clock.turn(hours=1)
    assert manager.run(work, job_id=JOB).result == "cool"  # without a worker
    assert len(starts) == 2


def test_the_error_of_a_function_fails_its_execution_and_passes_on(
    manager: CheckpointManager,
) -> None:
    @manager.workflow("work")
    def work(run: Run) -> None:
        run.step("divide", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        manager.run(work, job_id=JOB)
    (status,) = manager.list_executions()
    outcome = manager.execution_outcome(status["execution_id"])
    assert outcome.error == "ZeroDivisionError: division by zero"
    assert manager.resume_execution(outcome.execution_id, retry=True)
    with pytest.raises(ZeroDivisionError):
        manager.run(work, job_id=JOB)
    assert len(manager.list_executions()) == 1


def test_of_threads_that_start_one_workflow_at_once_one_runs_it(
    manager: CheckpointManager,
) -> None:
    barrier, found = threading.Barrier(4), []

    @manager.workflow("work")
    def work(run: Run) -> None:
        run.step("s", lambda: found.append("ran"))
        barrier.wait()  # until all others were refused

    def start() -> None:
        barrier.wait()
        try:
            manager.run(work, job_id=JOB)
        except errors.LeaseLive:
            found.append("refused")
            barrier.wait()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["ran", "refused", "refused", "refused"]
    assert len(manager.list_executions()) == 1


def test_a_result_that_cannot_be_stored_is_an_error_with_its_place(
    manager: CheckpointManager,
) -> None:
    @manager.workflow("work")
    def work(run: Run) -> None:
        run.step("open", lambda: {"file": [object()]})

    with pytest.raises(errors.InvalidState, match=r"file\[0\]"):
        manager.run(work, job_id=JOB)


# -- steps -----------------------------------------------------------------------------


def test_used_up_tries_pause_until_a_person_resumes(
    manager: CheckpointManager,
) -> None:
    tries: list[int] = []

    @manager.workflow("work", on_exhausted="pause")
    def work(run: Run) -> str:
        def flaky() -> str:
            tries.append(1)
            if len(tries) < 4:
                raise OSError("no route")
            return "there"

        return run.step("fetch", flaky, retry=Retry(2, delay=0.0))

    outcome = manager.run(work, job_id=JOB)
    assert (outcome.status, outcome.waiting_on) == ("waiting", "paused")
    reason = manager.list_executions()[0]["reason"]
    assert reason == "step 'fetch' failed 2 times: OSError: no route"
    assert manager.run(work, job_id=JOB).status == "waiting"
    assert manager.resume_execution(f"exec_{JOB}")
    assert manager.run(work, job_id=JOB).result == "there"  # two more tries
    assert len(tries) == 4


def test_a_step_that_reconcile_says_did_not_run_is_run(
    manager: CheckpointManager,
) -> None:
    ran: list[str] = []

    def look() -> None:
        ran.append("look")
        raise NotRun

    def charge() -> str:
        ran.append("charge")
        if len(ran) == 1:
            raise Killed
        return "paid"

    @manager.workflow("work")
    def work(run: Run) -> str:
        return run.step("charge", charge, once=True, reconcile=look)

    with pytest.raises(Killed):
        manager.run(work, job_id=JOB)
    assert manager.run(work, job_id=JOB).result == "paid"
    assert ran == ["charge", "look", "charge"]


def test_a_step_that_failed_may_have_had_its_effect(
    manager: CheckpointManager,
) -> None:
    @manager.workflow("work")
    def work(run: Run) -> None:
        def charge() -> None:
            raise TimeoutError("no answer")

        run.step("charge", charge, once=True)

    with pytest.raises(TimeoutError):
        manager.run(work, job_id=JOB)
    manager.resume_execution(manager.list_executions()[0]["execution_id"], retry=True)
    with pytest.raises(errors.StepUncertain, match="may have run in attempt 1"):
        manager.run(work, job_id=JOB)


def test_tries_that_are_wanted_may_run_again(manager: CheckpointManager) -> None:
    tries: list[int] = []

    @manager.workflow("work")
    def work(run: Run) -> int:
        def charge() -> int:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionRefusedError
            return len(tries)

        return run.step("charge", charge, once=True, retry=Retry(3, delay=0.0))

    assert manager.run(work, job_id=JOB).result == 3


@pytest.mark.parametrize(
    "name", ["a#2", "a[1]", "a>b", "a%23", "ä b", "paused", "x" * 512]
)
def test_odd_names_are_steps_of_their_own(
    manager: CheckpointManager, name: str
) -> None:
    def program(run: Run) -> list[Any]:
        found = [run.step("a", lambda: 1), run.step("a", lambda: 2)]
        found += [item.value for item in run.map("a", lambda n: 10 * n, range(2))]
        with run.scope("a"):
            found.append(run.step("b", lambda: 5))
        found.append(run.step(name, lambda: 6))
        return found

    first = killed_after(manager, program)
    with manager.execution("work", job_id=JOB) as run:
        assert program(run) == first == [1, 2, 0, 10, 5, 6]


@pytest.mark.parametrize("name", ["", "x" * 513])
def test_a_name_out_of_bounds_is_refused(manager: CheckpointManager, name: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="name of a step"):  # noqa: SIM117 - the block must end first
        with manager.execution("work", job_id=JOB) as run:
            run.step(name, int)


def test_steps_of_threads_are_numbered_in_scopes(manager: CheckpointManager) -> None:
    def program(run: Run) -> list[Any]:
        def one(item: str) -> list[str]:
            return [run.step("part", str.format, item + "{}", n) for n in range(2)]

        return [item.value for item in run.map("all", one, "abc", workers=3)]

    first = killed_after(manager, program)
    assert first == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    events = manager.history(JOB, types=["step.completed"])
    keys = {event["data"]["key"] for event in events}
    assert {"all[0]>part", "all[0]>part#2", "all[2]>part", "all[1]"} <= keys
    with manager.execution("work", job_id=JOB) as run:
        assert program(run) == first


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_name_that_was_something_else_is_refused(
    manager: CheckpointManager, is_strict: bool
) -> None:
    killed_after(manager, lambda run: (run.sleep("x", 0.0), run.step("y", int)))
    with (
        pytest.raises(errors.StepsChanged, match="'x' was recorded as a sleep"),
        manager.execution("work", job_id=JOB, strict_order=is_strict) as run,
    ):
        run.step("x", int)


def test_a_checkpoint_is_saved_by_the_attempt_and_by_no_stale_one(
    manager: CheckpointManager,
) -> None:
    with manager.execution("work", job_id=JOB) as run:
        made = run.save("rows", {"rows": 3}, tags=["daily"])
        assert manager.get(JOB, made).state == {"rows": 3}
    with pytest.raises(errors.ExecutionFinal):
        run.save("late", {})
    assert [info.step_name for info in manager.list(JOB)] == ["rows"]


def test_check_ends_a_loop_whose_execution_was_paused(
    manager: CheckpointManager,
) -> None:
    with manager.execution("work", job_id=JOB) as run:
        manager.pause_execution(run.execution_id)
        run.check()
        pytest.fail("not reached")
    assert run.status == "waiting"


def test_a_wait_can_be_paused_and_goes_on_afterwards(
    manager: CheckpointManager, clock: Clock
) -> None:
    @manager.workflow("work")
    def work(run: Run) -> None:
        run.sleep("cool-down", hours=1)

    manager.run(work, job_id=JOB)
    assert manager.pause_execution(f"exec_{JOB}", reason="holiday")
    clock.turn(hours=2)
    assert manager.run(work, job_id=JOB).waiting_on == "paused"
    assert manager.resume_execution(f"exec_{JOB}")
    assert manager.run(work, job_id=JOB).status == "completed"


def test_the_steps_of_an_execution_are_listed(manager: CheckpointManager) -> None:
    def program(run: Run) -> None:
        def flaky() -> int:
            raise OSError("busy")

        run.step("load", int)
        run.sleep("nap", 0.0)
        run.signal("paid")
        run.step("once", lambda: 1, once=True)
        run.step("flaky", flaky, retry=Retry(2, delay=0.0))

    manager.start_workflow_execution(JOB, "work", pending=True)
    manager.signal(f"exec_{JOB}", "paid", {})
    with pytest.raises(errors.StepFailed), manager.execution("work", job_id=JOB) as run:
        program(run)
    found = manager.execution_steps(run.execution_id)
    assert [(step.key, step.status, step.kind, step.tries) for step in found] == [
        ("load", "completed", "step", 0),
        ("nap", "completed", "sleep", 0),
        ("paid", "completed", "signal", 0),
        ("once", "completed", "step", 0),
        ("flaky", "failed", "step", 2),
    ]
    assert (found[-1].error, found[-1].attempt) == ("OSError: busy", 1)
    status = manager.get_execution_status(run.execution_id)
    assert status is not None
    names = ("total_checkpoints", "completed_checkpoints", "failed_checkpoints")
    assert [status[name] for name in names] == [5, 4, 1]
    assert found[0].seq < found[-1].seq


# -- forks -----------------------------------------------------------------------------


def test_a_fork_goes_on_at_a_step_with_changed_results(
    manager: CheckpointManager,
) -> None:
    ran: list[str] = []

    @manager.workflow("agent", version="2")
    def agent(run: Run, task: str) -> list[Any]:
        def think(n: int) -> str:
            ran.append(f"{task} {n}")
            return f"thought {n}"

        found = [run.step("think", think, n) for n in range(3)]
        return [task, *found]

    first = manager.run(agent, job_id=JOB, task="plan")
    forked = manager.fork_execution(
        first.execution_id, "other", before="think#3", changes={"think": "edited"}
    )
    again = manager.run(agent, job_id="other")
    assert again.execution_id == forked
    assert again.result == ["plan", "edited", "thought 1", "thought 2"]
    assert ran == ["plan 0", "plan 1", "plan 2", "plan 2"]
    (status,) = manager.list_executions(job_id="other")
    assert (status["workflow_version"], status["branched_from"]) == (
        "2",
        {"job_id": JOB, "execution_id": first.execution_id, "before": "think#3"},
    )
    assert manager.execution_outcome(first.execution_id) == first
    whole = manager.fork_execution(first.execution_id, "whole", input={"task": "x"})
    assert manager.run(agent, job_id="whole") == first._replace(
        execution_id=whole, result=["x", "thought 0", "thought 1", "thought 2"]
    )


def test_a_fork_asks_for_decisions_again_and_keeps_signals(
    manager: CheckpointManager,
) -> None:
    @manager.workflow("work")
    def work(run: Run) -> Any:
        paid = run.signal("paid")
        run.approval("publish", paid)
        return paid

    manager.run(work, job_id=JOB)
    manager.signal(f"exec_{JOB}", "paid", {"n": 1})
    waiting = manager.run(work, job_id=JOB)
    changed = {"paid": {"n": 2}}
    manager.fork_execution(waiting.execution_id, "other", changes=changed)
    assert manager.run(work, job_id="other").status == "waiting"
    (asked,) = manager.approvals(job_id="other")
    assert manager.get_approval(asked.approval_id).subject == {"n": 2}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"before": "c"}, "no result of step 'c'; it has: a, b"),
        ({"before": "b", "changes": {"b": 1}}, "'b', which is no step that is kept"),
        ({"changes": {"x": object()}}, "'x', which is no step"),
        ({"changes": {"a": object()}}, "object"),
    ],
)
def test_a_fork_that_makes_no_sense_is_refused(
    manager: CheckpointManager, how: dict[str, Any], text: str
) -> None:
    with manager.execution("work", job_id=JOB) as run:
        run.step("a", int)
        run.step("b", int)
    with pytest.raises((errors.InvalidArgument, errors.InvalidState), match=text):
        manager.fork_execution(run.execution_id, "new", **how)
    assert "new" not in {job.job_id for job in manager.jobs()}


def test_a_fork_does_not_mix_with_an_unfinished_execution(
    manager: CheckpointManager,
) -> None:
    with manager.execution("work", job_id=JOB) as run:
        run.signal("paid")
    with pytest.raises(errors.Conflict, match="fork it to another job"):
        manager.fork_execution(run.execution_id, JOB)


# -- waits in the process --------------------------------------------------------------


def test_a_decision_in_time_needs_no_second_process(
    manager: CheckpointManager,
) -> None:
    def decide() -> None:
        with CheckpointManager(manager.root, actor="ops") as other:
            while not (asked := other.approvals()):
                pass
            digest = asked[0].subject_digest
            other.decide(asked[0].approval_id, "approve", subject_digest=digest)

    thread = threading.Thread(target=decide)
    thread.start()
    with manager.execution("work", job_id=JOB) as run:
        found = run.approval("publish", {"rows": 3}, wait_up_to=60)
        run.step("publish", int)
    thread.join()
    assert (found.status, run.status, run.attempt) == ("approved", "completed", 2)


def test_a_wait_in_the_process_ends_in_time(manager: CheckpointManager) -> None:
    with manager.execution("work", job_id=JOB) as run:
        run.signal("paid", wait_up_to=0.1)
        pytest.fail("not reached")
    assert (run.status, run.attempt) == ("waiting", 1)


def test_who_decides_is_told_once_before_the_wait(manager: CheckpointManager) -> None:
    told: list[str] = []
    for _ in range(2):
        with manager.execution("work", job_id=JOB) as run:
            run.approval("publish", {}, notify=lambda: told.append("mail"))
    assert told == ["mail"]


# -- children --------------------------------------------------------------------------


def test_a_child_runs_once_in_a_job_of_its_own(manager: CheckpointManager) -> None:
    ran: list[str] = []

    @manager.workflow("publish")
    def publish(run: Run, region: str) -> str:
        return run.step("push", lambda: ran.append(region) or f"at {region}")

    @manager.workflow("work")
    def work(run: Run) -> str:
        found = run.child("eu", publish, job_id=f"{run.job_id}/eu", region="eu")
        if len(ran) == 1:
            ran.append("killed")
            raise Killed
        return found

    with pytest.raises(Killed):
        manager.run(work, job_id=JOB)
    assert manager.run(work, job_id=JOB).result == "at eu"
    assert ran == ["eu", "killed"]
    (child,) = manager.list_executions("completed", job_id=f"{JOB}/eu")
    assert child["workflow_name"] == "publish"


def waiting_pair(
    manager: CheckpointManager, **how: Any
) -> tuple[WorkflowFunction, WorkflowFunction]:
    """Return a workflow, and one in job ``pay`` that it waits for: it waits too."""

    @manager.workflow("child")
    def child(run: Run) -> Any:
        return run.signal("paid")

    @manager.workflow("work")
    def work(run: Run) -> Any:
        return run.child("pay", child, job_id="pay", **how)

    return work, child


def test_a_parent_waits_for_a_child_that_waits(manager: CheckpointManager) -> None:
    work, child = waiting_pair(manager)
    assert manager.run(work, job_id=JOB).waiting_on == "pay"
    assert manager.run(work, job_id=JOB).status == "waiting"
    manager.signal("exec_pay", "paid", {"n": 1})
    assert manager.run(child, job_id="pay").result == {"n": 1}
    assert manager.execution_outcome(f"exec_{JOB}").status == "pending"  # woken
    assert manager.run(work, job_id=JOB).result == {"n": 1}


def test_a_parent_is_woken_though_its_child_could_not_tell_it(
    manager: CheckpointManager,
) -> None:
    work, _ = waiting_pair(manager)
    manager.run(work, job_id=JOB)
    manager.fail_execution("exec_pay", "card refused")
    with pytest.raises(errors.StepFailed, match="job 'pay' is failed: card refused"):
        manager.run(work, job_id=JOB)


@pytest.mark.parametrize(
    ("on_cancel", "status"), [("cancel", "cancelled"), ("abandon", "waiting")]
)
def test_a_child_is_cancelled_with_its_parent_if_so_wanted(
    manager: CheckpointManager, on_cancel: Any, status: str
) -> None:
    work, _ = waiting_pair(manager, on_cancel=on_cancel)
    manager.run(work, job_id=JOB)
    manager.cancel_execution(f"exec_{JOB}")
    assert [e["status"] for e in manager.list_executions(job_id="pay")] == [status]


def test_a_child_needs_another_job(manager: CheckpointManager) -> None:
    @manager.workflow("child")
    def child(run: Run) -> None: ...

    with (
        pytest.raises(errors.InvalidArgument, match="another job"),
        manager.execution("work", job_id=JOB) as run,
    ):
        run.child("c", child, job_id=JOB)


# -- asyncio ---------------------------------------------------------------------------


def test_steps_that_are_gathered_keep_their_numbers(
    manager: CheckpointManager,
) -> None:
    ran: list[int] = []

    async def program(run: AsyncRun, delays: list[float]) -> list[int]:
        async def one(n: int, delay: float) -> int:
            await asyncio.sleep(delay)
            ran.append(n)
            return n

        steps = [run.astep("s", one, n, delay) for n, delay in enumerate(delays)]
        return await asyncio.gather(*steps)

    async def first() -> None:
        async with manager.aexecution("work", job_id=JOB) as run:
            await program(run, [0.03, 0.02, 0.01])
            raise Killed

    async def second() -> list[int]:
        async with manager.aexecution("work", job_id=JOB) as run:
            return await program(run, [0.0, 0.0, 0.0])

    with pytest.raises(Killed):
        asyncio.run(first())
    assert asyncio.run(second()) == [0, 1, 2]
    assert len(ran) == 3


def test_an_asynchronous_workflow_does_what_its_twin_does(
    manager: CheckpointManager, clock: Clock
) -> None:
    async def double(n: int) -> int:
        return 2 * n

    @manager.workflow("child")
    async def child(run: AsyncRun, n: int) -> int:
        return await run.astep("s", double, n)

    @manager.workflow("work")
    async def work(run: AsyncRun) -> dict[str, Any]:
        items = await run.amap("m", double, range(3), key=lambda n: f"k{n}")
        found = {"map": [item.value for item in items]}
        found["plain"] = await run.astep("plain", lambda: 7)
        await run.asleep("nap", hours=1)
        limit = timedelta(hours=1)
        found["signal"] = await run.asignal("paid", timeout=limit, default="late")
        found["child"] = await run.achild("c", child, job_id="c", n=4)
        approval = await run.aapproval("publish", {"n": 1}, notify=lambda: None)
        return found | {"by": approval.decided_by}

    assert manager.run(work, job_id=JOB).waiting_on == "nap"
    clock.turn(hours=1)
    assert manager.run(work, job_id=JOB).waiting_on == "paid"
    clock.turn(hours=1)
    waiting = asyncio.run(manager.arun(work, job_id=JOB))
    (asked,) = manager.approvals()
    assert waiting.waiting_on == asked.approval_id
    digest = asked.subject_digest
    manager.decide(asked.approval_id, "approve", subject_digest=digest, actor="ops")
    outcome = manager.run(work, job_id=JOB)
    assert outcome.result == {
        "map": [0, 2, 4],
        "plain": 7,
        "signal": "late",
        "child": 8,
        "by": "ops",
    }


def test_a_step_that_may_be_stopped_ends_when_its_execution_is_cancelled(
    manager: CheckpointManager,
) -> None:
    ended: list[str] = []

    @manager.workflow("work")
    async def work(run: AsyncRun) -> None:
        async def long() -> None:
            manager.cancel_execution(run.execution_id)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("stopped")

        await run.astep("long", long, preemptible=True)

    with pytest.raises(errors.ExecutionFinal):
        manager.run(work, job_id=JOB)
    assert ended == ["stopped"]


def test_a_cancelled_task_interrupts_its_execution(manager: CheckpointManager) -> None:
    async def main() -> None:
        async with manager.aexecution("work", job_id=JOB) as run:
            await run.astep("s", asyncio.sleep, 0)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert manager.execution_outcome(f"exec_{JOB}").status == "interrupted"


def test_a_program_that_catches_its_own_errors_does_not_catch_a_wait(
    manager: CheckpointManager,
) -> None:
    assert not issubclass(Suspended, Exception)
    with manager.execution("work", job_id=JOB) as run:
        try:
            run.signal("paid")
        except Exception:  # noqa: BLE001 - what a program does
            pytest.fail("a wait is no error")
    assert run.status == "waiting"


def test_another_process_goes_on_where_this_one_waited(
    manager: CheckpointManager,
) -> None:
    with manager.execution("work", job_id=JOB) as run:
        run.step("s", lambda: {"n": 1})
        run.signal("paid")
    with next_process(manager) as second:
        second.signal(f"exec_{JOB}", "paid", {"ok": True})
        with second.execution("work", job_id=JOB) as run:
            run.result = [run.step("s", dict), run.signal("paid")]
        assert second.execution_outcome(run.execution_id).result == [
            {"n": 1},
            {"ok": True},
        ]
