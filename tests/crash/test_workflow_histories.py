"""Random workflows, killed anywhere and started again; tests/crash/README.md."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING

import pytest

from milepost.journal.clock import utc_now
from tests.crash.histories import Explorer
from tests.crash.programs import make
from tests.crash.session import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tally import Tally


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "histories", [2_000, pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_no_death_repeats_or_loses_a_recorded_step(
    histories: int, crash_seed: int, tally: Tally
) -> None:
    """I1, I2, I5: each result counts once, whenever processes die and come back."""
    is_slow = histories > 2_000
    seed = crash_seed + (int(f"{utc_now():%Y%m%d}") if is_slow else 0)
    explorer = Explorer(seed)
    with seeded(seed):
        explorer.explore(histories)
    tally("histories of workflows", explorer.count)
    assert explorer.count >= histories
    assert max(explorer.deaths) >= 5


def test_random_programs_use_every_call() -> None:
    random = Random(1)
    kinds = {op.kind for _ in range(200) for op in make(random).each()}
    assert len(kinds) == 20
