"""Cache of first answers for repeated requests, by `Idempotency-Key`.

A client that lost an answer repeats its request.  The repeat gets the first answer and
has no second effect.  Saves do not use this cache: their keys are journaled and survive
a restart of the server.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import Conflict, InvalidArgument, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_KEY_CHARACTERS = 255


class Answer(NamedTuple):
    """An answer as it was sent."""

    body: bytes
    headers: Mapping[str, str]


class _Slot:
    """One key: the digest of its request, and the answer once it is known."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.is_done = threading.Event()
        self.answer: Answer | None = None


class AnswerCache:
    """Runs a request once per key.  Thread-safe; bounded in answers and in bytes.

    The oldest answers are evicted first; the newest always stays.  Only successes are
    kept: a failed request changed nothing, so a retry may succeed.
    """

    def __init__(
        self,
        *,
        answers_max: int = 1024,
        size_bytes_max: int = 64 * 1024 * 1024,
        wait_seconds: float = 30.0,
    ) -> None:
        self._answers_max = answers_max
        self._size_bytes_max = size_bytes_max
        self._wait_seconds = wait_seconds
        self._slots: OrderedDict[tuple[str, ...], _Slot] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def once(
        self, key: tuple[str, ...], digest: bytes, compute: Callable[[], Answer]
    ) -> Answer:
        """Return the first answer to `key`; only the first caller runs `compute`.

        Concurrent callers wait for the first; if it fails, one of them takes its place.

        Raises:
            Conflict: the key was used with another `digest`.
            LockTimeout: the first caller did not finish within the wait limit.
        """
        slot = self._take(key, digest)
        if slot.answer is not None:
            return slot.answer
        try:
            answer = compute()
        except BaseException:
            with self._lock:
                del self._slots[key]
            slot.is_done.set()
            raise
        # A copy: orjson's result keeps a buffer about ten times as large alive.
        answer = answer._replace(body=bytes(memoryview(answer.body)))
        with self._lock:
            slot.answer = answer
            self._size_bytes += len(answer.body)
            self._slots.move_to_end(key)
            self._shrink()
        slot.is_done.set()
        return answer

    def _take(self, key: tuple[str, ...], digest: bytes) -> _Slot:
        """Return a slot with its answer, or a new one that the caller must fill."""
        while True:
            with self._lock:
                slot = self._slots.get(key)
                if slot is None:
                    slot = self._slots[key] = _Slot(digest)
                    return slot
            if slot.digest != digest:
                raise Conflict(
                    f"Idempotency-Key {key[-1]!r} was used for another request"
                )
            if not slot.is_done.wait(self._wait_seconds):
                raise LockTimeout(
                    f"the first request with Idempotency-Key {key[-1]!r} is still "
                    "in progress"
                )
            if slot.answer is not None:
                return slot

    def _shrink(self) -> None:
        done = [k for k, slot in self._slots.items() if slot.answer is not None]
        for key in done[:-1]:
            if (
                len(self._slots) <= self._answers_max
                and self._size_bytes <= self._size_bytes_max
            ):
                return
            answer = self._slots.pop(key).answer
            assert answer is not None
            self._size_bytes -= len(answer.body)


def check_key(key: str | None) -> str | None:
    """Return `key` if it can be an `Idempotency-Key`.

    Raises:
        InvalidArgument: it is empty, over 255 characters, or not printable ASCII.
    """
    if key is None or (
        1 <= len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()
    ):
        return key
    raise InvalidArgument(
        f"Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} printable ASCII "
        f"characters, got {key[:60]!r}"
    )
