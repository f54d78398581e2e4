"""The only reader of the wall clock, the clock since boot, and a time as text."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from milepost.journal.errors import UnreadableState

# The first moment of the calendar: everything is later.
EARLIEST = datetime.min.replace(tzinfo=UTC)
_STAMP = "2026-11-23T05:00:00.123456+00:00"


def utc_now() -> datetime:
    """Return the current time, with its time zone, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the only reader of the clock


def boot_seconds() -> float:
    """Return the seconds since boot, including sleep; this clock cannot be set.

    It is the same for all processes of a machine, in containers too.
    """
    # Not `time.monotonic`, which stops while the machine sleeps.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def before(moment: datetime, seconds: float) -> datetime:
    """Return the moment this long before `moment`, or `EARLIEST`."""
    try:
        return moment - timedelta(seconds=seconds)
    except OverflowError:
        return EARLIEST


def stamp(moment: datetime) -> str:
    """Return `moment` as text: ``2026-11-23T05:00:00.123456+00:00``."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return "%04d-%02d-%02dT%02d:%02d:%02d.%06d+00:00" % (  # noqa: UP031 - twice as fast
        *(utc.year, utc.month, utc.day),
        *(utc.hour, utc.minute, utc.second, utc.microsecond),
    )


def stamped(at: str) -> str:
    """Return the time text of an event in the form that `stamp` writes.

    Raises:
        UnreadableState: it is not a time, or has no time zone.
    """
    if isinstance(at, str) and len(at) == len(_STAMP) and at.endswith("+00:00"):
        return at
    return stamp(moment(at))


def moment(at: str) -> datetime:
    """Parse the time of an event.

    Raises:
        UnreadableState: it is not a time, or has no time zone.
    """
    try:
        found = datetime.fromisoformat(at)
    except (TypeError, ValueError) as exc:
        raise UnreadableState(f"an event's time is {at!r:.40}, not a time") from exc
    if found.tzinfo is None:
        raise UnreadableState(f"an event's time is {at!r:.40}, without a time zone")
    return found
