"""Numbers with a unit in config.toml: ``"90min"``, ``"7d"``, ``"16MiB"``.

Every setting in seconds or bytes is parsed and written here; a calendar duration is a
`Span`.  In seconds, a month has 30 days and a year 365.
"""

from __future__ import annotations

import re

from milepost.journal.retention.duration import Span
from milepost.journal.retention.field_kinds import Size

_DAY = 86_400.0
# The largest unit first.
_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}

MAX_BYTES = Size().most

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", re.ASCII)


def seconds(text: str) -> float:
    """Return `text`, such as ``"200ms"`` or ``"7d"``, in seconds.

    Raises:
        ValueError: not a number with a unit, or out of bounds; names what is expected.
    """
    span = Span.parse(text)
    years, months = divmod(span.months, 12)
    return (years * 365 + months * 30 + span.days) * _DAY + span.seconds


def seconds_text(seconds: float) -> str:
    """Return text from which `seconds` makes the same number: ``7d``, ``200ms``."""
    days, rest = divmod(seconds, _DAY)
    return f"{days:.0f}d" if days and not rest else str(Span(seconds=seconds))


def size_bytes(text: str) -> int:
    """Return `text`, such as ``"16MiB"``, in bytes.

    Raises:
        ValueError: not a number with a unit, or out of bounds; names what is expected.
    """
    match = _SIZE.fullmatch(text)
    number, unit = match.groups() if match else ("", "")
    if not number or unit not in _BYTES:
        reason = ""
        if unit.upper() in {"KB", "MB", "GB", "K", "M", "G"}:
            reason = f': "{unit}" may mean a factor of 1000 or 1024'
        raise ValueError(
            f'expected a size such as "64KiB" or "16MiB"'
            f" (units: {' '.join(reversed(_BYTES))}){reason}"
        )
    value = float(number) * _BYTES[unit]
    if value != int(value):
        raise ValueError("expected a whole number of bytes")
    if value > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES // _BYTES['GiB']}GiB")
    return int(value)


def size_in_units(size_bytes: int) -> str:
    """Return text from which `size_bytes` makes the same number: ``16MiB``."""
    unit = next((u for u, n in _BYTES.items() if size_bytes % n == 0), "B")
    return f"{size_bytes // _BYTES[unit]}{unit}" if size_bytes else "0B"


def size_text(size_bytes: int) -> str:
    """Return a size rounded for people: ``812 B``, ``1.4 MiB``."""
    unit = next((u for u, n in _BYTES.items() if size_bytes >= n), "B")
    number = str(size_bytes) if unit == "B" else f"{size_bytes / _BYTES[unit]:.1f}"
    return f"{number} {unit}"
