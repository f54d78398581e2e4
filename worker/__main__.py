"""`python -m milepost.worker`: the worker alone, in the foreground."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from milepost.journal.errors import MilepostError
from milepost.worker.config.settings import load


def main() -> int:
    """Parse the arguments, run a worker and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m milepost.worker",
        description="Run the background worker of one store.",
        epilog="example: python -m milepost.worker --config config.toml --once",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the config file")
    parser.add_argument("--once", action="store_true", help="run each task once")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    try:
        settings = load(arguments.config)
        # Imported after the settings are valid: APScheduler and watchdog load slowly.
        from milepost.worker.process import run

        return run(settings, arguments.config, once=arguments.once)
    except MilepostError as exc:
        sys.stderr.write(f"milepost: {exc}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
