"""JSON answers, written by orjson, and the one shape of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class JsonAnswer(Response):
    """An answer that orjson alone encodes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # whatever JSON can hold
        """Return `content` as JSON bytes."""
        return orjson.dumps(content)


def error_answer(
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] | None = None,
    details: Mapping[str, str | None] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JsonAnswer:
    """Return the answer of a failed request: ``detail`` is text, ``code`` is stable.

    ``errors`` is present only if fields are wrong, with one entry per field.  Some
    errors have ``details``: the values that ``detail`` mentions.
    """
    content: dict[str, Any] = {"detail": writable(detail), "code": code}
    if errors is not None:
        content["errors"] = errors
    if details:
        content["details"] = {k: v and writable(v) for k, v in details.items()}
    return JsonAnswer(content, status_code=status, headers=dict(headers or {}))


def writable(text: str) -> str:
    """Return `text` on one line, with unprintable characters escaped.

    Errors quote the request, and a lone surrogate in the quote would turn a 422 into a
    500.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def etag(seq: int) -> str:
    """Return the entity tag of a job whose last event is `seq`."""
    return f'"{seq}"'
