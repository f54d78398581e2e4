"""Python's garbage collector, put to rest while much is built that stays.

It would walk every new entry of an index again and again: of 10,000 jobs with 100
checkpoints each, folding took nearly twice as long.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_guard = threading.Lock()
_resting = 0


@contextmanager
def at_rest() -> Iterator[None]:
    """Let the collector rest until the last of those who asked for it is through.

    If somebody else has switched it off, it stays off.
    """
    global _resting  # noqa: PLW0603 - the collector is one for the process
    with _guard:
        if _resting or gc.isenabled():
            _resting += 1
            is_counted = True
            gc.disable()
        else:
            is_counted = False
    try:
        yield
    finally:
        if is_counted:
            with _guard:
                _resting -= 1
                if not _resting:
                    gc.enable()
