"""Values that are not plain JSON, in states: tagged when stored, rebuilt when read.

A tagged value is ``{"$type": name, "value": …}``.  The name is looked up in a registry
of the reader, and never imported.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import operator
import pathlib
import sys
import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.errors import InvalidArgument, InvalidState, UnreadableState

if TYPE_CHECKING:
    from collections.abc import Callable

TAG = "$type"
_PLAIN = (str, bool, type(None))


class _Kind(NamedTuple):
    """How values of one type are stored.

    Attributes:
        to_parts: returns what is stored: any value that the registry can encode.
        from_parts: rebuilds the value.
        is_same: compares two values of the type.
    """

    name: str
    to_parts: Callable[[Any], Any]
    from_parts: Callable[[Any], Any]
    is_same: Callable[[Any, Any], bool] = operator.eq


class Types:
    """The types that a state may hold besides plain JSON.

    Built in: datetime, date, time, timedelta, UUID, Decimal, Fraction, complex, Path,
    bytes, bytearray, set, frozenset, tuple, NaN and infinities, integers of any size,
    dicts with other keys than strings; and arrays and scalars of NumPy, if the program
    uses it.
    """

    def __init__(self) -> None:
        self._by_class: dict[type, _Kind] = {}
        self._by_name: dict[str, _Kind] = {}
        for kind, *how in _BUILT_IN:
            self.register(kind, *how)

    def register(
        self,
        kind: type[Any],
        name: str,
        to_parts: Callable[[Any], Any],
        from_parts: Callable[[Any], Any],
        is_same: Callable[[Any, Any], bool] = operator.eq,
    ) -> None:
        """Register a type: only its own values, not those of subclasses.

        Args:
            kind: the type.
            name: stored with each value; must never change.
            to_parts: returns what is stored, of plain or registered values.
            from_parts: rebuilds a value from it.
            is_same: compares two values.

        Raises:
            InvalidArgument: the name or the type is registered already.
        """
        if name in self._by_name or kind in self._by_class:
            raise InvalidArgument(f"{name!r} ({kind.__name__}) is registered twice")
        self._by_name[name] = self._by_class[kind] = _Kind(
            name, to_parts, from_parts, is_same
        )

    def add(self, *classes: type[Any]) -> None:
        """Register dataclasses, named tuples, enums and pydantic models by their names.

        Raises:
            InvalidArgument: a class is none of these, or is registered already.
        """
        for cls in classes:
            name = f"{cls.__module__}.{cls.__qualname__}"
            if dataclasses.is_dataclass(cls):
                names = [f.name for f in dataclasses.fields(cls)]
                self.register(cls, name, _fields_of(names), _from_fields(cls))
            elif issubclass(cls, Enum):
                self.register(cls, name, operator.attrgetter("value"), cls)
            elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
                self.register(cls, name, list, _from_items(cls))
            elif callable(dump := getattr(cls, "model_dump", None)):
                self.register(cls, name, dump, cls.model_validate)
            else:
                raise InvalidArgument(
                    f"{name} is no dataclass, named tuple, enum or pydantic model: "
                    "register it"
                )

    def encode(self, value: object) -> Any:
        """Return `value` as plain JSON that `decode` turns into an equal value.

        Raises:
            InvalidState: a value of an unregistered type, with its path; or one that
                would not come back equal.
        """
        encoded = self._encode(value, "$")
        self._check(value, self.decode(encoded), "$")
        return encoded

    def decode(self, value: Any) -> Any:
        """Return the value that was encoded as `value`.

        Raises:
            UnreadableState: it has a type that is not registered, or is malformed.
        """
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if TAG not in value:
            return {key: self.decode(item) for key, item in value.items()}
        kind = self._by_name.get(value[TAG]) if isinstance(value[TAG], str) else None
        if kind is None:
            raise UnreadableState(
                f"a value has type {value[TAG]!r:.80}, which is not registered",
                hint="register the type before reading",
            )
        try:
            return kind.from_parts(self.decode(value["value"]))
        except UnreadableState:
            raise
        except Exception as exc:  # whatever the user's class raises
            raise UnreadableState(
                f"a value of type {kind.name!r} cannot be rebuilt: {exc}"
            ) from exc

    def _encode(self, value: object, path: str) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int and -(2**63) <= value < 2**64:  # type: ignore[operator] # an int
            return value
        if kind is float and math.isfinite(value):  # type: ignore[arg-type] # a float
            return value
        if kind is list:
            return [self._encode(v, f"{path}[{n}]") for n, v in enumerate(value)]  # type: ignore[arg-type, var-annotated] # a list
        if kind is dict and TAG not in value and all(type(k) is str for k in value):  # type: ignore[operator, attr-defined] # a dict
            items = value.items()  # type: ignore[attr-defined] # a dict
            return {k: self._encode(v, f"{path}.{k}") for k, v in items}
        known = self._by_class.get(kind) or self._numpy(kind)
        if known is None:
            raise InvalidState(
                path,
                f"a {kind.__name__} is not registered",
                hint="register its type, or store plain values",
            )
        return {TAG: known.name, "value": self._encode(known.to_parts(value), path)}

    def _numpy(self, kind: type) -> _Kind | None:
        """Register NumPy's types on first use, if the program has imported NumPy."""
        numpy = sys.modules.get("numpy")
        if numpy is None or "numpy.ndarray" in self._by_name:
            return None
        self.register(
            numpy.ndarray, "numpy.ndarray", _array_parts, _array, _is_same_array
        )
        for name in _SCALARS:
            scalar = getattr(numpy, name, None)
            if scalar is not None and scalar not in self._by_class:
                self.register(
                    scalar,
                    f"numpy.{name}",
                    operator.methodcaller("item"),
                    scalar,
                    _is_same_scalar,
                )
        return self._by_class.get(kind)

    def _check(self, value: object, back: object, path: str) -> None:
        """Refuse a value that would not come back equal, with its path."""
        kind = type(value)
        if type(back) is kind and self._is_same(value, back, path):
            return
        raise InvalidState(path, f"a {kind.__name__} would not come back equal")

    def _is_same(self, value: Any, back: Any, path: str) -> bool:
        kind = type(value)
        if kind in (list, tuple):
            if len(value) == len(back):
                for n, (mine, theirs) in enumerate(zip(value, back, strict=True)):
                    self._check(mine, theirs, f"{path}[{n}]")
                return True
            return False
        if kind is dict:
            if value.keys() == back.keys():
                for key, mine in value.items():
                    self._check(mine, back[key], f"{path}.{key}")
                return True
            return False
        if kind is float and math.isnan(value):
            return math.isnan(back)
        known = self._by_class.get(kind)
        return bool((operator.eq if known is None else known.is_same)(value, back))


