"""Where the `milepost` process begins and ends.

Nothing is imported up here but `os` and `sys`: a Ctrl-C while Click loads must end in
130 and silence, not in a traceback through somebody's import machinery.
"""

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        _open_standard_streams()
        from milepost.api.cli.group import milepost

        milepost.main()
    except KeyboardInterrupt:
        _leave(130)
    except SystemExit as done:
        _leave(done.code)


def _open_standard_streams() -> None:
    """Open what the caller closed of stdin, stdout and stderr, as the null device.

    A file of the store would get its number, and all that is written to a standard
    stream, by a library or a child, would land in it.
    """
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - stderr
        os.set_inheritable(lowest, True)
    os.close(lowest)


def _leave(code: str | int | None) -> None:
    """End the process without taking the interpreter apart first.

    All is closed and written by now, and freeing every module one by one takes a tenth
    of the time that `milepost list` has.  With a thread still at work it is the usual
    way out, which waits for it.
    """
    import threading

    if threading.active_count() > 1 or not isinstance(code, int):
        sys.exit(code)
    os._exit(code)
