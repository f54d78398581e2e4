"""What restic's ``forget`` keeps: the oracle that the keep rules are compared with.

Written from a description of its behaviour, independent of the keep rules, and checked
against the binary by `restic_cases/make.py`.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BUCKETS: dict[str, Callable[[datetime, int], object]] = {
    "last": lambda _, position: position,
    "hourly": lambda at, _: at.strftime("%Y %m %d %H"),
    "daily": lambda at, _: at.strftime("%Y %m %d"),
    "weekly": lambda at, _: at.strftime("%G %V"),
    "monthly": lambda at, _: at.strftime("%Y %m"),
    "yearly": lambda at, _: at.strftime("%Y"),
}
UNLIMITED = -1


class Duration(NamedTuple):
    """A duration of restic's: ``1y5m7d2h``."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def before(self, moment: datetime, zone: tzinfo = UTC) -> datetime | None:
        """Return `moment` less this, by the calendar of Go; None before the year 1."""
        local = moment.astimezone(zone).replace(tzinfo=None)
        months = local.year * 12 + local.month - 1 - self.years * 12 - self.months
        year, month, day = months // 12, months % 12 + 1, local.day
        if year < 1:
            return None
        if day > (length := monthrange(year, month)[1]):
            day -= length
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        try:
            there = local.replace(year=year, month=month, day=day)
            there -= timedelta(days=self.days)
            return there.replace(tzinfo=zone).astimezone(UTC) - timedelta(
                hours=self.hours
            )
        except OverflowError:
            return None


@dataclass(frozen=True)
class Options:
    """The options of one ``forget``."""

    counts: Mapping[str, int] = field(default_factory=dict)
    within: Duration | None = None
    within_buckets: Mapping[str, Duration] = field(default_factory=dict)
    tags: Sequence[Sequence[str]] = ()


def options_of(keep: str) -> Options:
    """Return what a command line's options ask for."""
    words = words_of(keep)
    counts, within, buckets = {}, None, {}
    tags: list[tuple[str, ...]] = []
    for option, value in zip(words[::2], words[1::2], strict=True):
        name = option.removeprefix("--keep-")
        if name == "tag":
            tags.append(tuple(value.split(",")))
        elif name == "within":
            within = _duration(value)
        elif name.startswith("within-"):
            buckets[name.removeprefix("within-")] = _duration(value)
        else:
            counts[name] = int(value)
    return Options(counts, within, buckets, tuple(tags))


def words_of(keep: str) -> list[str]:
    """Return the words of a command line's options."""
    return [word.strip("'") for word in keep.split()]


def _duration(text: str) -> Duration:
    found = {unit: int(number) for number, unit in re.findall(r"(\d+)([ymdh])", text)}
    return Duration(*(found.get(unit, 0) for unit in "ymdh"))


class Item(NamedTuple):
    """One snapshot."""

    at: datetime
    tags: tuple[str, ...] = ()


def forget(
    items: Sequence[Item], options: Options, now: datetime, zone: tzinfo = UTC
) -> list[list[str]]:
    """Return why each of `items` is kept, in their order; no reason: it is removed."""
    newest_first = sorted(range(len(items)), key=lambda i: items[i].at, reverse=True)
    past = [item.at for item in items if item.at < now]
    latest = max(past) if past else None
    left = dict(options.counts)
    seen: dict[str, object] = {}
    reasons: list[list[str]] = [[] for _ in items]
    for position, index in enumerate(newest_first):
        item, found = items[index], reasons[index]
        is_oldest = position == len(items) - 1
        local = item.at.astimezone(zone)
        if any(_has(item.tags, wanted) for wanted in options.tags):
            found.append("tags")
        if options.within is not None and _is_after(item, latest, options.within, zone):
            found.append("within")
        for name, key_of in BUCKETS.items():
            if left.get(name, 0) == 0:
                continue
            key = key_of(local, position)
            if key != seen.get(name) or is_oldest:
                found.append(name if key != seen.get(name) else f"oldest {name}")
                seen[name] = key
                left[name] -= left[name] > 0
        for name, duration in options.within_buckets.items():
            if not _is_after(item, latest, duration, zone):
                continue
            reason, key = f"{name} within", BUCKETS[name](local, position)
            if key != seen.get(reason) or is_oldest:
                found.append(reason if key != seen.get(reason) else f"oldest {reason}")
                seen[reason] = key
    return reasons


def _has(tags: Sequence[str], wanted: Sequence[str]) -> bool:
    return all(tag in tags for tag in wanted) if any(wanted) else not tags


def _is_after(
    item: Item, latest: datetime | None, duration: Duration, zone: tzinfo
) -> bool:
    if latest is None:
        return True
    cutoff = duration.before(latest, zone)
    return cutoff is None or item.at > cutoff
