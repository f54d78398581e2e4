"""Durations and their text: ``"90min"``, ``"7d"``, ``"3mo"``, ``"2y"``.

Months and days follow the calendar; hours and smaller units are exact.  Subtraction
rolls over and never clamps, like Go's ``AddDate`` and so restic's ``--keep-within``: a
month before 31 March is 3 March, or 2 March in a leap year.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal import clock
from milepost.journal.errors import InvalidArgument

if TYPE_CHECKING:
    from datetime import tzinfo

_MONTHS = {"mo": 1, "y": 12}
_DAYS = {"d": 1, "w": 7}
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
UNITS = (*_SECONDS, *_DAYS, *_MONTHS)

_MAX_SECONDS = 1000 * 365.25 * 86_400
_PART = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*")
_EXPECTED = (
    'a duration such as "200ms", "90min", "12h", "7d", "6w" or "1y6mo" '
    f"(units: {' '.join(UNITS)})"
)


class Span(NamedTuple):
    """A duration: calendar months, calendar days, and exact seconds."""

    months: int = 0
    days: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Span:
        """Parse `text`; several units add up: ``"1y6mo"``.

        Raises:
            InvalidArgument: a unit is missing, unknown or ambiguous, or the duration is
                over a thousand years; names what is expected.
        """
        span, at = cls(), 0
        while at < len(text) or not text.strip():
            part = _PART.match(text, at)
            if part is None:
                raise InvalidArgument(f"expected {_EXPECTED}, got {text!r:.60}")
            span = span.plus(_one(part[1], part[2], text))
            at = part.end()
        if span.about_seconds > _MAX_SECONDS:
            raise InvalidArgument(f"expected at most 1000y, got {text!r:.60}")
        return span

    def plus(self, other: Span) -> Span:
        """Return the sum of both, to the microsecond."""
        return Span(
            self.months + other.months,
            self.days + other.days,
            round(self.seconds + other.seconds, 6),
        )

    @property
    def about_seconds(self) -> float:
        """Its length with months of 30.4375 days: for comparing spans only."""
        return self.months * 30.4375 * 86_400 + self.days * 86_400 + self.seconds

    def before(self, moment: datetime, zone: tzinfo = UTC) -> datetime:
        """Return the moment this long before `moment`, in UTC.

        Args:
            moment: with a time zone.
            zone: the time zone of months and days.
        """
        if not (self.months or self.days):
            return clock.before(moment.astimezone(UTC), self.seconds)
        try:
            local = moment.astimezone(zone)
            year, month = divmod(local.year * 12 + local.month - 1 - self.months, 12)
            day = date(year, month + 1, 1) + timedelta(days=local.day - 1 - self.days)
            there = datetime.combine(day, local.time(), tzinfo=zone).astimezone(UTC)
        except (ValueError, OverflowError):
            return clock.EARLIEST
        return clock.before(there, self.seconds)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        parts = []
        years, months = divmod(self.months, 12)
        parts += [f"{years}y"] * bool(years) + [f"{months}mo"] * bool(months)
        if self.days:
            weeks, days = divmod(self.days, 7)
            parts.append(f"{self.days}d" if days else f"{weeks}w")
        if self.seconds or not parts:
            parts.append(_seconds_text(self.seconds))
        return "".join(parts)


def as_span(value: Span | str) -> Span:
    """Return `value`, parsed if it is text.

    Raises:
        InvalidArgument: it is not a duration, is negative or over a thousand years.
    """
    if isinstance(value, Span):
        if min(value) < 0 or not value.about_seconds <= _MAX_SECONDS:
            raise InvalidArgument(f"expected {_EXPECTED}, 1000y at most, got {value}")
        return value
    if not isinstance(value, str):
        raise InvalidArgument(f"expected {_EXPECTED}, got {value!r:.60}")
    return Span.parse(value)


def how_long(length: timedelta) -> str:
    """Return a duration in its largest unit and the next, as ``3d 4h``."""
    seconds = int(length.total_seconds())
    if seconds < 0:
        return f"-{how_long(-length)}"
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, size), (smaller, part) in pairwise(units):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{seconds}s"


def _one(number: str, unit: str, text: str) -> Span:
    if unit == "m":
        raise InvalidArgument(
            'expected "min" or "mo" for the unit: "m" could be minutes or months, '
            f"got {text!r:.60}"
        )
    if unit in _SECONDS:
        return Span(seconds=float(number) * _SECONDS[unit])
    if unit not in _DAYS and unit not in _MONTHS:
        raise InvalidArgument(f"expected {_EXPECTED}, got {text!r:.60}")
    if not number.isdecimal():
        raise InvalidArgument(
            f'"{unit}" is a calendar unit: expected a whole number, got {text!r:.60}'
        )
    if unit in _DAYS:
        return Span(days=int(number) * _DAYS[unit])
    return Span(months=int(number) * _MONTHS[unit])


def _seconds_text(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds % size == 0 and (seconds or unit == "s"):
            return f"{seconds / size:.0f}{unit}"
    if (seconds * 1000).is_integer():
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.6f}s".rstrip("0s") + "s"
