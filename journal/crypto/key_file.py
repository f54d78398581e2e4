"""The file that holds a store's keys: private, and replaced whole or not at all."""

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
    """Return the text of a key file; links are followed.

    Raises:
        UnusableKeys: it cannot be read, is no file, or others may use it.
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
        # Not chained: that error carries the bytes.
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
    """Make a new key file, durable, for its owner only; never replaces one.

    Args:
        path: where.
        text: as `KeyRing.to_text` gives it.

    Raises:
        UnusableKeys: something is there already, or it cannot be written.
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
            f"{path}: is there already", hint="`milepost keys rotate` adds a key to it"
        ) from exc
    except OSError as exc:
        raise _unusable(path, "cannot be written", exc) from exc


def change(path: Path, change_text: Callable[[str], str]) -> None:
    """Put what `change_text` makes of a key file in its place, durably.

    Nobody else changes it meanwhile.  Owner, group and permissions stay.

    Args:
        path: which; what a link points to is replaced, not the link.
        change_text: gets the text, and returns the new one.

    Raises:
        UnusableKeys: it cannot be read or written; then it is as it was.
    """
    path = path.resolve()
    disk = PosixDisk(new_mode=0o600)
    try:
        with suppress(Busy):  # its second name would keep the file itself locked
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
    """Begin what is to be the key file; what one who died left of it goes first."""

    def begin() -> JournalCopy | None:
        with suppress(Busy):  # perhaps by one who looks for a moment if it is left over
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
    """Hold the key file against everybody else who would change it."""
    while True:
        file = disk.open(path, "read")
        try:
            if not within(_LOCK_SECONDS, file.try_lock):
                what = f"{path}: another process keeps it locked; nothing was changed"
                raise UnusableKeys(what, hint="look for a stopped process")
            found = disk.stat(path)
            if found is not None and found.inode == file.stat().inode:
                yield file
                return
        finally:
            file.close()  # it was replaced while we waited


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _unusable(path: str | Path, what: str, exc: OSError) -> UnusableKeys:
    reason = str(exc) if isinstance(exc, MilepostError) else exc.strerror or str(exc)
    return UnusableKeys(f"{path}: {what}: {reason}", hint=getattr(exc, "hint", None))
