"""Reaping of orphaned processes, for a server that inherits them.

An orphan is inherited by process 1 of its container, or by an ancestor that is a
subreaper, and is a zombie until that process waits for it.  A server that waited for
any child would steal the exit status of its own jobs.  So the server runs in a child,
and the first process only waits.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_FORWARDED = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2),
}
# Of linux/prctl.h.
_SET_PARENT_DEATH_SIGNAL, _GET_CHILD_SUBREAPER = 1, 37


def leave_orphans_to_parent() -> None:
    """Return in a process that does not inherit orphans.

    This is the calling process or a child of it.  In the second case the calling
    process forwards signals, waits for every child, and exits with the code of that
    child.  Call this before any thread starts.
    """
    if not _inherits_orphans():
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    child = os.fork()
    if child:
        os._exit(_wait_for(child))
    # A terminal sends Ctrl-C to the whole group; forwarded, it would arrive twice.
    os.setpgid(0, 0)
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _inherits_orphans() -> bool:
    if os.getpid() == 1:
        return True
    answer = ctypes.c_int()
    return _prctl(_GET_CHILD_SUBREAPER, ctypes.byref(answer)) and bool(answer.value)


def _prctl(option: int, value: object) -> bool:
    """Return whether the call succeeded; it exists on Linux only."""
    if sys.platform != "linux":
        return False
    failed: int = ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    return not failed


def _wait_for(child: int) -> int:
    """Wait for every child until `child` ends; return its exit code."""
    while True:
        number = signal.sigwait({*_FORWARDED, signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else 128 - code  # as shells report a signal
