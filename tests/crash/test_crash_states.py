"""Every legal disk after a crash, and what must hold on each; tests/crash/README.md."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from milepost.journal.store import job as replica
from tests.crash.explore import Budget, Explorer
from tests.crash.mutants import MUTANTS, hunt
from tests.crash.session import seeded
from tests.crash.workloads import WORKLOADS, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tally import Tally

_COSTLY = 5


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Recoveries log what they cut: a hundred thousand times here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", WORKLOADS)
def test_no_crash_loses_what_was_acknowledged_or_shown(
    name: str,
    times: int,
    crash_states: int,
    crash_seed: int,
    tally: Tally,
) -> None:
    """I1, I2, I4, I5, I7 after a power cut or a kill at any operation of a workload."""
    states = crash_states * times
    if times == 1 and WORKLOADS[name].then is not None:
        states //= _COSTLY  # its lives do more
    explore(name, states, crash_seed, tally)


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["save", "interval", "compact", "come and go", "remove"]
)
def test_a_snapshot_after_each_event_changes_nothing_of_that(
    name: str,
    times: int,
    crash_states: int,
    crash_seed: int,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I1, I2, I4, I5, I7 where processes open a job from its snapshot."""
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1)
    explore(name, crash_states * times, crash_seed, tally)


def explore(name: str, states: int, seed: int, tally: Tally) -> None:
    explorer = Explorer(states=states, seed=seed)
    with seeded(seed), suppress(Budget):
        explorer.survey(record(name))
        explorer.deepen()
    tally("crash states", explorer.count)
    assert explorer.count > min(0.6 * states, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_broken_is_found_out(
    name: str, crash_seed: int, tally: Tally
) -> None:
    assert hunt(MUTANTS[name], seed=crash_seed).violation is not None
    tally("broken rules", 1)
