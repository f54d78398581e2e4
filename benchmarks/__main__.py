"""`python -m benchmarks`: measure, print, and store the results."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from benchmarks import (
    chart,
    durable_saves,
    durable_steps,
    group_commits,
    histories,
    http_rates,
    listings,
    machine,
    many_jobs,
    noticing,
    opening,
    planning,
    processes,
    reading,
    replays,
    report,
    sizes,
    startups,
    workflows,
)
from benchmarks.report import Report
from benchmarks.running import PROJECT, Run
from milepost.journal.clock import stamp, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.running import Subject

SUBJECTS: dict[str, Callable[[Run], Subject]] = {
    "save": durable_saves.measure,
    "group": group_commits.measure,
    "processes": processes.measure,
    "replay": replays.measure,
    "read": reading.measure,
    "api": http_rates.measure,
    "notice": noticing.measure,
    "open": opening.measure,
    "bytes": sizes.measure,
    "states": histories.measure,
    "plan": planning.measure,
    "startup": startups.measure,
    "listings": listings.measure,
    "workflows": workflows.measure,
    "steps": durable_steps.measure,
    "jobs": many_jobs.measure,
}
# These take minutes, and run only for a record, or if they are asked for.
LONG = frozenset({"jobs"})


def main() -> None:
    """Run the selected subjects.  A missed target is no failure."""
    arguments = _arguments()
    # Not the system's folder for temporary files: that is often in memory, where a
    # sync costs nothing.
    parent: Path = arguments.folder
    parent.mkdir(parents=True, exist_ok=True)
    facts = machine.describe(parent)
    for caution in machine.cautions(facts):
        print(f"{caution}\n")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        run = Run(Path(folder), arguments.quick)
        whole = [n for n in SUBJECTS if arguments.record or n not in LONG]
        subjects = _measure(run, arguments.only or whole)
    found = Report(stamp(utc_now()), arguments.quick, facts, subjects)
    _store(found, arguments.results, record=arguments.record)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="rough figures within seconds"
    )
    parser.add_argument(
        "--only", action="append", choices=SUBJECTS, help="this subject; repeatable"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT / "build",
        help="where to write while measuring; should be on a real disk",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=PROJECT / "benchmarks" / "results",
        help="where the results go",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="also write latest.md and its chart, which are kept with the code",
    )
    arguments = parser.parse_args()
    if arguments.record and arguments.quick:
        parser.error("--record is for a full run; figures of --quick are rough")
    return arguments


def _measure(run: Run, names: Iterable[str]) -> dict[str, Subject]:
    found: dict[str, Subject] = {}
    for name in names:
        print(f"measuring: {name} …", file=sys.stderr, flush=True)
        found[name] = SUBJECTS[name](run)
        print(report.section(found[name]), flush=True)
    return found


def _store(found: Report, folder: Path, *, record: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = "local-{}.json".format(found.at.replace("-", "").replace(":", ""))
    json = orjson.dumps(report.as_json(found), option=orjson.OPT_INDENT_2)
    (folder / name).write_bytes(json + b"\n")
    if record:
        (folder / "latest.md").write_text(report.markdown(found), encoding="utf-8")
        drawn = chart.svg(chart.groups(found.subjects))
        (folder / "latest.svg").write_text(drawn, encoding="utf-8")
    targets = [f.is_met for s in found.subjects.values() for f in s.figures]
    print(report.table(found.subjects.values()))
    print(f"{targets.count(True)} targets met, {targets.count(False)} missed.")


if __name__ == "__main__":
    main()
