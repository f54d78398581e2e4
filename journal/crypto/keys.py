"""The keys of a store: the current one, which encrypts new states, and older ones.

The text form has one word per key, the current one first::

    # made by `milepost keys generate`
    20261124-9f3c:<64 hex digits>
    20260301-07ab:<64 hex digits>
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Self

from milepost.journal.errors import UnusableKeys

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KEY_BYTES = 32
MAX_KEY_ID_BYTES = 32
_MAX_KEYS = 1000
_KEY_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_KEY_ID_BYTES - 1}}}")
_WORD = re.compile(rf"({_KEY_ID.pattern}):([0-9A-Fa-f]{{64}})")


class Key:
    """One key-encryption key.  Its `repr` shows its id only.

    Args:
        key_id: stored in plain text with each state that the key encrypts.
        material: 32 bytes.

    Raises:
        UnusableKeys: the id or the material is out of bounds.
    """

    __slots__ = ("key_id", "material")

    def __init__(self, key_id: str, material: bytes) -> None:
        if not _KEY_ID.fullmatch(key_id):
            raise UnusableKeys(
                f"a key id is 1 to {MAX_KEY_ID_BYTES} of A-Z a-z 0-9 . _ -, and begins "
                f"with a letter or a digit; got {key_id!r:.40}"
            )
        if len(material) != KEY_BYTES:
            raise UnusableKeys(f"key {key_id!r} must have {KEY_BYTES} bytes")
        self.key_id = key_id
        self.material = material

    @classmethod
    def new(cls, key_id: str) -> Self:
        """Return a fresh random key."""
        return cls(key_id, os.urandom(KEY_BYTES))

    def __repr__(self) -> str:
        return f"Key({self.key_id!r})"


class KeyRing:
    """The keys that a process has.  Immutable.

    Args:
        keys: the first is the current one: it encrypts new states.  The others only
            decrypt.

    Raises:
        UnusableKeys: there are none or more than 1,000, or two share an id.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys: dict[str, Key] = {}
        for key in keys:
            if key.key_id in self._keys:
                raise UnusableKeys(f"two keys are called {key.key_id!r}")
            self._keys[key.key_id] = key
        if not 1 <= len(self._keys) <= _MAX_KEYS:
            raise UnusableKeys(f"expected 1 to {_MAX_KEYS} keys, got {len(self._keys)}")
        self.current = next(iter(self._keys.values()))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the keys in `text`.

        Raises:
            UnusableKeys: it has no keys, or is malformed; the message shows no part of
                it.
        """
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            for word in line.partition("#")[0].split():
                match = _WORD.fullmatch(word)
                if match is None:
                    raise UnusableKeys(
                        f"line {number} of the keys is not a list of ID:<64 hex>",
                        hint="`milepost keys generate` makes one",
                    )
                keys.append(Key(match[1], bytes.fromhex(match[2])))
        return cls(keys)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the keys in a private file.

        Raises:
            UnusableKeys: it is missing, is open to others, or has no keys.
        """
        from milepost.journal.crypto import key_file

        try:
            return cls.from_text(key_file.read(path))
        except UnusableKeys as exc:
            if str(path) in exc.message:
                raise
            raise UnusableKeys(f"{path}: {exc}", hint=exc.hint) from exc

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the current one first."""
        return tuple(self._keys)

    def get(self, key_id: str) -> Key | None:
        """Return the key with that id, None if there is none."""
        return self._keys.get(key_id)

    def with_current(self, key: Key) -> KeyRing:
        """Return these keys and `key` as the current one."""
        return KeyRing([key, *self._keys.values()])

    def without(self, key_id: str) -> KeyRing:
        """Return these keys without `key_id`, which must not be the current one."""
        assert key_id != self.current.key_id, "new states need the current key"
        return KeyRing(key for key in self._keys.values() if key.key_id != key_id)

    def to_text(self) -> str:
        """Return the keys as text.  DataKey: it gives access to every state."""
        return "".join(f"{k.key_id}:{k.material.hex()}\n" for k in self._keys.values())

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"
