"""Slots: the times of a schedule, as a clock on the wall shows them.  Pure.

| slot | is due |
|---|---|
| 02:30 on a usual day | at 02:30 |
| 02:30, skipped when summer time begins | at the end of the gap, 03:00 |
| 02:30, twice when it ends | the first time |
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import tzinfo

    from milepost.worker.schedule.scheduler import Trigger

CatchUp = Literal["last", "all", "none"]
# A slot is late after this; until then, a worker that has just started is in time.
GRACE = timedelta(minutes=1)
# With catch_up "all", at most this many late slots are started, the newest ones.
MAX_LATE = 100
# How many slots are looked at in one go.
MAX_SLOTS = 10_000
_SECOND = timedelta(seconds=1)


class Slot(NamedTuple):
    """One time of a schedule.

    Attributes:
        wall: in its time zone, without that zone.
        at: when it is due, in UTC.
    """

    wall: datetime
    at: datetime

    @property
    def text(self) -> str:
        """The slot in words, the same in every process."""
        return self.wall.isoformat(timespec="minutes")


class Choice(NamedTuple):
    """What becomes of due slots: all of `dropped` come before the last of `kept`."""

    kept: list[Slot]
    dropped: list[Slot]


def instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return when a clock in `zone` shows `wall`, in UTC; see the table above."""
    late = wall.replace(tzinfo=zone).astimezone(UTC)
    if late.astimezone(zone).replace(tzinfo=None) == wall:
        return late
    # Skipped: with the offset after the gap it is before its end, else after it.
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    offset = late.astimezone(zone).utcoffset()
    while late - early > _SECOND:
        middle = early + timedelta(seconds=(late - early) // _SECOND // 2)
        if middle.astimezone(zone).utcoffset() == offset:
            late = middle
        else:
            early = middle
    return late


def wall_time(at: datetime, zone: tzinfo) -> datetime:
    """Return what a clock in `zone` shows."""
    return at.astimezone(zone).replace(tzinfo=None)


def slots_after(wall: datetime, trigger: Trigger, zone: tzinfo) -> Iterator[Slot]:
    """Yield the slots after `wall`; `trigger` is in UTC, and stands for the wall."""
    while True:
        since = wall.replace(tzinfo=UTC) + timedelta(microseconds=1)
        found = trigger.get_next_fire_time(None, since)
        if found is None:
            return
        wall = found.replace(tzinfo=None)
        yield Slot(wall, instant(wall, zone))


def due_slots(
    wall: datetime, trigger: Trigger, zone: tzinfo, now: datetime
) -> list[Slot]:
    """Return the slots after `wall` that are due, at most `MAX_SLOTS`, oldest first."""
    found: list[Slot] = []
    for slot in slots_after(wall, trigger, zone):
        if slot.at > now or len(found) == MAX_SLOTS:
            break
        found.append(slot)
    return found


def choose(due: Sequence[Slot], catch_up: CatchUp, now: datetime) -> Choice:
    """Return which of the due slots are started, and which are not."""
    if len(due) == MAX_SLOTS:  # there are more, and newer ones
        return Choice([], [*due])
    match catch_up:
        case "none":
            late = [slot for slot in due if now - slot.at > GRACE]
            return Choice([*due[len(late) :]], late)
        case "last":
            return Choice([*due[-1:]], [*due[:-1]])
        case "all":
            return Choice([*due[-MAX_LATE:]], [*due[:-MAX_LATE]])
