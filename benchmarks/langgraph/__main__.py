"""`python -m benchmarks.langgraph`: measure, and print one table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from importlib.metadata import version
from pathlib import Path

from benchmarks import machine, report
from benchmarks.langgraph import puts, reads, sizes
from benchmarks.langgraph.savers import NAMES, OURS
from benchmarks.running import PROJECT, Run
from milepost.journal.clock import stamp, utc_now

SUBJECTS = {"bytes": sizes.measure, "puts": puts.measure, "reads": reads.measure}
_WIDTH = 100
_READING = (
    "A cell has the median, where it was measured the 99th percentile after a slash, "
    "and in brackets MilepostSaver's figure as a multiple of it: the median of the "
    "rounds' own ratios.  A missed target stays in the table."
)


def main() -> None:
    """Run the selected subjects.  A missed target is no failure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.langgraph", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="rough figures")
    parser.add_argument(
        "--only", action="append", choices=SUBJECTS, help="this subject; repeatable"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT / "build",
        help="where to write while measuring; should be on a real disk",
    )
    parser.add_argument("--page", type=Path, help="also write the page to this file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    facts = machine.describe(arguments.folder)
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.folder) as folder:
        run = Run(Path(folder), arguments.quick)
        for name in arguments.only or SUBJECTS:
            print(f"measuring: {name} …", file=sys.stderr, flush=True)
            found.append(SUBJECTS[name](run))
    packages = ("langgraph", "langgraph-checkpoint", "langgraph-checkpoint-sqlite")
    texts = [
        f"{stamp(utc_now())}; "
        + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in facts.items())
        + "; "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + ".  PostgresSaver is left out: it needs a server.",
        *machine.cautions(facts),
        _READING,
        *(f"**{subject.title}.**  {subject.note}" for subject in found),
    ]
    parts = [textwrap.fill(each, _WIDTH) for each in texts]
    parts.append(report.table(found, ours=OURS, names=NAMES))
    page = "\n\n".join(["# Beside LangGraph's own savers", *parts])
    print(page)
    if arguments.page is not None:
        arguments.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
