"""Arrays and scalars of NumPy come back bit by bit, or are refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis.extra import numpy as of_numpy
from numpy.dtypes import StringDType

from milepost import CheckpointManager, MemoryStorage, Types
from milepost.journal.errors import InvalidState, UnreadableState

RECORD = np.dtype([("a", "<i4"), ("b", ">f8"), ("c", "U3"), ("d", "i2", (2,))])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8"), ("in", RECORD)], align=True)
ARRAYS: list[Any] = [
    *(np.array(1.5), np.zeros((0, 3)), np.zeros((2, 0), "U5"), np.array("")),
    *(np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(10)[::2]),
    *(np.arange(6).reshape(2, 3).T, np.arange(6)[::-1], np.broadcast_to(1, (2, 2))),
    *(np.array([True, False]), np.array([1, 2], ">i4"), np.array([1j], "F")),
    *(np.array(["2026-01-01", "NaT"], "M8[ns]"), np.array([1, 2], "m8[25us]")),
    *(np.array(["a", "bcd"]), np.array([b"a\0"]), np.zeros(2, "V3")),
    *(np.array([1.1], "g"), np.zeros(2, np.longlong), np.array([np.nan, -0.0], "f2")),
    *(np.array([(1, 2.0, "a", [1, 2])], RECORD), np.zeros((2, 2), ALIGNED)),
]
SCALARS: list[Any] = [
    *(
        np.float16(2),
        np.float32(1.1),
        np.float64(1.5),
        np.float64(np.nan),
        np.longdouble("1.1"),
    ),
    *(np.int8(-1), np.uint64(2**64 - 1), np.bool_(True), np.complex64(1 + 2j)),
    *(np.complex128(complex(np.nan, -0.0)), np.str_("ø"), np.bytes_(b"a")),
    *(np.datetime64("2026-01-01"), np.datetime64("NaT", "ns"), np.timedelta64(5)),
    *(np.timedelta64(5, "m"), np.void(b"ab"), ARRAYS[-2][0]),
]


def stored_and_back(value: Any) -> Any:
    with CheckpointManager(storage=MemoryStorage(), types=Types()) as manager:
        saved = manager.save("job", "step", {"a": value})
        return manager.restore("job", saved)["a"]


def check_array(array: Any) -> None:
    back = stored_and_back(array)
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable
    if array.flags.contiguous or array.flags.f_contiguous:
        assert back.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}"[:40])
def test_an_array_comes_back_bit_by_bit(array: Any) -> None:
    check_array(array)


@given(
    of_numpy.arrays(
        of_numpy.scalar_dtypes() | of_numpy.array_dtypes(),
        of_numpy.array_shapes(min_dims=0, min_side=0, max_side=3),
    )
)
def test_an_array_of_any_dtype_and_shape_comes_back_bit_by_bit(array: Any) -> None:
    check_array(array)


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_a_scalar_comes_back_equal_and_of_its_type(scalar: Any) -> None:
    back = stored_and_back({"x": [scalar]})["x"][0]
    assert (type(back), back.dtype) == (type(scalar), scalar.dtype)
    assert back == scalar or back.tobytes() == scalar.tobytes()


def test_scalars_are_readable_where_they_are_stored() -> None:
    assert Types().encode([np.float32(1.5), np.bool_(True)]) == [
        {"$milepost": "numpy.scalar", "value": ["<f4", 1.5]},
        {"$milepost": "numpy.scalar", "value": ["|b1", True]},
    ]


class Reals(np.ndarray[Any, Any]):
    pass


@pytest.mark.parametrize(
    "value",
    [
        *(np.array([object()]), np.array([{}], dtype=object), np.zeros(1, "i4,O")),
        *(
            np.array(["a"], dtype=StringDType()),
            np.ma.array([1]),
            np.zeros(2).view(Reals),
        ),
        *(np.rec.array([(1,)], dtype=[("a", "i4")]), np.longlong(5), np.bytes_(b"a\0")),
        np.zeros(2, dtype=(np.record, [("a", "i4")])),
        np.rec.array([(1,)], dtype=[("a", "i4")])[0],
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_would_come_back_otherwise_is_refused_with_its_path(value: Any) -> None:
    with pytest.raises(InvalidState, match=r"^\$\.a\[0\]: ") as refused:
        Types().encode({"a": [value]})
    assert refused.value.path == "$.a[0]"


GOOD = orjson.loads(orjson.dumps(Types().encode(np.arange(3, dtype="i4"))))["value"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"shape": [4]}, {"shape": [2]}, {"shape": [-2]}, {"shape": [2**62, 2**62]}),
        *(
            {"dtype": "O"},
            {"dtype": [("a", "O")], "shape": [0]},
            {"dtype": "what"},
            {"order": "Q"},
            {"data": 5},
            {"more": 1},
        ),
    ],
    ids=str,
)
def test_a_malformed_array_is_unreadable(wrong: Any) -> None:
    with pytest.raises(UnreadableState, match=r"^\$\.a: .*'numpy.ndarray' cannot be"):
        Types().decode({"a": {"$milepost": "numpy.ndarray", "value": GOOD | wrong}})


@pytest.mark.parametrize("wrong", [["O", 1], ["<f4", {}], ["what", 1], [1], 5, {}])
def test_a_malformed_scalar_is_unreadable(wrong: Any) -> None:
    with pytest.raises(UnreadableState, match=r"^\$: .*'numpy.scalar' cannot be"):
        Types().decode({"$milepost": "numpy.scalar", "value": wrong})


def test_without_numpy_an_array_is_unreadable_and_all_else_works() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from milepost import Types\n"
        "print(Types().decode(Types().encode({'a': (1, {2})})))\n"
        "try: Types().decode({'$milepost': 'numpy.scalar', 'value': ['<f4', 1.5]})\n"
        "except ValueError as exc: print(exc)\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "{'a': (1, {2})}"
    assert second.startswith(
        "$: a value of type 'numpy.scalar' cannot be rebuilt: ModuleNotFoundError"
    )
