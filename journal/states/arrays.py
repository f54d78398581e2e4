"""Arrays and scalars of NumPy as parts that can be stored, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr

# Scalars of these dtypes are stored as numbers and text; all others as bytes.
_READABLE = "?bBhHiIlLqQefdFDUS"


def array_parts(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return dtype, shape, order and bytes of an array.

    Raises:
        TypeError: its dtype holds Python objects, or cannot be described.
    """
    dtype = _checked(array.dtype)
    described = dtype_to_descr(dtype)
    if descr_to_dtype(described) != dtype:
        raise TypeError(f"dtype {dtype} has no stored form")
    order: Any = "F" if array.flags.fnc else "C"
    return {
        "dtype": described,
        "shape": [*array.shape],
        "order": order,
        "data": array.tobytes(order),
    }


def array(dtype: Any, shape: Any, order: Any, data: bytes) -> np.ndarray[Any, Any]:
    """Return the array with these parts; it is writable.

    Raises:
        ValueError: `data` has another size.
    """
    memory = bytearray(data)
    made: np.ndarray[Any, Any] = np.ndarray(
        shape, descr_to_dtype(dtype), memory, order=order
    )
    if made.nbytes != len(memory):
        raise ValueError(f"{len(memory)} bytes for an array of {made.nbytes}")
    return made


def scalar_parts(value: np.generic) -> Any:
    """Return a scalar as its dtype and a plain value, or as an array without axes.

    Raises:
        TypeError: it has no stored form.
    """
    parts: Any = array_parts(np.asarray(value))
    if value.dtype.char in _READABLE:
        parts = [value.dtype.str, value.item()]
    back = scalar(parts)
    is_same = back == value or back.tobytes() == value.tobytes()
    if type(back) is not type(value) or back.dtype != value.dtype or not is_same:
        raise TypeError(f"a {type(value).__name__} {value!r} has no stored form")
    return parts


def scalar(parts: Any) -> Any:
    """Return the scalar with these parts."""
    if isinstance(parts, dict):
        return array(**parts)[()]
    dtype, plain = parts
    return _checked(np.dtype(dtype)).type(plain)


def _checked(dtype: Any) -> Any:
    if dtype.hasobject or issubclass(dtype.type, np.record):
        raise TypeError(f"dtype {dtype} has no stored form")
    return dtype
