"""Simulate a policy on a job that saves at a steady pace.  Pure.

The rules of `decisions` are applied run after run, as a worker would: a checkpoint
removed by one run does not exist for the next.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import InvalidArgument
from milepost.journal.retention import decisions
from milepost.journal.retention.keep_rules import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.journal.retention.policy import Policy

MAX_SAVES = 200_000
MAX_RUNS = 20_000


class SaveRate(NamedTuple):
    """The intervals of saves and retention runs of a simulated job.

    Attributes:
        every: time between two saves.
        runs_every: time between two runs.
        stored_bytes: size of each save.
    """

    every: timedelta
    runs_every: timedelta = timedelta(days=1)
    stored_bytes: int = 0


class SimulatedCleanup(NamedTuple):
    """One run of retention.

    Attributes:
        at: time of the run.
        saved: number of saves so far.
        removed: number of checkpoints that this run removed.
        waits: why the run would require confirmation; the simulation proceeds as if
            it was given, and later runs do not require it.
        kept: the remaining checkpoints, oldest first.
    """

    at: datetime
    saved: int
    removed: int
    waits: tuple[str, ...]
    kept: tuple[Candidate, ...]


def simulate(
    policy: Policy, pace: SaveRate, *, length: timedelta, until: datetime
) -> Iterator[SimulatedCleanup]:
    """Yield every run of retention over a job that saved for `length`.

    The saves are plain: no tags, no metadata, none failed, pinned or held.

    Args:
        policy: the policy to simulate.
        pace: of saves and runs.
        length: how long the job has been saving.
        until: time of the last save and the last run.

    Raises:
        InvalidArgument: a time is not positive, or there would be too many saves or
            runs.
    """
    saves, runs = _count("saves", length, pace.every, MAX_SAVES), _runs(length, pace)
    until = until.astimezone(UTC)
    kept: tuple[Candidate, ...] = ()
    saved, is_confirmed = 0, False
    for left in range(runs - 1, -1, -1):
        now = until - left * pace.runs_every
        due = saves + -left * pace.runs_every // pace.every
        fresh = (
            Candidate(
                f"save-{number}",
                number,
                until - (saves - number) * pace.every,
                number=number,
                stored_bytes=pace.stored_bytes,
            )
            for number in range(saved + 1, due + 1)
        )
        kept, saved = (*kept, *fresh), max(saved, due)
        before = len(kept)
        kept, waits = _run(kept, policy, now)
        yield SimulatedCleanup(
            now, saved, before - len(kept), () if is_confirmed else waits, kept
        )
        is_confirmed = is_confirmed or bool(waits)


def _run(
    there: tuple[Candidate, ...], policy: Policy, now: datetime
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Return the checkpoints that one run keeps, and why it requires confirmation."""
    if not policy.removes or not there:
        return there, ()
    decision = decisions.decide(there, policy, now)
    gone = {verdict.seq for verdict in decision.remove}
    kept = tuple(candidate for candidate in there if candidate.seq not in gone)
    return kept, decisions.guard(decision, policy)


def _runs(length: timedelta, pace: SaveRate) -> int:
    return 1 + _count("runs", length, pace.runs_every, MAX_RUNS, least=0)


def _count(
    what: str, length: timedelta, every: timedelta, most: int, *, least: int = 1
) -> int:
    if every <= timedelta(0) or length <= timedelta(0):
        raise InvalidArgument(f"a simulation needs times above zero: {length}, {every}")
    count = length // every
    if not least <= count <= most:
        raise InvalidArgument(
            f"cannot simulate {count} {what} in {length}: expected {least} to {most}",
            hint="simulate a shorter time, or a slower pace",
        )
    return count