def _fields_of(names: list[str]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: getattr(value, name) for name in names}


def _from_fields(cls: type[Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda parts: cls(**parts)


def _from_items(cls: type[Any]) -> Callable[[list[Any]], Any]:
    return lambda parts: cls(*parts)


def _array_parts(array: Any) -> list[Any]:
    return [array.dtype.str, list(array.shape), array.tobytes(order="C")]


def _array(parts: list[Any]) -> Any:
    numpy: Any = sys.modules["numpy"] if "numpy" in sys.modules else _import_numpy()
    kind, shape, raw = parts
    # A copy, because an array over bytes is read-only.
    return numpy.frombuffer(raw, dtype=kind).reshape(shape).copy()


def _import_numpy() -> Any:
    from importlib import import_module

    return import_module("numpy")


def _is_same_array(value: Any, back: Any) -> bool:
    same_form = value.dtype == back.dtype and value.shape == back.shape
    return bool(same_form and value.tobytes() == back.tobytes())


def _is_same_scalar(value: Any, back: Any) -> bool:
    return bool(value == back or (value != value and back != back))  # noqa: PLR0124 - NaN


_SCALARS = (
    *("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", "float16", "float32", "float64", "complex64", "complex128"),
)


def _in_base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _complex_parts(value: complex) -> list[float]:
    return [value.real, value.imag]


def _span_parts(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_BUILT_IN: list[tuple[Any, ...]] = [
    (datetime, "datetime", datetime.isoformat, datetime.fromisoformat),
    (date, "date", date.isoformat, date.fromisoformat),
    (time, "time", time.isoformat, time.fromisoformat),
    (timedelta, "timedelta", _span_parts, lambda parts: timedelta(*parts)),
    (uuid.UUID, "uuid", str, uuid.UUID),
    (Decimal, "decimal", str, Decimal),
    (Fraction, "fraction", str, Fraction),
    (complex, "complex", _complex_parts, lambda parts: complex(*parts)),
    (type(pathlib.Path()), "path", str, pathlib.Path),
    (bytes, "bytes", _in_base64, base64.b64decode),
    (
        bytearray,
        "bytearray",
        _in_base64,
        lambda t: bytearray(base64.b64decode(t)),
    ),
    (set, "set", lambda value: sorted(value, key=repr), set),
    (frozenset, "frozenset", lambda value: sorted(value, key=repr), frozenset),
    (tuple, "tuple", list, tuple),
    (dict, "dict", lambda value: [[k, v] for k, v in value.items()], dict),
    (int, "int", str, int),
    (float, "float", repr, float),
]
