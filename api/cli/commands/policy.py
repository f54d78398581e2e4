"""`milepost policy`: show and simulate retention policies (show, simulate)."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.commands.config import toml
from milepost.api.cli.context import Frame, command, example_text, with_shared_options
from milepost.api.cli.exits import Failure
from milepost.api.cli.progress import Progress
from milepost.api.cli.results import Answer, Table
from milepost.api.cli.targets import complete_job
from milepost.api.fields.plans import in_force_fields, policy_fields
from milepost.journal.clock import stamp, utc_now
from milepost.journal.quantities import size_text
from milepost.journal.retention.duration import Span, how_long
from milepost.journal.retention.simulation import SaveRate, SimulatedCleanup, simulate

if TYPE_CHECKING:
    from datetime import datetime

    from milepost.journal.retention.policies import InForce
    from milepost.journal.retention.policy import Policy
    from milepost.worker.config.settings import Settings

_MAX_ROWS = 32
# The periods of the timeline, and the classes of ages.
_PERIODS = {"1d": 1.0, "1w": 7.0, "1mo": 30.4375, "1y": 365.25}
_AGES = (
    ("the last hour", timedelta(hours=1)),
    ("the last day", timedelta(days=1)),
    ("the last week", timedelta(days=7)),
    ("the last month", timedelta(days=30.4375)),
    ("the last year", timedelta(days=365.25)),
)
_OLDER = "before that"
_FORGIVEN = 0.02
_TIMELINE = ("after", "saved", "kept", "removed", "oldest", "size")


@with_shared_options
@click.group(
    "policy",
    epilog=example_text(
        "milepost policy show etl-daily\n"
        "milepost policy simulate etl-daily --every 1h --for 1y"
    ),
)
def policy_command() -> None:
    """Show and simulate retention policies.

    `milepost cleanup JOB --dry-run` shows what a job's policy would remove now.
    """


@command("show", example="milepost policy show etl-daily --origin")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--origin", is_flag=True, help="Show the origin of each value.")
def show_command(frame: Frame, job: str | None, *, origin: bool) -> Answer:
    """Print the policy of JOB, or every policy in the order of precedence.

    Only values that are set are printed.  Without any keep_… and max_… a policy
    keeps everything.
    """
    settings = frame.settings()
    found = [*settings.retention.policies.all_in_force()]
    notes: tuple[str, ...] = ()
    if job is not None:
        mine, note = _policy_of(settings, job)
        found, notes = [mine], (note,)
    policies = [in_force_fields(each, settings) for each in found]
    columns = ("policy", "key", "value", "origin")
    spoken = 4 if origin else 3
    rows = [
        (each["name"], key, _as_written(key, value["value"]), value["origin"])[:spoken]
        for each in policies
        for key, value in _values(each)
    ]
    data = {"policies": policies} if job is None else {"job_id": job, **policies[0]}
    return Answer(data, Table(columns[:spoken], rows), notes)


def _values(policy: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    values = list(policy["values"].items())
    if policy["dry_run"]:
        values.append(("dry_run", {"value": True, "origin": ""}))
    return values


def _as_written(key: str, value: Any) -> str:
    """Return a value as in config.toml."""
    if key == "keep_tags":
        value = [",".join(tags) for tags in value]
    if key == "max_bytes":
        value = f"{value}B"
    return toml(value)


def _policy_of(settings: Settings, job: str) -> tuple[InForce, str]:
    """Return the policy of a job, which need not exist yet."""
    from milepost.worker.config.settings import open_manager

    info = None
    if (settings.store.root / "journals").is_dir():
        with open_manager(settings) as manager:
            info = manager.job(job)
    is_completed = info is not None and info.completed_at is not None
    mine = settings.retention.effective(job, is_completed=is_completed)
    keeps = "" if mine.policy.removes else "; it keeps everything"
    standing = "complete" if is_completed else "running"
    if info is None:
        standing = "not in the store"
    return mine, f"job {job} is {standing}; its policy is {mine.policy.name}{keeps}"


@command(
    "simulate",
    example="milepost policy simulate etl-daily --every 1h --for 1y\n"
    "echo 'keep_daily = 7' | "
    "milepost policy simulate --every 1h --for 90d --policy-file -",
)
@click.argument("job", required=False, shell_complete=complete_job)
@click.option(
    "--every", required=True, metavar="TIME", help="The interval between saves."
)
@click.option(
    "--for",
    "length",
    required=True,
    metavar="TIME",
    help="The simulated time: 90d, 1y.",
)
@click.option(
    "--runs-every",
    default="1d",
    show_default=True,
    metavar="TIME",
    help="The interval between retention runs.",
)
@click.option("--size", default="0B", metavar="SIZE", help="The size of one save.")
@click.option(
    "--policy-file",
    metavar="FILE|-",
    help="Use this policy instead; keys as in [[retention.rule]].",
)
@click.option(
    "--until", metavar="TIME", help="The time of the last save; default: now."
)
def simulate_command(
    frame: Frame,
    *,
    job: str | None,
    every: str,
    length: str,
    runs_every: str,
    size: str,
    policy_file: str | None,
    until: str | None,
) -> Answer:
    """Show what a policy would keep of a job that saves at a fixed interval.

    Nothing is saved or read.  Each run applies the rules that apply to real
    checkpoints; the saves have no tags and no metadata, and none of them failed.
    """
    from milepost.api.cli.selectors import parse_instant

    settings = frame.settings()
    policy = _policy_to_try(settings, job, policy_file)
    now = utc_now() if until is None else parse_instant(until)
    pace = SaveRate(_length(every, now), _length(runs_every, now), _size(size))
    lasts = _length(length, now)
    total = lasts // pace.runs_every + 1 if pace.runs_every else 0
    runs: list[SimulatedCleanup] = []
    with Progress() as progress:
        progress.begin("simulating", total, unit="run")
        for run in simulate(policy, pace, length=lasts, until=now):
            runs.append(run)
            progress.job()
    return _answer_of(policy, runs, lasts, pace)


def _size(text: str) -> int:
    """Parse a size.

    Raises:
        Failure: usage.
    """
    from milepost.journal.quantities import size_bytes

    try:
        return size_bytes(text)
    except ValueError as exc:
        raise Failure("usage", f"--size {text}: {exc}") from exc


def _length(text: str, now: datetime) -> timedelta:
    return now - Span.parse(text).before(now)


def _policy_to_try(settings: Settings, job: str | None, file: str | None) -> Policy:
    """Return the policy to simulate.

    Raises:
        Failure: usage.
        InvalidArgument: the file has no valid policy.
    """
    if (job is None) == (file is None):
        raise Failure("usage", "give JOB or --policy-file")
    if file is not None:
        from milepost.worker.config.policy_file import read_trial

        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return read_trial(raw, settings.retention, "stdin" if file == "-" else file)
    assert job is not None
    return _policy_of(settings, job)[0].policy


def _answer_of(
    policy: Policy, runs: list[SimulatedCleanup], lasts: timedelta, pace: SaveRate
) -> Answer:
    begun = runs[-1].at - lasts
    period, rows = _timeline(runs, begun)
    last = runs[-1]
    ages = _by_age(last)
    waiting = [run for run in runs if run.waits]
    data = {
        "policy": policy_fields(policy),
        "saved": last.saved,
        "kept": len(last.kept),
        "runs": len(runs),
        "runs_that_wait": len(waiting),
        "first_wait": waiting[0].waits[0] if waiting else None,
        "period": period,
        "timeline": [_run_fields(name, run, count) for name, run, count in rows],
        "ages": ages,
        "checkpoints": [stamp(candidate.at) for candidate in last.kept],
    }
    return Answer(
        data,
        Table(
            _TIMELINE if pace.stored_bytes else _TIMELINE[:-1],
            [_row(*row, has_size=pace.stored_bytes > 0) for row in rows],
        ),
        (f"policy {policy.name}: a save every {how_long(pace.every)}",),
        None,
        (*_at_the_end(last, ages), *_on_waits(waiting), *_unasked(policy, pace)),
    )


def _timeline(
    runs: list[SimulatedCleanup], begun: datetime
) -> tuple[str, list[tuple[str, SimulatedCleanup, int]]]:
    """Return the first run of each period, with the removals since the previous one.

    The last run is included.
    """
    days = (runs[-1].at - begun) / timedelta(days=1)
    period = next((p for p, d in _PERIODS.items() if days / d < _MAX_ROWS), "1y")
    rows: list[tuple[str, SimulatedCleanup, int]] = []
    removed, shown = 0, 0
    for run in runs:
        removed += run.removed
        age = (run.at - begun) / timedelta(days=_PERIODS[period])
        # A year of days is a few hours short of twelve months.
        whole = round(age) if abs(age - round(age)) < _FORGIVEN else int(age)
        if whole > shown or run is runs[-1]:
            name = how_long(run.at - begun)
            rows.append(
                (f"{whole}{period[1:]}" if whole > shown else name, run, removed)
            )
            removed, shown = 0, whole
    return period, rows


def _run_fields(name: str, run: SimulatedCleanup, removed: int) -> dict[str, Any]:
    return {
        "after": name,
        "at": stamp(run.at),
        "saved": run.saved,
        "kept": len(run.kept),
        "removed": removed,
        "oldest": stamp(run.kept[0].at) if run.kept else None,
        "kept_bytes": sum(candidate.stored_bytes for candidate in run.kept),
    }


def _row(
    name: str, run: SimulatedCleanup, removed: int, *, has_size: bool
) -> tuple[object, ...]:
    oldest = how_long(run.at - run.kept[0].at) if run.kept else ""
    row = (name, run.saved, len(run.kept), removed, oldest)
    if not has_size:
        return row
    return (*row, size_text(sum(candidate.stored_bytes for candidate in run.kept)))


def _by_age(run: SimulatedCleanup) -> dict[str, int]:
    """Count the checkpoints by age; each is counted once, in the youngest class."""
    counts: Counter[str] = Counter()
    for candidate in run.kept:
        age = run.at - candidate.at
        counts[next((name for name, most in _AGES if age < most), _OLDER)] += 1
    return {name: counts[name] for name in (*dict(_AGES), _OLDER) if counts[name]}


def _at_the_end(last: SimulatedCleanup, ages: dict[str, int]) -> tuple[str, ...]:
    if not last.kept:
        return ()
    spread = ", ".join(f"{count} from {name}" for name, count in ages.items())
    oldest = how_long(last.at - last.kept[0].at)
    return (f"at the end {len(last.kept)} remain: {spread}; oldest {oldest}",)


def _on_waits(waiting: list[SimulatedCleanup]) -> tuple[str, ...]:
    if not waiting:
        return ()
    first = waiting[0]
    return (
        f"the run at {stamp(first.at)} would require confirmation: {first.waits[0]}",
        "the simulation confirms it; later plans of this policy require none",
    )


def _unasked(policy: Policy, pace: SaveRate) -> tuple[str, ...]:
    if policy.max_bytes is None or pace.stored_bytes:
        return ()
    return ("max_bytes was not applied: give --size",)


for _command in (show_command, simulate_command):
    policy_command.add_command(_command)
