"""The one place where this package reads the wall clock; all else is given it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the process's entry to the clock


def stamp(moment: datetime) -> str:
    """Return `moment` as it stands in events: ``2026-11-23T05:00:00.123456Z``."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ" % (  # noqa: UP031 - half the price
        *(utc.year, utc.month, utc.day),
        *(utc.hour, utc.minute, utc.second, utc.microsecond),
    )
