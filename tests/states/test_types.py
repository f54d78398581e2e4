"""Values that are not plain JSON come back equal, or are refused with their path."""

from __future__ import annotations

import enum
import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from milepost.journal import errors
from milepost.journal.states.types import Types


@dataclass
class Point:
    x: int
    when: datetime | None = None


class Pair(NamedTuple):
    left: int
    right: set[int]


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    at: datetime


NOW = datetime(2026, 11, 23, 5, 0, 0, 1, tzinfo=UTC)
VALUES: list[Any] = [
    *(None, True, 0, -1, 2**63, 2**64 - 1, 1.5, "ø", [], {}, {"a": [1, {"b": None}]}),
    *(2**64, -(2**70), math.inf, -math.inf),
    *(NOW, NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=-7)))),
    *(date(2026, 1, 2), time(1, 2, 3), timedelta(days=-1, microseconds=5)),
    *(uuid.UUID(int=7), Decimal("1.10"), Fraction(1, 3), 1 + 2j, Path("a/b")),
    *(b"\x00\xff", bytearray(b"ab"), {1, 2}, frozenset({"a"}), (), (1, (2, [3]))),
    *({1: "a", (1, 2): {3}}, {"$type": "datetime", "value": "x"}, {"$type": 5}),
    [Point(1, NOW), Pair(1, {2}), Colour.RED, Model(name="m", at=NOW)],
]


@pytest.fixture
def types() -> Types:
    made = Types()
    made.add(Point, Pair, Colour, Model)
    return made


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_equal_and_of_its_type(types: Types, value: Any) -> None:
    stored = json.loads(json.dumps(types.encode(value)))
    back = types.decode(stored)
    assert back == value
    assert type(back) is type(value)


def test_plain_json_is_stored_as_it_is(types: Types) -> None:
    plain = {"a": [1, 2.5, "x", None, True, {"b": {}}]}
    assert types.encode(plain) == plain


def test_not_a_number_comes_back(types: Types) -> None:
    back = types.decode(json.loads(json.dumps(types.encode({"loss": math.nan}))))
    assert math.isnan(back["loss"])


keys = st.text(max_size=4) | st.sampled_from(["$type", "value"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
leaves = scalars | st.text(max_size=5) | st.binary(max_size=5) | st.datetimes()
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@given(nested)
def test_any_nesting_comes_back_equal(value: Any) -> None:
    types = Types()
    assert types.decode(json.loads(json.dumps(types.encode(value)))) == value


class Odd:
    """A type that nobody registered."""


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, Odd()]}, r"^\$\.a\[1\]: a Odd is not registered"),
        ({"a": (1, Odd())}, r"^\$\.a\[1\]: a Odd is not registered"),
        ([Point(1)], r"^\$\[0\]: a Point is not registered"),
        (type("Text", (str,), {})("x"), r"^\$: a Text is not registered"),
    ],
)
def test_an_unregistered_type_is_named_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(errors.InvalidState, match=path):
        Types().encode(value)


def test_a_value_that_would_not_come_back_equal_is_refused() -> None:
    types = Types()
    types.register(Odd, "odd", lambda _: 1, lambda _: Odd())
    with pytest.raises(errors.InvalidState, match=r"^\$\.a: .* not come back equal"):
        types.encode({"a": Odd()})


@pytest.mark.parametrize(
    "stored",
    [
        {"$type": "os.system", "value": "x"},
        {"$type": 5, "value": "x"},
        {"$type": "datetime"},
        {"$type": "datetime", "value": "yesterday"},
        {"$type": "datetime", "value": {"$type": "set", "value": 5}},
    ],
    ids=str,
)
def test_what_cannot_be_rebuilt_is_unreadable(stored: Any) -> None:
    with pytest.raises(errors.UnreadableState):
        Types().decode(stored)


def test_a_type_is_registered_once() -> None:
    types = Types()
    with pytest.raises(errors.InvalidArgument, match="registered twice"):
        types.register(datetime, "other", str, str)
    with pytest.raises(errors.InvalidArgument, match="is no dataclass"):
        types.add(Odd)


def test_arrays_of_numpy_come_back_bit_by_bit() -> None:
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    arrays = [
        numpy.arange(6, dtype="<i4").reshape(2, 3).T,
        numpy.array([numpy.nan, -0.0, numpy.inf], dtype="float32"),
        numpy.zeros((0, 3)),
        numpy.array(["a", "bc"]),
    ]
    types = Types()
    for array in arrays:
        back = types.decode(json.loads(json.dumps(types.encode({"w": array}))))["w"]
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.tobytes() == array.tobytes()
        assert back.flags.writeable
    for scalar in (numpy.float32(1.5), numpy.int64(7), numpy.bool_(True)):
        back = types.decode(json.loads(json.dumps(types.encode([scalar]))))[0]
        assert (type(back), back) == (type(scalar), scalar)
