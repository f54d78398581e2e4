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


def _in_memory(root: Path) -> Callable[[], Storage]:
    del root
    made = MemoryStorage()
    return lambda: made


def _in_files(root: Path) -> Callable[[], Storage]:
    return lambda: FileStorage(root)


BACKENDS = {"memory": _in_memory, "file": _in_files}


@pytest.fixture(params=BACKENDS)
def opened(request: pytest.FixtureRequest, root: Path) -> Callable[[], Storage]:
    """Opens one store of the backend, each time as another process would."""
    return BACKENDS[request.param](root)


@pytest.fixture
def storage(opened: Callable[[], Storage]) -> Iterator[Storage]:
    made = opened()
    yield made
    made.close()
