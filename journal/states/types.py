"""Values that are not plain JSON, in states: tagged when stored, rebuilt when read.

A tagged value is ``{"$milepost": name, "value": …}``.  The name is looked up in a
registry of the reader, and never imported (docs/types.md).
"""

from __future__ import annotations

import dataclasses
import marshal
import math
import operator
from contextlib import suppress
from enum import Enum
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import orjson

from milepost.journal.errors import (
    InvalidArgument,
    InvalidState,
    StateTooLarge,
    UnreadableState,
)
from milepost.journal.states.json_states import DEPTH_LIMIT, INT_MAX, INT_MIN
from milepost.journal.states.kinds import BUILT_IN, NUMPY, Kind, numpy_kind

if TYPE_CHECKING:
    from collections.abc import Callable

    # The way to a value: that of its container, and its key or position there.
    _Where = tuple["_Where", object] | None

TAG = "$milepost"
_TAG = TAG.encode()
_FORM = {TAG, "value"}
# Values of these types, apart from very large or not finite numbers, are JSON.
_JSON = (str, bool, type(None), int, float, list, dict)
_BUILTIN_CLASSES = (
    *(str, int, float, complex, bytes, bytearray, list, tuple, dict, set, frozenset),
)


class Types:
    """The types that a state may hold besides plain JSON.

    Built in: datetime, date, time, timedelta, timezone, ZoneInfo, UUID, Decimal,
    Fraction, complex, Path, PurePosixPath, PureWindowsPath, bytes, bytearray, set,
    frozenset, tuple, NaN and infinities, integers of any size, dicts with any keys, and
    arrays and scalars of NumPy.  `add` and `register` add the program's own.

    A value is stored by its exact type, never by that of a base class.
    """

    def __init__(self) -> None:
        self._by_class = dict(BUILT_IN)
        self._by_name = {kind.name: kind for kind in (*BUILT_IN.values(), *NUMPY)}

    def add(self, *classes: type[Any], name: str | None = None) -> None:
        """Register dataclasses, named tuples, enums and pydantic models.

        Args:
            classes: the classes; each is registered without its subclasses.
            name: stored with each value of the only class; by default its module and
                qualified name.  It must never change while such values are stored.

        Raises:
            InvalidArgument: a class is none of these, or extends a built-in container,
                number or text; a class or its name is registered already; or `name` is
                given for several classes.
        """
        if name is not None and len(classes) != 1:
            raise InvalidArgument(f"one class can be named {name!r}: {len(classes)}")
        for cls in classes:
            _check_class(cls)
            usual = f"{cls.__module__}.{cls.__qualname__}"
            self.register(cls, name or usual, *self._how(cls, usual))

    def _how(self, cls: type[Any], usual: str) -> tuple[Callable[..., Any], ...]:
        if issubclass(cls, Enum):
            return operator.attrgetter("value"), cls, operator.is_
        if issubclass(cls, tuple) and hasattr(cls, "_make"):
            return list, cls._make, self._has_same_items
        if not issubclass(cls, _BUILTIN_CLASSES):
            if dataclasses.is_dataclass(cls):
                fields = dataclasses.fields(cls)
                later = [field.name for field in fields if not field.init]
                dump = partial(_fields_of, [field.name for field in fields])
                load = partial(_rebuilt_dataclass, cls, later)
                return dump, load, self._has_same_attributes
            if callable(getattr(cls, "model_dump", None)):
                return (
                    operator.methodcaller("model_dump", **_DUMP),
                    partial(cls.model_validate, by_alias=False, by_name=True),
                    self._has_same_attributes,
                )
        raise InvalidArgument(
            f"{usual} is no dataclass, named tuple, enum or pydantic model",
            hint="register it with functions that store and rebuild it",
        )

    def register(
        self,
        kind: type[Any],
        name: str,
        to_parts: Callable[[Any], Any],
        from_parts: Callable[[Any], Any],
        is_same: Callable[[Any, Any], object] = operator.eq,
    ) -> None:
        """Register a type: only its own values, not those of subclasses.

        Args:
            kind: the type.
            name: stored with each value.  It must never change while such values are
                stored.
            to_parts: returns what is stored, of plain or registered values.
            from_parts: rebuilds a value from a copy of that.
            is_same: compares a value with the rebuilt one before each save.

        Raises:
            InvalidArgument: `kind` is no class or `name` no string; or one of them is
                registered already; or the type is plain JSON.
        """
        _check_class(kind)
        if not isinstance(name, str):
            raise InvalidArgument(f"name must be a string, got {name!r:.60}")
        if kind in _JSON or kind in self._by_class or name in self._by_name:
            raise InvalidArgument(f"{name!r} ({kind.__name__}) is registered already")
        made = Kind(name, to_parts, from_parts, is_same)
        self._by_name[name] = self._by_class[kind] = made

    def encode(self, value: object) -> Any:
        """Return `value` as plain JSON that `decode` turns into an equal value.

        What is plain JSON already is not copied.  No other thread may change `value`
        meanwhile.

        Raises:
            InvalidState: a value has an unregistered type, would not come back equal,
                nests too deep or contains itself; names the path.
        """
        try:
            return self._encode(value, None, 1)
        except RuntimeError as exc:  # too deep for the stack; or a dict that changed
            raise InvalidState("$", f"it cannot be encoded: {exc}") from exc

    def is_plain(self, value: Any, raw: bytes) -> bool:
        """Return whether a value needs no encoding, if `raw` reads back equal to it.

        Args:
            value: a list or a dict.
            raw: its JSON; `orjson` refused subclasses.

        Raises:
            ValueError: it needs one.
        """
        marshal.dumps(value)  # refuses enums, which are JSON for orjson
        return _TAG not in raw

    def decode(self, value: Any) -> Any:
        """Return a value equal to the one that was encoded as `value`.

        Raises:
            UnreadableState: it has a type that is not registered, or is malformed, or
                its class refuses it; names the path.
        """
        try:
            return self._decode(value, None)
        except RecursionError as exc:
            raise UnreadableState(f"$: it cannot be decoded: {exc}") from exc

    def _encode(  # noqa: PLR0911 - one return per kind of value, like a table
        self, value: Any, where: _Where, depth: int
    ) -> Any:
        kind = type(value)
        if kind is str or kind is bool or value is None:
            return value
        if kind is int and INT_MIN <= value <= INT_MAX:
            return value
        if kind is float and math.isfinite(value):
            return value
        if (kind is list or kind is dict) and self._is_json(value):
            return value
        if depth > DEPTH_LIMIT:
            deep = f"it nests deeper than {DEPTH_LIMIT} levels, or contains itself"
            raise StateTooLarge(_path(where)[:60], deep)
        if kind is list:
            return [
                self._encode(item, (where, n), depth + 1)
                for n, item in enumerate(value)
            ]
        if kind is dict and TAG not in value and {str}.issuperset(map(type, value)):
            return {
                key: self._encode(item, (where, key), depth + 1)
                for key, item in value.items()
            }
        known = self._by_class.get(kind) or numpy_kind(kind)
        if known is None:
            hint = "register its type, or store plain values"
            why = f"type {kind.__name__!r} is not registered"
            raise InvalidState(_path(where), why, hint=hint)
        return self._tagged(known, value, where, depth)

    def _is_json(self, value: Any) -> bool:
        """Return whether a list or a dict is plain JSON without tags, at C speed."""
        try:
            raw = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
            is_plain = self.is_plain(value, raw)
        except (TypeError, ValueError):
            return False
        return is_plain and bool(orjson.loads(raw) == value)

    def _tagged(self, known: Kind, value: Any, where: _Where, depth: int) -> Any:
        try:
            parts = known.to_parts(value)
        except Exception as exc:  # of a class of the program
            why = f"a value of type {known.name!r} cannot be stored: {_text(exc)}"
            raise InvalidState(_path(where), why) from exc
        if type(value) is dict:  # the way to an item is its key
            encoded: Any = [
                [self._encode(part, (where, key), depth + 2) for part in (key, item)]
                for key, item in parts
            ]
        else:
            encoded = self._encode(parts, where, depth + 1)
        if type(value) in (set, frozenset):
            with suppress(TypeError):  # text that UTF-8 cannot represent
                encoded.sort(key=orjson.dumps)  # the same order in every process
        if known.is_same is not None:
            self._check(known, value, encoded, where)
        return {TAG: known.name, "value": encoded}

    def _check(self, known: Kind, value: Any, encoded: Any, where: _Where) -> None:
        why = f"a value of type {known.name!r} would not come back equal"
        hint = "register its type with functions that keep all of it"
        try:
            is_same = self._is_same(
                value, known.from_parts(self._decode(encoded, where))
            )
        except Exception as exc:  # of a class of the program
            why = f"{why}: {_text(exc)}"
            raise InvalidState(_path(where), why, hint=hint) from exc
        if not is_same:
            raise InvalidState(_path(where), why, hint=hint)

    def _decode(self, value: Any, where: _Where) -> Any:
        kind = type(value)
        if kind is not list and kind is not dict:
            return value
        if kind is dict and TAG in value:
            return self._rebuilt(value, where)
        with suppress(TypeError):  # text that UTF-8 cannot represent
            if _TAG not in (raw := orjson.dumps(value)):
                return orjson.loads(raw)
        if kind is list:
            return [self._decode(item, (where, n)) for n, item in enumerate(value)]
        return {key: self._decode(item, (where, key)) for key, item in value.items()}

    def _rebuilt(self, value: dict[str, Any], where: _Where) -> Any:
        name = value[TAG]
        known = self._by_name.get(name) if type(name) is str else None
        if known is None or value.keys() != _FORM:
            raise UnreadableState(
                f"{_path(where)}: type {name!r:.80} is not registered, or malformed",
                hint="register the type before reading, or read without types",
            )
        parts = self._decode(value["value"], where)
        try:
            return known.from_parts(parts)
        except Exception as exc:  # of a class of the program
            why = f"a value of type {name!r} cannot be rebuilt: {_text(exc)}"
            raise UnreadableState(f"{_path(where)}: {why}") from exc

    # -- comparison --------------------------------------------------------------------

    def _is_same(  # noqa: PLR0911 - one return per kind of value, like a table
        self, value: Any, copy: Any
    ) -> bool:
        """Return whether two values are equal and of one type, and so are their parts.

        Unlike with ``==``, NaN is the same as NaN, and 0.0 is not -0.0.
        """
        kind = type(value)
        if type(copy) is not kind:
            return False
        if kind is str or kind is int or value is copy:
            return bool(value == copy)
        if kind is list:
            return self._has_same_items(value, copy)
        if kind is dict:
            return value.keys() == copy.keys() and all(
                self._is_same(item, copy[key]) for key, item in value.items()
            )
        known = self._by_class.get(kind) or numpy_kind(kind)
        if known is not None and known.is_same is not None:
            return bool(known.is_same(value, copy))
        if known is not None and kind not in (set, frozenset):
            return self._is_same(known.to_parts(value), known.to_parts(copy))
        if dataclasses.is_dataclass(kind) or hasattr(kind, "model_dump"):
            return self._has_same_attributes(value, copy)
        return bool(value == copy)

    def _has_same_items(self, value: Any, copy: Any) -> bool:
        return len(value) == len(copy) and all(map(self._is_same, value, copy))

    def _has_same_attributes(self, value: Any, copy: Any) -> bool:
        return self._is_same(_attributes(value), _attributes(copy))


