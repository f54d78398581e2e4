"""How many crash states the tests visit, and which."""

from __future__ import annotations

import pytest


@pytest.fixture
def crash_states(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--crash-states"))


@pytest.fixture
def crash_seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--crash-seed"))
