"""What a policy would leave, foretold, is what it leaves."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager, MemoryStorage, Policy
from milepost.journal import errors
from milepost.journal.retention.simulation import SaveRate, simulate
from tests.support.clock import NOW

if TYPE_CHECKING:
    from datetime import datetime

POLICIES = {
    "buckets": Policy(keep_hourly=5, keep_daily=3, keep_weekly=2),
    "within": Policy(keep_within="2d", keep_within_daily="1w"),
    "caps": Policy(keep_daily=9, max_count=7, max_age="3d", min_keep=2),
    "every": Policy(keep_every=5, keep_last=2, min_age="30h"),
    "nothing": Policy(),
}
PACE = SaveRate(timedelta(hours=5), stored_bytes=10)
LENGTH = timedelta(days=10)


def really(policy: Policy) -> list[list[datetime]]:
    """Save into a real store and clean up daily; return what each run left."""
    start = NOW - LENGTH // PACE.every * PACE.every
    now = start
    left = []
    runs = [NOW - days * timedelta(days=1) for days in range(10, -1, -1)]
    with CheckpointManager(storage=MemoryStorage(), clock=lambda: now) as manager:
        saves = [start + n * PACE.every for n in range(1, LENGTH // PACE.every + 1)]
        for at, is_run in sorted(
            [(s, False) for s in saves] + [(r, True) for r in runs]
        ):
            now = at
            if not is_run:
                manager.save("job", "step", {})
                continue
            manager.apply(manager.plan("job", policy), confirm=True)
            left.append([info.saved_at for info in manager.list("job")])
    return left


@pytest.mark.parametrize("name", POLICIES)
def test_a_simulation_leaves_what_a_real_store_is_left_with(name: str) -> None:
    runs = simulate(POLICIES[name], PACE, length=LENGTH, until=NOW)

    assert [[c.at for c in run.kept] for run in runs] == really(POLICIES[name])


def test_what_is_kept_and_what_was_removed_add_up() -> None:
    runs = [*simulate(POLICIES["buckets"], PACE, length=LENGTH, until=NOW)]

    removed = 0
    for run in runs:
        removed += run.removed
        assert run.saved == removed + len(run.kept)
    assert runs[-1].saved == LENGTH // PACE.every
    assert runs[-1].at == runs[-1].kept[-1].at == NOW


def test_a_byte_budget_sees_the_size_that_was_given() -> None:
    *_, last = simulate(Policy(max_bytes=45), PACE, length=LENGTH, until=NOW)

    assert len(last.kept) == 4


def test_a_run_that_the_guard_would_stop_says_so() -> None:
    pace = SaveRate(timedelta(hours=1))
    runs = [*simulate(Policy(keep_last=5), pace, length=LENGTH, until=NOW)]

    assert [bool(run.waits) for run in runs] == [False, True] + [False] * 9
    assert "max_remove_fraction" in runs[1].waits[0]


@pytest.mark.parametrize(
    ("pace", "length"),
    [
        (SaveRate(timedelta(0)), LENGTH),
        (PACE, timedelta(0)),
        (PACE, timedelta(hours=4)),
        (SaveRate(timedelta(seconds=1)), LENGTH),
        (SaveRate(timedelta(days=1), timedelta(seconds=1)), LENGTH),
    ],
)
def test_a_simulation_is_bounded(pace: SaveRate, length: timedelta) -> None:
    with pytest.raises(errors.InvalidArgument):
        list(simulate(Policy(keep_last=1), pace, length=length, until=NOW))
