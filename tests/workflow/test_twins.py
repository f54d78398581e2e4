"""`Run` and `AsyncRun` do the same: one program, the same keys and results."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import CheckpointManager, Retry
from milepost.journal.errors import Rejected, StepFailed
from milepost.testing import FakeClock, MemoryStorage
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from milepost import AsyncRun, Outcome, Run

KINDS = ("step", "same", "flaky", "failing", "once", "map", "scope", "child")
WAITS = ("nap", "sleep", "signal", "timeout", "approved", "rejected")
PROGRAMS = st.lists(st.sampled_from(KINDS + WAITS), max_size=6)
QUICK = Retry(2, delay=1, jitter=0)


class Flaky:
    """Functions whose first try fails, by name."""

    def __init__(self) -> None:
        self._tries: Counter[str] = Counter()

    def __call__(self, name: str) -> tuple[str]:
        self._tries[name] += 1
        if self._tries[name] == 1:
            raise OSError("busy")
        return (name,)


def fails() -> None:
    raise ValueError("no")


def plain(run: Run, kinds: list[str], flaky: Flaky, kid: Any) -> list[Any]:  # noqa: C901 - a table
    """Do what a program says."""

    def one(number: int, kind: str) -> Any:  # noqa: C901, PLR0911, PLR0912
        name = "same" if kind == "same" else f"{kind}{number}"
        match kind:
            case "step" | "same":
                return run.step(name, lambda: {number})
            case "once":
                return run.step(name, lambda: number, once=True)
            case "flaky":
                return run.step(name, flaky, name, retry=QUICK)
            case "failing":
                try:
                    return run.step(name, fails, retry=QUICK)
                except StepFailed:
                    return "failed"
            case "map":
                found = run.map(name, str, range(3), key=lambda item: f"#{item}")
                return [outcome.value for outcome in found]
            case "scope":
                with run.scope(name):
                    return run.step("same", lambda: number)
            case "child":
                return run.child(name, kid, job_id=f"{JOB}-{number}")
            case "nap":
                return run.sleep(name, 5)
            case "sleep":
                return run.sleep(name, hours=1)
            case "signal":
                return run.signal("signal")
            case "timeout":
                return run.signal(name, timeout=timedelta(hours=1), default="late")
        try:
            return run.approval(name, {"kind": kind}).status
        except Rejected:
            return "rejected"

    return [one(number, kind) for number, kind in enumerate(kinds)]


async def twin(run: AsyncRun, kinds: list[str], flaky: Flaky, kid: Any) -> list[Any]:  # noqa: C901
    """Do the same, asynchronously."""

    async def one(number: int, kind: str) -> Any:  # noqa: C901, PLR0911, PLR0912
        name = "same" if kind == "same" else f"{kind}{number}"
        match kind:
            case "step" | "same":
                return await run.astep(name, lambda: {number})
            case "once":
                return await run.astep(name, lambda: number, once=True)
            case "flaky":
                return await run.astep(name, flaky, name, retry=QUICK)
            case "failing":
                try:
                    return await run.astep(name, fails, retry=QUICK)
                except StepFailed:
                    return "failed"
            case "map":
                keyed = run.amap(
                    name, str, range(3), key=lambda item: f"#{item}", workers=1
                )
                return [outcome.value for outcome in await keyed]
            case "scope":
                with run.scope(name):
                    return await run.astep("same", lambda: number)
            case "child":
                return await run.achild(name, kid, job_id=f"{JOB}-{number}")
            case "nap":
                return await run.asleep(name, 5)
            case "sleep":
                return await run.asleep(name, hours=1)
            case "signal":
                return await run.asignal("signal")
            case "timeout":
                limit = timedelta(hours=1)
                return await run.asignal(name, timeout=limit, default="late")
        try:
            return (await run.aapproval(name, {"kind": kind})).status
        except Rejected:
            return "rejected"

    return [await one(number, kind) for number, kind in enumerate(kinds)]


def help_on(manager: CheckpointManager, clock: FakeClock, outcome: Outcome) -> None:
    """Do what an execution waits for."""
    if outcome.waiting_on == "signal" or str(outcome.waiting_on).startswith("signal#"):
        manager.signal(outcome.execution_id, "signal", {"at": clock().isoformat()})
    for listed in manager.approvals():
        asked = manager.get_approval(listed.approval_id)
        manager.decide(
            asked.approval_id,
            "approve" if (asked.subject or {})["kind"] == "approved" else "reject",
            subject_digest=asked.subject_digest,
            actor="ops",
        )
    clock.turn(hours=1)


def lived(kinds: list[str], *, is_async: bool) -> tuple[Any, list[Any]]:
    """Run a program to its end; return its result, and what was recorded."""
    clock, flaky = FakeClock(), Flaky()
    manager = CheckpointManager(storage=MemoryStorage(), actor="me", clock=clock)
    with manager:
        work: Any
        if is_async:

            async def akid(run: AsyncRun) -> Any:
                return await run.astep("kid", lambda: ("kid",))

            async def awork(run: AsyncRun) -> Any:
                return await twin(run, kinds, flaky, manager.workflow("kid")(akid))

            work = manager.workflow("w")(awork)
        else:

            def kid(run: Run) -> Any:
                return run.step("kid", lambda: ("kid",))

            def plain_work(run: Run) -> Any:
                return plain(run, kinds, flaky, manager.workflow("kid")(kid))

            work = manager.workflow("w")(plain_work)
        for _ in range(20):
            outcome = (
                asyncio.run(manager.arun(work, job_id=JOB))
                if is_async
                else manager.run(work, job_id=JOB)
            )
            if outcome.status != "waiting":
                break
            help_on(manager, clock, outcome)
        assert outcome.status == "completed", outcome
        return outcome.result, [
            (job, event["type"], _told(event["data"]))
            for job in manager.job_ids()
            for event in manager.history(job)
        ]


def _told(data: Any) -> dict[str, Any]:
    names = ("key", "kind", "tries", "name", "until", "signal", "attempt")
    return {name: data[name] for name in names if name in data}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(PROGRAMS)
def test_both_twins_record_the_same(kinds: list[str]) -> None:
    assert lived(kinds, is_async=True) == lived(kinds, is_async=False)
