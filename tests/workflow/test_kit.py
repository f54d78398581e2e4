"""`milepost.testing`: crashes, and clocks that are turned by hand."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal.errors import InvalidArgument
from milepost.testing import Crashed, FakeClock, MemoryStorage, crash_after
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost import Run


def process(storage: MemoryStorage, **how: Any) -> CheckpointManager:
    return CheckpointManager(storage=storage, actor="me", **how)


def steps_of(storage: MemoryStorage) -> list[str]:
    with process(storage) as manager:
        found = manager.history(JOB, types=["step.completed"])
        return [event["data"]["key"] for event in found]  # type: ignore[typeddict-item]


def three_steps(ran: list[str]) -> Callable[[Run], None]:
    def program(run: Run) -> None:
        for name in "abc":
            with suppress(Exception):  # no program of this kind survives a crash
                run.step(name, ran.append, name)

    return program


def go(manager: CheckpointManager, program: Callable[[Run], None]) -> str:
    block = manager.execution("w", job_id=JOB)
    with block as run:
        program(run)
    return block.status


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_crash_comes_right_after_an_event_and_nothing_follows(count: int) -> None:
    storage, ran = MemoryStorage(), list[str]()
    manager = process(storage)
    with crash_after("step.completed", count) as crash:
        go(manager, three_steps(ran))
    assert crash.has_happened
    assert steps_of(storage) == ran == [*"abc"[:count]]
    with pytest.raises(Crashed):
        manager.save(JOB, "s", {})
    with process(storage) as other:
        assert other.list_executions()[0]["status"] == "interrupted"
        assert go(other, three_steps(ran)) == "completed"
    assert steps_of(storage) == ran == [*"abc"]


def test_a_crash_ends_the_threads_of_a_map() -> None:
    storage = MemoryStorage()

    def program(run: Run) -> None:
        run.map("m", lambda item: item, range(6), workers=3)

    with crash_after("step.completed", 2):
        go(process(storage), program)
    assert len(steps_of(storage)) in range(2, 5)  # others were on their way
    with process(storage) as other:
        assert go(other, program) == "completed"
    assert len({*steps_of(storage)}) == 6


def test_a_crash_may_come_after_a_save_too() -> None:
    storage = MemoryStorage()
    with crash_after("checkpoint.saved", 2):
        manager = process(storage)
        for number in range(5):
            manager.save(JOB, "s", {"n": number})
    with process(storage) as other:
        assert other.load(JOB) == {"n": 1}


def test_a_crash_that_does_not_come_is_an_error_of_the_test() -> None:
    fewer = "wrote 3 of 4 events 'step.completed'"
    with pytest.raises(AssertionError, match=fewer), crash_after("step.completed", 4):
        go(process(MemoryStorage()), three_steps([]))


def test_an_error_of_the_block_passes_and_ends_the_watch() -> None:
    storage = MemoryStorage()
    with pytest.raises(ZeroDivisionError), crash_after("checkpoint.saved"):
        raise ZeroDivisionError
    process(storage).save(JOB, "s", {})
    with pytest.raises(InvalidArgument, match="count must be at least 1"):
        crash_after("checkpoint.saved", 0).__enter__()


def test_short_waits_turn_the_clock_and_take_no_time() -> None:
    clock = FakeClock()
    before = clock()
    with process(MemoryStorage(), clock=clock) as manager:
        assert go(manager, lambda run: run.sleep("nap", 29)) == "completed"
        assert (clock() - before).total_seconds() == 29
        assert go(manager, lambda run: run.sleep("night", hours=8)) == "waiting"
        clock.turn(hours=8)
        assert go(manager, lambda run: run.sleep("night", hours=8)) == "completed"
    with pytest.raises(InvalidArgument, match="time zone"):
        FakeClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the case


def test_the_kit_needs_no_test_framework() -> None:
    code = "import sys, milepost.testing; sys.exit('pytest' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
