"""Limits on request bodies, checked on the bytes before any parser runs.

A parser that recurses, or that builds a million objects, does the harm before it
reports an error.  All checks here are linear and run at C speed.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import NamedTuple

# A string matches with or without its closing quote: a match that could fail at the end
# would be retried from every quote before it, in quadratic time.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_LONG_NUMBER = re.compile(rb"[0-9]{1001}")
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"[]{}")
_STEP = [(b in b"[{") - (b in b"]}") for b in range(256)]


class BodyLimits(NamedTuple):
    """How large, deep and slow a request body may be.

    Attributes:
        size_bytes: of the body as it arrives.
        depth: of nested arrays and objects, the body itself being one.
        keys: of all objects together; a key costs far more memory than its bytes.
        timeout_seconds: from the wait for the first byte to the last byte.
    """

    size_bytes: int = 1024 * 1024
    depth: int = 208
    keys: int = 250_000
    timeout_seconds: float = 30.0


class Refused(Exception):
    """A request is refused before a handler runs."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


def check_shape(raw: bytes, limits: BodyLimits) -> None:
    """Check that `raw` can be parsed safely; it may still be invalid JSON.

    Raises:
        Refused: 422 for invalid UTF-8, for too deep nesting and for a number of more
            than 1,000 digits; 413 for too many keys.
    """
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        raise Refused(
            422, "invalid_json", f"body: byte {exc.start} is not valid UTF-8"
        ) from exc
    if b"\0" in raw:
        # JSON has no raw NUL; UTF-16 has many, and the parser would decode it.
        raise Refused(422, "invalid_json", "body: must be JSON in UTF-8")
    bare = _STRING.sub(b"", raw)
    brackets = bare.translate(None, _NOT_BRACKETS)
    depth = max(accumulate(map(_STEP.__getitem__, brackets)), default=0)
    if depth > limits.depth:
        raise Refused(
            422,
            "too_deep",
            f"body: nested {depth} levels deep, at most {limits.depth} are allowed",
        )
    keys = bare.count(b":")
    if keys > limits.keys:
        raise Refused(
            413,
            "too_many_keys",
            f"body: has {keys} keys, at most {limits.keys} are allowed",
        )
    if _LONG_NUMBER.search(bare):
        raise Refused(
            422, "invalid_json", "body: has a number of more than 1000 digits"
        )
