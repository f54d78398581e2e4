"""The file that holds a store's keys: private, and replaced whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from journal.errors import UnusableKeys

_HEADER = (
    "# Keys of a Milepost store, the current one first (docs/encryption.md).\n"
    "# Keep a copy elsewhere: what they encrypt is lost without them.\n"
)
_MAX_BYTES = 256 * 1024
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read(path: str | Path) -> str:
    """Return the text of a key file.

    Raises:
        UnusableKeys: it cannot be read, is no file, or others may read it.
    """
    try:
        # A FIFO would block for ever; what the descriptor is, is checked below.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            _check(path, os.fstat(file.fileno()))
            raw = file.read(_MAX_BYTES + 1)
    except OSError as exc:
        raise UnusableKeys(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(raw) > _MAX_BYTES:
        raise UnusableKeys(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        # Not chained: that error carries the bytes.
        raise UnusableKeys(f"{path}: not plain ASCII text") from None


def _check(path: str | Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnusableKeys(f"{path}: not a file")
    if found.st_uid not in (os.geteuid(), 0):
        raise UnusableKeys(f"{path}: belongs to another user (uid {found.st_uid})")
    if found.st_mode & _FOR_OTHERS:
        raise UnusableKeys(
            f"{path}: others may use it (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod 600 {path}",
        )


def write(path: Path, text: str, *, replace: bool) -> None:
    """Make `text` the content of a key file, durable, readable by its owner only.

    Args:
        path: where.
        text: as `KeyRing.to_text` gives it.
        replace: whether a file may be there already.

    Raises:
        UnusableKeys: it is there and must not be, or it cannot be written; then what
            was there is as it was.
    """
    if replace:
        path = path.resolve()  # replace what a link points to, not the link
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            try:
                file.write((_HEADER + text).encode())
                file.flush()
                os.fsync(file.fileno())
                _put_in_place(temporary, path, replace=replace)
            finally:
                temporary.unlink(missing_ok=True)
    except FileExistsError as exc:
        raise UnusableKeys(
            f"{exc.filename2 or exc.filename}: is there already",
            hint="`milepost keys rotate` adds a key to it",
        ) from exc
    except OSError as exc:
        raise UnusableKeys(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def _put_in_place(temporary: Path, path: Path, *, replace: bool) -> None:
    if replace:
        temporary.replace(path)
    else:
        os.link(temporary, path)  # unlike a rename, it never replaces
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
