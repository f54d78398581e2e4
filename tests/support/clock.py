"""The one clock of the tests: it moves only when a test turns it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

NOW = datetime(2026, 11, 23, 5, 0, 0, 123456, tzinfo=UTC)


class Clock:
    """A clock that is turned by hand."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def turn(self, **by: float) -> None:
        """Let the time of a `timedelta` with these arguments pass."""
        self.now += timedelta(**by)

    def steady(self) -> float:
        """Return the time in seconds, as the clock that nobody can set tells it."""
        return self.now.timestamp()
