"""`make demo`: a job is killed half way, resumed from its checkpoint, and compared.

On a terminal the server keeps running at the end until Ctrl-C; otherwise the demo
exits.  The exit code is 0 only if every check passed.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path

from demo.children import Children, DemoFailed, StopFlag, Stopped, stop_on_signals
from demo.folder import open_folder
from demo.job import EVERY, JobFailed, positive
from demo.screen import Screen
from demo.story import Stage, Story, Work


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    asked = _arguments(argv)
    with stop_on_signals() as flag:
        try:
            return _run(asked, flag)
        except Stopped as stopped:
            print(f"demo: {stopped}, nothing runs any more", file=sys.stderr)
            return 128 + stopped.number
        except BrokenPipeError:
            # The reader of our output is gone; closing stdout would fail again.
            sys.stdout = None
            return 1
        except (DemoFailed, JobFailed, OSError) as exc:
            print(f"demo: {exc}", file=sys.stderr)
            return 1


def _run(asked: argparse.Namespace, flag: StopFlag) -> int:
    started = time.monotonic()
    work = Work(asked.sources, asked.every, asked.limit)
    with ExitStack() as closing:
        folder = closing.enter_context(open_folder(asked.folder))
        children = closing.enter_context(Children(flag, folder.root, folder.held))
        screen = closing.enter_context(Screen())
        story = Story(work, Stage(folder, children, screen, flag))
        is_kept = story.tell()
        story.tell_what_next()
        took = time.monotonic() - started
        screen.say("took", f"{took:.0f} s; all of it is kept in {folder.root}")
        if screen.is_terminal:
            _stay_up(story, screen, flag)
    return 0 if is_kept else 1


def _stay_up(story: Story, screen: Screen, flag: StopFlag) -> None:
    screen.say("up at", f"{story.server.url} until Ctrl-C", "bold")
    try:
        while True:
            story.server.child.check_alive()
            flag.sleep()
    except Stopped:
        screen.say("stopping", "")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
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
    parser.add_argument(
        "--library",
        dest="sources",
        metavar="LIBRARY",
        type=Path,
        default=Path(sysconfig.get_path("stdlib")),
        help="the folder whose Python files are counted (%(default)s)",
    )
    parser.add_argument(
        "--every",
        type=positive,
        default=EVERY,
        help="files per checkpoint (%(default)s)",
    )
    parser.add_argument(
        "--limit", type=positive, help="count only the first LIMIT files"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
