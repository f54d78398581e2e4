"""`make demo`: a job is killed half way, resumed from its checkpoint, and compared.

On a terminal the server keeps running at the end until Ctrl-C; otherwise the demo
exits.  The exit code is 0 only if every check passed.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

from httpx import HTTPError

from demo.job import add_work
from demo.processes import DemoFailed, Folder, Stopped
from demo.story import Story


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("demo-data"),
        help="where to put store, logs and results (%(default)s, emptied first)",
    )
    add_work(parser)
    try:
        return _run(parser.parse_args(argv))
    except Stopped as stopped:
        print(f"demo: {stopped}, nothing runs any more", file=sys.stderr)
        return 128 + stopped.number
    except (DemoFailed, HTTPError, OSError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1


def _run(asked: argparse.Namespace) -> int:
    started = time.monotonic()
    with Folder(asked.folder) as folder:
        story = Story(asked, folder)
        is_kept = story.tell()
        story.tell_what_next()
        took = time.monotonic() - started
        story.say("took", f"{took:.0f} s; all of it is kept in {folder.root}")
        if story.is_terminal:
            story.say("up at", f"{story.url} until Ctrl-C", "bold")
            with suppress(Stopped):
                while True:
                    story.server.check_alive()
                    folder.pause()
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
