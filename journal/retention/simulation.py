"""What a policy would leave of a job that saves at a steady pace.  Pure.

The same rules decide as for real checkpoints, run after run, as the worker would have
them decide: what a run let go is not there for the next.
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


class Pace(NamedTuple):
    """How often a simulated job saves, and how often retention runs.

    Attributes:
        every: the time between two saves.
        runs_every: the time between two runs.
        stored_bytes: what each save takes.
    """

    every: timedelta
    runs_every: timedelta = timedelta(days=1)
    stored_bytes: int = 0


class Run(NamedTuple):
    """One run of retention.

    Attributes:
        at: when it ran.
        saved: how many saves there had been by then.
        removed: how many checkpoints this run let go.
        waits: why it would have required confirmation, if it would have; the simulation
            goes on as if it was given, and later runs do not require it.
        kept: what it left, oldest first.
    """

    at: datetime
    saved: int
    removed: int
    waits: tuple[str, ...]
    kept: tuple[Candidate, ...]


def simulate(
    policy: Policy, pace: Pace, *, length: timedelta, until: datetime
) -> Iterator[Run]:
    """Yield every run of retention over a job that saved for `length`.

    The saves are plain: no tags, no metadata, none of them failed, pinned or held.

    Args:
        policy: that decides.
        pace: of saves and runs.
        length: how long the job has been saving.
        until: when the last save and the last run are.

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
        yield Run(now, saved, before - len(kept), () if is_confirmed else waits, kept)
        is_confirmed = is_confirmed or bool(waits)


def _run(
    there: tuple[Candidate, ...], policy: Policy, now: datetime
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Return what one run leaves, and why it would wait."""
    if not policy.removes or not there:
        return there, ()
    decision = decisions.decide(there, policy, now)
    gone = {verdict.seq for verdict in decision.remove}
    kept = tuple(candidate for candidate in there if candidate.seq not in gone)
    return kept, decisions.guard(decision, policy)


def _runs(length: timedelta, pace: Pace) -> int:
    return 1 + _count("runs", length, pace.runs_every, MAX_RUNS, least=0)


def _count(
    what: str, length: timedelta, every: timedelta, most: int, *, least: int = 1
) -> int:
    if every <= timedelta(0) or length <= timedelta(0):
        raise InvalidArgument(f"a simulation needs times above zero: {length}, {every}")
    count = length // every
    if not least <= count <= most:
        raise InvalidArgument(
            f"{count} {what} in {length} are more than can be simulated: {least} to "
            f"{most}",
            hint="simulate a shorter time, or a slower pace",
        )
    return count
