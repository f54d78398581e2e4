"""`python -m milepost.worker`: the worker alone, in the foreground."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from milepost.journal.errors import MilepostError
from milepost.worker.config.settings import load


def main() -> int:
    """Run the worker that the arguments ask for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m milepost.worker",
        description="Do one store's background work on schedule and notice changes.",
        epilog="example: python -m milepost.worker --config config.toml --once",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the config.toml")
    parser.add_argument("--once", action="store_true", help="each task once, then end")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    try:
        settings = load(arguments.config)
        # After the settings: APScheduler and watchdog take longer than they do.
        from milepost.worker.process import run

        return run(settings, arguments.config, once=arguments.once)
    except MilepostError as exc:
        sys.stderr.write(f"milepost: {exc}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
