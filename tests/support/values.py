"""Comparison of values type by type, to the last bit."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from typing import Any


def is_alike(  # noqa: PLR0911 - one return per kind of value, like a table
    a: Any, b: Any
) -> bool:
    """Return whether two values are equal, and so are the types of all their parts.

    NaN is like NaN, 0.0 is not like -0.0, and the order of dicts counts.
    """
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_alike, a, b))
    if isinstance(a, dict):
        return is_alike([*a.items()], [*b.items()])
    if isinstance(a, (set, frozenset)):
        # Both are iterated in an order of their own.
        return a == b and {(type(x), x) for x in a} == {(type(x), x) for x in b}
    if isinstance(a, (float, complex, Decimal)):
        return repr(a) == repr(b)
    if isinstance(a, (datetime, time)):
        same_zone = a.tzinfo is b.tzinfo or repr(a.tzinfo) == repr(b.tzinfo)
        return same_zone and (a.fold, a.isoformat()) == (b.fold, b.isoformat())
    return bool(a == b)
