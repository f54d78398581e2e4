"""What the tests over HTTP use: an application without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost.api import create_app
from tests.support.client import Executor, client_of

if TYPE_CHECKING:
    from milepost import CheckpointManager
    from tests.support.client import TestClient
    from tests.support.clock import Clock


@pytest.fixture
def executor(manager: CheckpointManager) -> Executor:
    return Executor(manager)


@pytest.fixture
def client(manager: CheckpointManager, executor: Executor, clock: Clock) -> TestClient:
    return client_of(create_app(manager, executor, clock=clock))
