"""What the tests of workflows share: a manager, a clock, a running execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from tests.support.clock import Clock
from tests.support.workflows import JOB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manager(tmp_path: Path, clock: Clock) -> Iterator[CheckpointManager]:
    with CheckpointManager(tmp_path, actor="ann", clock=clock) as opened:
        yield opened


@pytest.fixture
def run(manager: CheckpointManager) -> str:
    """Return the id of a running execution."""
    return manager.start_workflow_execution(JOB, "ingest", {"url": "x"}).execution_id
