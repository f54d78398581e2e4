"""Every implementation of the storage contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from milepost import MemoryStorage
from milepost.journal.storage.files.storage import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from milepost.journal.storage.contract import Storage
    from tests.support.clock import Clock


def _in_memory(root: Path, clock: Clock) -> Callable[[], Storage]:
    del root
    made = MemoryStorage(steady=clock.steady)
    return lambda: made


def _in_files(root: Path, clock: Clock) -> Callable[[], Storage]:
    return lambda: FileStorage(root, steady=clock.steady)


BACKENDS = {"memory": _in_memory, "file": _in_files}


@pytest.fixture(params=BACKENDS)
def opened(
    request: pytest.FixtureRequest, root: Path, clock: Clock
) -> Callable[[], Storage]:
    """Opens one store of the backend, each time as another process would."""
    return BACKENDS[request.param](root, clock)


@pytest.fixture
def storage(opened: Callable[[], Storage]) -> Iterator[Storage]:
    made = opened()
    yield made
    made.close()
