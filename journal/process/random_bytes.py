"""Random bytes, read from the operating system one page at a time.

A save needs a salt and a few digits for an id.  A system call for each lets other
threads take the interpreter: a seventh of a save's time with 32 threads on one job.
"""

from __future__ import annotations

import os

_PAGE_BYTES = 4096
_CHUNK_BYTES = 16
_chunks: list[bytes] = []


def draw(size: int) -> bytes:
    """Return `size` random bytes, 1 to 16, that are never returned again.

    Fit for secrets, as `os.urandom` is.  Safe for threads and after a fork.  Two
    machines started from one snapshot draw the same bytes, up to a page; values that
    must never repeat (`milepost.journal.crypto.aes_gcm`) use `os.urandom` directly.
    """
    assert 0 < size <= _CHUNK_BYTES
    while True:
        try:
            return _chunks.pop()[:size]  # atomic for other threads
        except IndexError:
            page = os.urandom(_PAGE_BYTES)
            _chunks.extend(
                page[start : start + _CHUNK_BYTES]
                for start in reversed(range(0, _PAGE_BYTES, _CHUNK_BYTES))
            )


def forget() -> None:
    """Discard the bytes that are not used yet."""
    _chunks.clear()


# A child that shares the rest of the page would return the same bytes as its parent.
os.register_at_fork(after_in_child=forget)
