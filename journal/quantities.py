"""Durations and sizes as text: ``"90min"``, ``"1d12h"``, ``"16MiB"``.

Every number with a unit in config.toml is parsed here or by `retention.duration`.
In seconds, a month has 30 days and a year 365.
"""

from __future__ import annotations

import re

from milepost.journal.retention.duration import SECONDS as EXACT_SECONDS
from milepost.journal.retention.duration import Span

_DAY = 86_400.0
# Units of durations that are counted in seconds.
SECONDS = {**EXACT_SECONDS, "d": _DAY}
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

MAX_BYTES = 1 << 50

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", re.ASCII)


def seconds(text: str) -> float:
    """Return `text`, such as ``"200ms"`` or ``"7d"``, in seconds.

    Raises:
        ValueError: not a number with a unit, or out of bounds; names what is expected.
    """
    span = Span.parse(text)
    years, months = divmod(span.months, 12)
    return (years * 365 + months * 30 + span.days) * _DAY + span.seconds


def size_bytes(text: str) -> int:
    """Return `text`, such as ``"16MiB"``, in bytes.

    Raises:
        ValueError: not a number with a unit, or out of bounds; names what is expected.
    """
    match = _SIZE.fullmatch(text)
    number, unit = match.groups() if match else ("", "")
    if not number or unit not in BYTES:
        reason = ""
        if unit.upper() in {"KB", "MB", "GB", "K", "M", "G"}:
            reason = f': "{unit}" may mean a factor of 1000 or 1024'
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
