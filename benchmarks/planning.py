"""Planning the retention of a large job, against the minimum of work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.running import Subject, Target
from benchmarks.timing import race
from milepost import CheckpointManager, Policy
from milepost.journal.retention.decisions import decide
from milepost.journal.retention.keep_rules import Candidate
from milepost.journal.retention.policies import PRESETS

if TYPE_CHECKING:
    from benchmarks.running import Run

NOW = datetime(2026, 11, 25, tzinfo=UTC)
GFS = Policy(name="gfs", **PRESETS["gfs"])
MANY = Policy(
    name="ten rules",
    keep_last=50,
    keep_hourly=48,
    keep_daily=90,
    keep_weekly=52,
    keep_monthly="all",
    keep_within="30d",
    keep_within_daily="1y",
    keep_every=100,
    keep_tags=(("release",),),
    max_age="3y",
    min_age="1h",
    timezone="Europe/Berlin",
)
_BARE, _DOOR = "bare", "plan"


def measure(run: Run) -> Subject:
    """Decide about candidates, and plan a job through the manager."""
    count = run.pick(100_000, 5_000)
    candidates = _candidates(count)
    with CheckpointManager(stores.checkpoints(run, count)) as manager:
        times = race(
            {
                _BARE: partial(_bare_loop, candidates),
                GFS.name: partial(decide, candidates, GFS, NOW),
                MANY.name: partial(decide, candidates, MANY, NOW),
                _DOOR: partial(manager.plan, stores.JOB, GFS),
            },
            rounds=run.pick(7, 3),
        )
    within_a_second = Target(1000)
    why = f"sorting, and four keys each, alone: {times[_BARE].p50 * 1e3:,.0f} ms"
    names = {
        GFS.name: "decided by gfs",
        MANY.name: "decided by ten rules in Berlin",
        _DOOR: "planned by gfs through the manager",
    }
    return Subject(
        "Retention",
        "One job is planned; every checkpoint gets a decision and its reasons.  The "
        "peer sorts the same checkpoints and looks up day, ISO week, month and year of "
        "each, which gfs needs.",
        tuple(
            times[contender].figure(
                f"{count:,} checkpoints {name}",
                "ms",
                beside=("sorting, and four keys each", times[_BARE]),
                target=within_a_second,
                why=why,
            )
            for contender, name in names.items()
        ),
    )


def _candidates(count: int) -> list[Candidate]:
    """Return one checkpoint each seven minutes."""
    return [
        Candidate(
            f"step_{seq}",
            seq,
            NOW - timedelta(minutes=7 * (count - seq)),
            number=seq,
            stored_bytes=400,
        )
        for seq in range(1, count + 1)
    ]


def _bare_loop(candidates: list[Candidate]) -> int:
    seen = set()
    for one in sorted(candidates, key=lambda c: c.at, reverse=True):
        at = one.at
        seen.add((at.year, at.month, at.day))
        seen.add(at.isocalendar()[:2])
        seen.add((at.year, at.month))
        seen.add((at.year,))
    return len(seen)
