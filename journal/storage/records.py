"""Small records of a store, changed by compare-and-set."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from milepost.journal.errors import Conflict, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_VALUE_BYTES = 1024 * 1024
MAX_ATTEMPTS = 1000
# A lower-case name means the same to a file system that ignores case.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


class Stored(NamedTuple):
    """The content of a record.

    Attributes:
        version: opaque; another one after each write, also of an equal value.
    """

    value: bytes
    version: str


class Record(Protocol):
    """One record.  Safe for threads."""

    def get(self) -> Stored | None:
        """Return the content that was written last; None if there is none.

        Cheap while it does not change: writers read the key record before each write.

        Raises:
            StorageFailed: it cannot be read.
        """

    def compare_and_set(self, expected: str | None, value: bytes) -> str:
        """Replace the content durably and atomically; return its version.

        Args:
            expected: the version that is replaced; None to create the record.
            value: at most `MAX_VALUE_BYTES`.

        Raises:
            Conflict: the record has another version; it is unchanged.
            InvalidArgument: the value is too large; the record is unchanged.
            LockTimeout, NoSpace, ReadOnlyStore: the record is unchanged.
            StorageFailed: the outcome is unknown, or the store does not exist.
        """


def change(record: Record, decide: Callable[[bytes | None], bytes]) -> bytes:
    """Replace the value of a record by the result of `decide`; return the new value.

    Args:
        record: the record.
        decide: gets the current value, None if there is none; called again if another
            writer was faster.

    Raises:
        Conflict: other writers were faster `MAX_ATTEMPTS` times.
        InvalidArgument, StorageFailed: as `Record.compare_and_set`.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        found = record.get()
        before, version = (None, None) if found is None else found
        value = decide(before)
        try:
            record.compare_and_set(version, value)
        except Conflict:
            if attempt == MAX_ATTEMPTS:
                raise
        else:
            return value
    raise AssertionError("the last attempt returns or raises")


def check_name(name: str) -> str:
    """Return `name` if it is a valid name of a record or a lease.

    Raises:
        InvalidArgument: it is not.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name!r:.120} is not a name of a record: 1 to 100 of a-z 0-9 _ -, "
            "the first a letter or digit"
        )
    return name


def check_value(name: str, value: bytes) -> None:
    """Refuse a value that is too large.

    Raises:
        InvalidArgument: it is.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidArgument(
            f"record {name!r}: {len(value)} bytes, at most {MAX_VALUE_BYTES} fit"
        )


def check_version(name: str, found: Stored | None, expected: str | None) -> None:
    """Refuse to replace another version than the expected one.

    Raises:
        Conflict: the record has another one.
    """
    version = None if found is None else found.version
    if version != expected:
        raise Conflict(
            f"record {name!r} has version {version}, not {expected}",
            hint="read it again, and decide again",
        )
