"""Threads that give way: nobody waits for background work, but for its processor."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

NICENESS = 10


def give_way() -> None:
    """Let this thread run when others do not want to, for as long as it lives.

    Beside a pass that removes from thousands of jobs, on two processors, the slowest
    hundredth of another process's saves then took half to two thirds as long.  Only
    Linux has priorities per thread; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it is a courtesy, not a promise
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
