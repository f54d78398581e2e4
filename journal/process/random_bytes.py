"""Random bytes, drawn from the operating system a page at a time.

A save needs a salt and a few digits for an id.  Asking for each costs a system call, in
which another thread takes the interpreter: a seventh of a save's time where 32 threads
save to one job.
"""

from __future__ import annotations

import os

_PAGE_BYTES = 4096
_CHUNK_BYTES = 16
_chunks: list[bytes] = []


def draw(size: int) -> bytes:
    """Return `size` random bytes, 1 to 16, that nothing else was or will be given.

    Fit for secrets, as `os.urandom` is.  Safe for threads and after a fork; a copy of a
    running machine (a snapshot started twice) would draw the same ones again, up to a
    page, so what must never repeat (`milepost.journal.crypto.aes_gcm`) asks the system itself.
    """
    assert 0 < size <= _CHUNK_BYTES
    while True:
        try:
            return _chunks.pop()[:size]  # one step, for all that threads can see
        except IndexError:
            page = os.urandom(_PAGE_BYTES)
            _chunks.extend(
                page[start : start + _CHUNK_BYTES]
                for start in reversed(range(0, _PAGE_BYTES, _CHUNK_BYTES))
            )


def forget() -> None:
    """Throw away what was not given out yet."""
    _chunks.clear()


# A child that shared the rest of the page would give out what its parent does.
os.register_at_fork(after_in_child=forget)