def _check_class(cls: object) -> None:
    if not isinstance(cls, type):
        raise InvalidArgument(f"a class is needed, got {cls!r:.60}")


def _path(where: _Where) -> str:
    parts: list[str] = []
    while where is not None:
        where, key = where
        if type(key) is int:
            parts.append(f"[{key}]")
        else:
            is_name = isinstance(key, str) and key.isprintable()
            parts.append(f".{key}" if is_name else f".{key!r:.60}")
    return "".join(["$", *reversed(parts)])


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


_DUMP = {"round_trip": True, "by_alias": False, "warnings": False}


def _fields_of(names: list[str], value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _rebuilt_dataclass(cls: type[Any], later: list[str], parts: dict[str, Any]) -> Any:
    afterwards = {name: parts.pop(name) for name in later if name in parts}
    made = cls(**parts)
    for name, part in afterwards.items():
        object.__setattr__(made, name, part)  # it may be frozen
    return made


def _attributes(value: Any) -> dict[str, Any]:
    """Return what a dataclass or a model consists of, without cached properties."""
    cls, found = type(value), {**getattr(value, "__dict__", {})}
    is_model = hasattr(cls, "model_dump")
    fields = cls.model_fields if is_model else cls.__dataclass_fields__
    for name in found.keys() - fields.keys():
        if isinstance(getattr(cls, name, None), cached_property):
            del found[name]
    beside = ("__pydantic_extra__", "__pydantic_private__") if is_model else fields
    for name in beside:
        if name not in found and hasattr(value, name):
            found[name] = getattr(value, name)
    return found


class _AsStored(Types):
    def is_plain(self, *_: object) -> bool:
        return True

    def encode(self, value: object) -> Any:
        return value

    def decode(self, value: Any) -> Any:
        return value


#: For a manager with types: the plain JSON that is stored, with its tags.
AS_STORED: Types = _AsStored()
