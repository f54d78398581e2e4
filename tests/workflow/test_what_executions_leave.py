"""States of executions that ended leave the disk in time; repeats of ended ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost.journal.store.compaction import Threshold
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from pathlib import Path

    from milepost import CheckpointManager
    from tests.support.clock import Clock

LATER = Threshold(min_bytes=10**9, erase_within_seconds=60.0)
NEVER = Threshold(min_bytes=10**9, erase_within_seconds=None)


def journal(root: Path) -> bytes:
    return (root / "journals" / f"{JOB}.jsonl").read_bytes()


@pytest.mark.parametrize("way", ["input", "subject", "signal", "result"])
def test_a_payload_of_a_removed_execution_is_a_reason_to_compact(
    manager: CheckpointManager, clock: Clock, run: str, tmp_path: Path, way: str
) -> None:
    secret = {"secret": "of nobody else"}
    match way:
        case "input":
            manager.create_checkpoint(run, "s", "a", secret)
        case "subject":
            manager.request_approval(run, secret)
        case "signal":
            manager.signal(run, "go", secret)
        case _:
            manager.complete_execution(run, secret)
    if way != "result":
        manager.cancel_execution(run)
    clock.turn(seconds=1)
    assert manager.cleanup_old_executions(0) == 1
    clock.turn(seconds=manager.trash_seconds + 30)
    assert manager.compact(JOB, threshold=LATER, trust_clock=True) is None
    clock.turn(seconds=31)
    assert manager.compact(JOB, threshold=NEVER, trust_clock=True) is None
    assert b"of nobody else" in journal(tmp_path)
    assert manager.compact(JOB, threshold=LATER, trust_clock=True) is not None
    assert b"of nobody else" not in journal(tmp_path)


def test_repeats_on_the_alias_answer_for_an_execution_that_has_ended(
    manager: CheckpointManager,
) -> None:
    alias = f"exec_{JOB}"

    first = manager.create_checkpoint(alias, "s", "a", {}, idempotency_key="create")
    manager.complete_checkpoint(alias, "s", {}, idempotency_key="complete")
    manager.create_checkpoint(alias, "t", "a", {})
    manager.complete_checkpoint(
        alias, "t", {}, False, on_step_failure="keep", idempotency_key="fail"
    )
    manager.complete_execution(alias)
    manager.start_workflow_execution(JOB, "ingest")
    manager.create_checkpoint(alias, "s", "a", {"another": 1})
    before = manager.seq(JOB)
    again = manager.create_checkpoint(alias, "s", "a", {}, idempotency_key="create")
    assert again.to_dict() == first.to_dict()
    assert manager.complete_checkpoint(alias, "s", {}, idempotency_key="complete")
    assert manager.complete_checkpoint(
        alias, "t", {}, False, on_step_failure="keep", idempotency_key="fail"
    )
    assert manager.seq(JOB) == before
