"""Durations and sizes as people write them: ``"90min"``, ``"16MiB"``.

Every number that carries a unit in config.toml goes through here, so a unit means the
same everywhere.  Months and years are 30 and 365 days: a retention window that is
counted in seconds needs no calendar.
"""

from __future__ import annotations

import re

SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
    "w": 604_800.0,
    "mo": 2_592_000.0,
    "y": 31_536_000.0,
}
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

# A thousand years: beyond it, subtracting from today leaves the calendar.
MAX_SECONDS = 1000 * SECONDS["y"]
MAX_BYTES = 1 << 50

_QUANTITY = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", re.ASCII)


def seconds(text: str) -> float:
    """Return the seconds that `text`, such as ``"200ms"`` or ``"7d"``, stands for.

    Raises:
        ValueError: no number with a unit, or out of bounds; says what is expected.
    """
    number, unit = _split(text)
    if unit == "m":
        raise ValueError(
            'expected "min" or "mo" for the unit: "m" could be minutes or months'
        )
    if number is None or unit not in SECONDS:
        raise ValueError(
            'expected a duration such as "200ms", "30s", "90min", "12h" or "7d"'
            f" (units: {' '.join(SECONDS)})"
        )
    value = float(number) * SECONDS[unit]
    if value > MAX_SECONDS:
        raise ValueError("expected at most 1000y")
    return value


def size_bytes(text: str) -> int:
    """Return the bytes that `text`, such as ``"16MiB"``, stands for.

    Raises:
        ValueError: no number with a unit, or out of bounds; says what is expected.
    """
    number, unit = _split(text)
    if number is None or unit not in BYTES:
        reason = ""
        if unit.upper() in {"KB", "MB", "GB", "K", "M", "G"}:
            reason = f': "{unit}" is 1000 to some and 1024 to others'
        raise ValueError(
            f'expected a size such as "64KiB" or "16MiB"'
            f" (units: {' '.join(BYTES)}){reason}"
        )
    value = float(number) * BYTES[unit]
    if value != int(value):
        raise ValueError("expected a whole number of bytes")
    if value > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES // BYTES['GiB']}GiB")
    return int(value)


def _split(text: str) -> tuple[str | None, str]:
    match = _QUANTITY.fullmatch(text)
    return (match[1], match[2]) if match else (None, "")
