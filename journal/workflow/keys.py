"""The keys of durable steps: names, numbered by scope (docs/adr/0070).

    extract, extract#2          the first and the second step of a name
    embed[7]                    an item of a map
    embed[7]>clean              a step inside it, or inside a scope or another step

The characters that have a meaning here are escaped in names.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from milepost.journal import ids
from milepost.journal.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MAX_BYTES = 2048
_SPECIAL = str.maketrans({mark: f"%{ord(mark):02X}" for mark in "%#[]>"})
# The scope of the steps that the current thread or task asks for, and whose it is.
_SCOPE: ContextVar[tuple[object, str]] = ContextVar("milepost scope")


class Keys:
    """The keys that one attempt asks for.  Safe for threads and tasks."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._guard = threading.Lock()

    def next(self, name: str) -> str:
        """Return the key of the next step of a name, in the current scope.

        Raises:
            InvalidArgument: the name is out of bounds.
        """
        with self._guard:
            base = _base(self, name)
            self._numbers[base] += 1
            key = _numbered(base, self._numbers[base])
            self._asked.add(key)
        return key

    def following(self, name: str) -> str:
        """Return the key that `next` would return."""
        with self._guard:
            base = _base(self, name)
            return _numbered(base, self._numbers[base] + 1)

    def item(self, key: str, item: object) -> str:
        """Return the key of an item of a map, which has a key of its own.

        Raises:
            InvalidArgument: another item has the same key, or it is too long.
        """
        made = f"{key}[{str(item).translate(_SPECIAL)}]"
        with self._guard:
            if made in self._asked:
                raise InvalidArgument(f"two items of map {key!r} have the key {item!r}")
            self._asked.add(made)
        return _checked(made)

    @contextmanager
    def within(self, key: str) -> Iterator[None]:
        """Ask for steps inside the step or scope of a key, if there is one."""
        if not key:
            yield
            return
        token = _SCOPE.set((self, f"{key}>"))
        try:
            yield
        finally:
            _SCOPE.reset(token)

    def unused(self, recorded: Collection[str]) -> list[str]:
        """Return the recorded steps that were not asked for, sorted.

        A step with a result does not run again, so those inside it are not asked for.
        """

        def is_inside(key: str) -> bool:
            outer, mark, _ = key.rpartition(">")
            return bool(mark) and (outer in recorded or is_inside(outer))

        return sorted(k for k in recorded if k not in self._asked and not is_inside(k))

    def expected(self, recorded: Collection[str], key: str) -> str | None:
        """Return the step that was recorded in the place of `key`, None if it fits.

        Steps inside others, and the items of maps, have no order.
        """
        if ">" in key:
            return None
        top = dict.fromkeys(k.partition("[")[0] for k in recorded if ">" not in k)
        first = next((k for k in top if k not in self._asked or k == key), key)
        return None if first == key else first


def _base(keys: Keys, name: str) -> str:
    owner, prefix = _SCOPE.get((None, ""))
    label = ids.check_label("the name of a step", name).translate(_SPECIAL)
    return _checked(f"{prefix}{label}" if owner is keys else label)


def _numbered(base: str, number: int) -> str:
    return base if number == 1 else f"{base}#{number}"


def _checked(key: str) -> str:
    size = len(key.encode())
    if size > _MAX_BYTES:
        raise InvalidArgument(
            f"the key of a step is at most {_MAX_BYTES} bytes, with its scopes; "
            f"{key[:60]!r}… has {size}"
        )
    return key
