"""Where the `milepost` process begins.

Nothing is imported up here but `sys`: a Ctrl-C while Click loads must end in
130 and silence, not in a traceback through somebody's import machinery.
"""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from api.cli.group import milepost

        milepost.main()
    except KeyboardInterrupt:
        sys.exit(130)
