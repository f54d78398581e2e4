"""The fields that events share."""

from __future__ import annotations

import sys
from typing import NotRequired

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic rejects the standard library's TypedDict before 3.12
    from typing_extensions import TypedDict


class Envelope(TypedDict):
    """The fields that all events share.

    `seq` is 1..n without gaps per job; `at` is informative, never an order; `span` is
    the first and last seq of the write, if it contains several events.
    """

    v: int
    seq: int
    at: str
    actor: str
    span: NotRequired[list[int]]
    hash: str


class StatefulData(TypedDict):
    """The fields that describe a state, in an event of any type.

    `state_digest` is the salted digest of metadata and state, `state_bytes` the length
    of the state (FORMAT.md).  `state_type` is set if the state is not JSON.
    """

    state_digest: str
    state_bytes: int
    state_type: NotRequired[str]


class RequestData(TypedDict):
    """The idempotency key of the request that an event carried out, if it had one.

    `request_digest` is a digest of the call and its arguments: another request with the
    same key is refused.
    """

    idempotency_key: NotRequired[str]
    request_digest: NotRequired[str]
