"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return `3 events`, or `1 event`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def needing(states: int) -> str:
    """Return `3 states need`, or `1 state needs`."""
    return f"{counted(states, 'state')} need{'s' if states == 1 else ''}"
