"""The key file of a store: private to its owner, and replaced atomically."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from milepost.journal.disk import ownership
from milepost.journal.disk.copy_file import JournalCopy, remove_leftover
from milepost.journal.disk.disk import Busy, PosixDisk, PosixFile, within
from milepost.journal.errors import MilepostError, UnusableKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HEADER = (
    "# Keys of a Milepost store, the current one first (docs/encryption.md).\n"
    "# Keep a copy elsewhere: what they encrypt is lost without them.\n"
)
_MAX_BYTES = 256 * 1024
_FOR_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IXOTH
_LOCK_SECONDS = 10.0


def read(path: str | Path) -> str:
    """Return the text of a key file; symbolic links are followed.

    Raises:
        UnusableKeys: it cannot be read, is not a regular file, or is open to others.
    """
    try:
        file = PosixDisk(follows_links=True).open(Path(path), "read")
        try:
            return _text(path, file)
        finally:
            file.close()
    except OSError as exc:
        raise _unusable(path, "cannot be read", exc) from exc


def _text(path: str | Path, file: PosixFile) -> str:
    _check(path, file)
    raw = file.read(0, _MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise UnusableKeys(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        # Not chained: that error contains the key bytes.
        raise UnusableKeys(f"{path}: not plain ASCII text") from None


def _check(path: str | Path, file: PosixFile) -> None:
    found = file.status()
    mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
    hint = f"chmod 600 {path}"
    if found.st_uid not in (os.geteuid(), 0):
        raise UnusableKeys(f"{path}: belongs to another user (uid {found.st_uid})")
    if found.st_mode & _FOR_OTHERS:
        raise UnusableKeys(f"{path}: others may use it ({mode})", hint=hint)
    if found.st_mode & stat.S_IWGRP:
        what = f"{path}: group {found.st_gid} may write to it ({mode})"
        raise UnusableKeys(what, hint=hint)
    if found.st_mode & (stat.S_IRGRP | stat.S_IXGRP) and found.st_gid not in (
        os.getegid(),
        *os.getgroups(),
    ):
        what = f"{path}: group {found.st_gid} may use it, and is none of ours ({mode})"
        raise UnusableKeys(what, hint=hint)
    if ownership.names_others(file.fileno()):
        what = f"{path}: its ACL names other users or groups"
        raise UnusableKeys(what, hint=f"setfacl -b {path}")


def make(path: Path, text: str) -> None:
    """Create a key file durably, private to its owner; never replaces a file.

    Args:
        path: of the new file.
        text: as `KeyRing.to_text` returns it.

    Raises:
        UnusableKeys: `path` exists, or cannot be written.
    """
    disk = PosixDisk(new_mode=0o600)
    try:
        with _draft(disk, path, path.parent) as copy:
            copy.write((_HEADER + text).encode())
            copy.sync()
            disk.link(_temporary(path), path)  # unlike a rename, it never replaces
        disk.sync_folder(path.parent)
    except FileExistsError as exc:
        raise UnusableKeys(
            f"{path}: already exists", hint="`milepost keys rotate` adds a key to it"
        ) from exc
    except OSError as exc:
        raise _unusable(path, "cannot be written", exc) from exc


def change(path: Path, change_text: Callable[[str], str]) -> None:
    """Replace the text of a key file durably, under its lock.

    Owner, group and permissions are kept.

    Args:
        path: of the file; the target of a link is replaced, not the link.
        change_text: receives the text, and returns the new one.

    Raises:
        UnusableKeys: it cannot be read or written; it is unchanged.
    """
    path = path.resolve()
    disk = PosixDisk(new_mode=0o600)
    try:
        # A crashed `make` may leave a second link to the key file.  Once the file is
        # locked, such a leftover would look busy.
        with suppress(Busy):
            remove_leftover(disk, _temporary(path))
        with _locked(disk, path) as file:
            text = change_text(_text(path, file))
            if not file.status().st_mode & stat.S_IWUSR:
                raise UnusableKeys(
                    f"{path}: is read-only (mode "
                    f"{stat.S_IMODE(file.status().st_mode):04o}); nothing was changed",
                    hint="change the keys where this file comes from",
                )
            with _draft(disk, path, path) as copy:
                copy.write((_HEADER + text).encode())
                copy.place()
            disk.sync_folder(path.parent)
    except OSError as exc:
        raise _unusable(path, "cannot be written", exc) from exc


@contextmanager
def _draft(disk: PosixDisk, path: Path, like: Path) -> Iterator[JournalCopy]:
    """Create the temporary file that becomes the key file, replacing a leftover."""

    def begin() -> JournalCopy | None:
        with suppress(Busy):  # perhaps locked briefly by a check for leftovers
            return JournalCopy(disk, _temporary(path), path, like=like)
        return None

    copy = within(_LOCK_SECONDS, begin)
    if copy is None:
        what = f"{path}: another process is changing it; nothing was changed"
        raise UnusableKeys(what, hint="try again")
    try:
        yield copy
    finally:
        copy.discard()


@contextmanager
def _locked(disk: PosixDisk, path: Path) -> Iterator[PosixFile]:
    """Lock the key file against other changes."""
    while True:
        file = disk.open(path, "read")
        try:
            if not within(_LOCK_SECONDS, file.try_lock):
                what = f"{path}: locked by another process; nothing was changed"
                raise UnusableKeys(what, hint="look for a stopped process")
            found = disk.stat(path)
            if found is not None and found.inode == file.stat().inode:
                yield file
                return
        finally:
            file.close()  # if not yielded, it was replaced before the lock was taken


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _unusable(path: str | Path, what: str, exc: OSError) -> UnusableKeys:
    reason = str(exc) if isinstance(exc, MilepostError) else exc.strerror or str(exc)
    return UnusableKeys(f"{path}: {what}: {reason}", hint=getattr(exc, "hint", None))
