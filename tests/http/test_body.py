"""Bodies are measured before they are parsed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.api.http.security.body import BodyLimits, Refused, check_shape

LIMITS = BodyLimits(depth=5, keys=6)


def verdict(raw: bytes, limits: BodyLimits = LIMITS) -> tuple[int, str] | None:
    try:
        check_shape(raw, limits)
    except Refused as refused:
        return refused.status, refused.code
    return None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"[[[[[]]]]]", None),
        (b"[[[[[[]]]]]]", (422, "too_deep")),
        (b'{"a":{"b":{"c":[[1]]}}}', None),
        (b'{"a":{"b":{"c":[[{}]]}}}', (422, "too_deep")),
        (b"[[]]" * 50, None),
        (b"[" * 100_000, (422, "too_deep")),
        (b'{"a":' * 100_000, (422, "too_deep")),
        (b'"[[[[[[[["', None),
        (rb'"\"[[[[[[[["', None),
        (rb'"\\"[[[[[[', (422, "too_deep")),
        (b'"[[[[[[[[', None),
        (b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}', None),
        (b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7}', (413, "too_many_keys")),
        (b'{"a":"::::::::::::"}', None),
        (b"[" + b"9" * 1000 + b"]", None),
        (b"[" + b"9" * 1001 + b"]", (422, "invalid_json")),
        (b'"' + b"9" * 5000 + b'"', None),
        (b'{"a":"\xff"}', (422, "invalid_json")),
        (b'{"a":"\xed\xa0\x80"}', (422, "invalid_json")),
        ('{"a":[[[[[[1]]]]]]}'.encode("utf-16"), (422, "invalid_json")),
        ('{"a":1}'.encode("utf-16-le"), (422, "invalid_json")),
        (b"not json at all", None),
        (b"", None),
    ],
)
def test_a_body_is_judged_by_its_shape(
    raw: bytes, expected: tuple[int, str] | None
) -> None:
    assert verdict(raw) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def keys_of(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(keys_of, value.values()))
    return sum(map(keys_of, value)) if isinstance(value, list) else 0


@given(value=JSON, is_ascii=st.booleans())
def test_depth_and_keys_are_counted_as_a_parser_would(
    value: object, is_ascii: bool
) -> None:
    raw = json.dumps(value, ensure_ascii=is_ascii).encode()
    depth, keys = depth_of(value), keys_of(value)
    assert verdict(raw, BodyLimits(depth=depth, keys=keys)) is None
    if depth:
        assert verdict(raw, BodyLimits(depth=depth - 1, keys=keys)) is not None
    if keys:
        assert verdict(raw, BodyLimits(depth=depth, keys=keys - 1)) is not None


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "raw",
    [b'"' + rb"\"" * 500_000, b"\\" * 1_000_000, rb'"\\' * 300_000, b'"a' * 500_000],
    ids=["escaped quotes", "backslashes", "escapes", "quotes"],
)
def test_no_body_takes_more_than_one_pass(raw: bytes) -> None:
    # Quadratic matching would take hours here, and the test's time limit ends it.
    assert verdict(raw) is None
