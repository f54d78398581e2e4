"""How values of the built-in types are stored: as parts, and how they are rebuilt."""

from __future__ import annotations

import base64
import sys
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(NamedTuple):
    """How values of one type are stored.

    Attributes:
        name: the stored name.
        to_parts: returns what is stored: any value that the registry can encode.
        from_parts: rebuilds the value.
        is_same: compares a value with its copy; None: copies are always exact.
    """

    name: str
    to_parts: Callable[[Any], Any]
    from_parts: Callable[[Any], Any]
    is_same: Callable[[Any, Any], object] | None = None


def numpy_kind(kind: type) -> Kind | None:
    """Return how an array or a scalar of NumPy is stored; None for any other type."""
    numpy = sys.modules.get("numpy")
    if numpy is None or kind.__module__ != "numpy":
        return None
    if kind is numpy.ndarray:
        return NUMPY[0]
    return NUMPY[1] if issubclass(kind, numpy.generic) else None


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _time_parts(value: datetime | time) -> Any:
    """Return ISO 8601 text; a list of it, the fold and the zone if they say more."""
    zone = value.tzinfo
    is_fixed = type(zone) is timezone and len(_timezone_parts(zone)) == 1
    if not value.fold and (zone is None or is_fixed):
        return value.isoformat()
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, zone]


def _rebuilt_time(cls: type[Any], parts: Any) -> Any:
    if isinstance(parts, str):
        return cls.fromisoformat(parts)
    text, fold, zone = parts
    return cls.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _timezone_parts(value: Any) -> list[Any]:
    return [*value.__getinitargs__()]  # its offset, and its name if it has one


def _zone_key(value: ZoneInfo) -> str:
    if ZoneInfo(value.key) is not value:
        raise ValueError(f"{value!r} is not the zone {value.key!r} of this system")
    return value.key


def _from_list(cls: Callable[..., Any]) -> Callable[[list[Any]], Any]:
    return lambda parts: cls(*parts)


def _array_parts(value: Any) -> Any:
    from milepost.journal.states import arrays  # imported late: NumPy is optional

    return arrays.array_parts(value)


def _array(parts: Any) -> Any:
    from milepost.journal.states import arrays

    return arrays.array(**parts)


def _scalar_parts(value: Any) -> Any:
    from milepost.journal.states import arrays

    return arrays.scalar_parts(value)


def _scalar(parts: Any) -> Any:
    from milepost.journal.states import arrays

    return arrays.scalar(parts)


NUMPY = (
    Kind("numpy.ndarray", _array_parts, _array),
    Kind("numpy.scalar", _scalar_parts, _scalar),
)
BUILT_IN: dict[type, Kind] = {
    datetime: Kind("datetime", _time_parts, partial(_rebuilt_time, datetime)),
    time: Kind("time", _time_parts, partial(_rebuilt_time, time)),
    date: Kind("date", date.isoformat, date.fromisoformat),
    timedelta: Kind(
        "timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        _from_list(timedelta),
    ),
    timezone: Kind("timezone", _timezone_parts, _from_list(timezone)),
    ZoneInfo: Kind("zoneinfo", _zone_key, ZoneInfo),
    UUID: Kind("uuid", str, UUID),
    Decimal: Kind("decimal", str, Decimal),
    Fraction: Kind(
        "fraction", lambda value: [*value.as_integer_ratio()], _from_list(Fraction)
    ),
    complex: Kind(
        "complex", lambda value: [value.real, value.imag], _from_list(complex)
    ),
    type(Path()): Kind("path", str, Path),
    PurePosixPath: Kind("pure_posix_path", str, PurePosixPath),
    PureWindowsPath: Kind("pure_windows_path", str, PureWindowsPath),
    bytes: Kind("bytes", _base64, _bytes),
    bytearray: Kind("bytearray", _base64, lambda text: bytearray(_bytes(text))),
    set: Kind("set", list, set),
    frozenset: Kind("frozenset", list, frozenset),
    tuple: Kind("tuple", list, tuple),
    dict: Kind("dict", lambda value: [[*item] for item in value.items()], dict),
    int: Kind("int", hex, partial(int, base=16)),
    float: Kind("float", repr, float),
}
