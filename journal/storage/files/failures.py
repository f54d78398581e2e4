"""Errors of the operating system as errors of a store."""

from __future__ import annotations

import errno
from typing import NoReturn

from milepost.journal.errors import (
    MilepostError,
    NoSpace,
    ReadOnlyStore,
    StorageFailed,
)


def failure(exc: OSError, what: str) -> StorageFailed:
    """Return the error class and hint for `exc`."""
    reason = exc.strerror or str(exc)
    match exc.errno:
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return ReadOnlyStore(
                f"{what}: {reason}", hint="make the folder writable for this user"
            )
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return NoSpace(
                f"{what}: {reason}; nothing was written", hint="free some space"
            )
        case errno.ELOOP:
            return StorageFailed(f"{what}: refused, it is a symbolic link")
    return StorageFailed(f"{what}: {reason}")


def fail(exc: OSError, what: str) -> NoReturn:
    """Raise `exc` as the error of a store, or as it is if it is one already.

    Raises:
        StorageFailed: always, or another `MilepostError`.
    """
    try:
        if isinstance(exc, MilepostError):
            raise exc
        raise failure(exc, what) from exc
    finally:
        # A cycle of `exc` and this frame would keep files open and locked.
        del exc
