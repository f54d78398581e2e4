"""The difference between two states.  Pure."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Literal, NamedTuple

_NOTHING = object()


class Change(NamedTuple):
    """One difference.  `before` is None for an addition, `after` for a removal."""

    op: Literal["add", "remove", "replace"]
    path: str
    before: Any
    after: Any


def diff(before: object, after: object) -> list[Change]:
    """Return the changes from `before` to `after`, in document order.

    Objects are compared by key and lists by position; a list that grew at its end shows
    only the additions.
    """
    changes: list[Change] = []
    stack: list[tuple[str, object, object]] = [("$", before, after)]
    while stack:
        path, old, new = stack.pop()
        if old is _NOTHING:
            changes.append(Change("add", path, None, new))
        elif new is _NOTHING:
            changes.append(Change("remove", path, old, None))
        elif isinstance(old, dict) and isinstance(new, dict):
            keys = dict.fromkeys([*old, *new])
            stack.extend(
                (f"{path}.{k}", old.get(k, _NOTHING), new.get(k, _NOTHING))
                for k in reversed(keys)
            )
        elif isinstance(old, list) and isinstance(new, list):
            pairs = list(enumerate(zip_longest(old, new, fillvalue=_NOTHING)))
            stack.extend((f"{path}[{i}]", a, b) for i, (a, b) in reversed(pairs))
        elif type(old) is not type(new) or old != new:
            changes.append(Change("replace", path, old, new))
    return changes
