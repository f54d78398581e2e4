"""Entries by name in one record of the store, as JSON.  Safe for processes."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import orjson

from milepost.journal.storage.records import change

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from milepost.journal.storage.contract import Storage

_T = TypeVar("_T")


class Table(Generic[_T]):
    """The entries of a store that one record has.

    A write keeps the entries that others wrote meanwhile, and begins a damaged record
    again.
    """

    name: ClassVar[str]  # of the record
    key: ClassVar[str]  # of the entries in it
    format: ClassVar[int]
    unreadable: ClassVar[type[ValueError]]  # raised for a damaged record

    def __init__(self, storage: Storage) -> None:
        self._record = storage.record(self.name)

    @staticmethod
    @abstractmethod
    def fields(entry: _T) -> dict[str, Any]:
        """Return an entry as JSON values."""

    @staticmethod
    @abstractmethod
    def entry(fields: Mapping[str, Any]) -> _T:
        """Return the entry of these JSON values; may raise what reading them raises."""

    def read(self) -> dict[str, _T]:
        """Return the entries; empty in a new store.

        Raises:
            ValueError: an `unreadable`: the record is damaged.
            OSError: it cannot be read.
        """
        found = self._record.get()
        return {} if found is None else self._decoded(found.value)

    def write(self, name: str, entry: _T) -> None:
        """Store an entry durably.

        Raises:
            OSError: it cannot be written; the previous content is unchanged.
        """
        self._edit(lambda known: {**known, name: entry})

    def _edit(self, edit: Callable[[dict[str, _T]], dict[str, _T]]) -> None:
        def edited(raw: bytes | None) -> bytes:
            known: dict[str, _T] = {}
            with suppress(self.unreadable):
                known = {} if raw is None else self._decoded(raw)
            return self._encoded(edit(known))

        change(self._record, edited)

    def _encoded(self, entries: Mapping[str, _T]) -> bytes:
        found = {name: self.fields(entry) for name, entry in entries.items()}
        document = {"format": self.format, self.key: found}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"

    def _decoded(self, raw: bytes) -> dict[str, _T]:
        try:
            document = orjson.loads(raw)
            format_ = document["format"]
            known = document[self.key] if format_ == self.format else {}
            found = {name: self.entry(each) for name, each in known.items()}
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as e:
            raise self.unreadable(f"{self.name}: invalid content: {e}") from e
        if format_ != self.format:
            what = f"{self.name}: format {format_!r}, not {self.format}"
            raise self.unreadable(what)
        return found
