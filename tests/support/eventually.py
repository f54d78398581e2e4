"""Waiting for what other threads and processes do."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Ends a test that waits in vain; never a bound on how long something may take.
DEADLINE_SECONDS = 30
_LOOK_SECONDS = 0.01


def eventually(look: Callable[[], Any]) -> Any:  # whatever it looks for
    """Return what `look` returns once that is true; fail at the deadline."""
    ends_at = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        assert time.monotonic() < ends_at, "it did not happen in time"
        threading.Event().wait(_LOOK_SECONDS)
    return found
