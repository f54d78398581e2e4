"""Entry point of the `milepost` process.

The module level imports only `os` and `sys`: a Ctrl-C while Click is loading must exit
with 130 and without a traceback.
"""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _open_standard_streams()
        from milepost.api.cli.group import milepost

        milepost.main()
    except KeyboardInterrupt:
        _leave(130)
    except SystemExit as done:
        _leave(done.code)


def _open_standard_streams() -> None:
    """Open closed standard streams as the null device.

    Otherwise a file of the store would get the descriptor, and output of a library or a
    child process would be written into it.
    """
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - stderr
        os.set_inheritable(lowest, True)
    os.close(lowest)


def _leave(code: str | int | None) -> None:
    """End the process without finalizing the interpreter.

    All files are closed and all output is written, and freeing every module takes a
    tenth of the time budget of `milepost list`.  If another thread is running, the
    process exits normally, which waits for the thread.
    """
    import threading

    if threading.active_count() > 1 or not isinstance(code, int):
        sys.exit(code)
    os._exit(code)
