"""Owner, group, permissions and ACL of files, preserved across a rewrite.

A rewrite replaces a file by a new one.  With another owner or other permissions, the
next process could lose access, or a foreign one gain it.  So the new file takes them
over, or does not replace the old one (docs/adr/0029).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from milepost.journal.errors import ReadOnlyStore

if TYPE_CHECKING:
    from pathlib import Path

_ACL = "system.posix_acl_access"
_USER_PREFIX = "user."
_ABSENT = frozenset({errno.ENODATA, errno.ENOTSUP})
_FOR_THE_GROUP = stat.S_IRGRP | stat.S_IWGRP
_ROOT = 0
# An ACL as Linux keeps it: a version, then entries of tag, permissions and id.
_ACL_HEADER_BYTES, _ENTRY = 4, struct.Struct("<HHI")
_NAMED_USER, _NAMED_GROUP, _MASK = 2, 8, 16


def take_over(fd: int, old: Path) -> None:
    """Give the new file `fd` the owner, permissions and ACL of `old`.

    Raises:
        ReadOnlyStore: this user may not; names the user who may.
        OSError: `old` cannot be read.
    """
    model = old.stat(follow_symlinks=False)
    try:
        _take_owner(fd, model)
        _take_acl(fd, old, stat.S_IMODE(model.st_mode))
    except OSError as exc:
        raise ReadOnlyStore(
            f"cannot replace {old}: the new file would not keep its owner "
            f"{model.st_uid}:{model.st_gid}, mode "
            f"{stat.S_IMODE(model.st_mode):04o} and ACL ({exc.strerror})",
            hint=f"run this as user {model.st_uid} in group {model.st_gid}, or as root",
        ) from exc
    _take_labels(fd, old)


def _take_owner(fd: int, model: os.stat_result) -> None:
    made = os.fstat(fd)
    uid = -1 if made.st_uid == model.st_uid else model.st_uid
    gid = -1 if made.st_gid == model.st_gid else model.st_gid
    if (uid, gid) != (-1, -1):
        os.fchown(fd, uid, gid)


def _take_acl(fd: int, old: Path, mode: int) -> None:
    wanted, inherited = _attribute(old, _ACL), _attribute(fd, _ACL)
    if inherited is not None and wanted is None:
        os.removexattr(fd, _ACL)  # of the folder's default ACL
    os.fchmod(fd, mode)
    if wanted is not None and wanted != inherited:
        os.setxattr(fd, _ACL, wanted)


def _take_labels(fd: int, old: Path) -> None:
    """Copy user attributes as far as possible; they are not essential."""
    try:
        names = os.listxattr(old, follow_symlinks=False)
        for name in names:
            if name.startswith(_USER_PREFIX):
                os.setxattr(fd, name, os.getxattr(old, name, follow_symlinks=False))
    except OSError:
        return


def _attribute(file: int | Path, name: str) -> bytes | None:
    try:
        if isinstance(file, int):
            return os.getxattr(file, name)
        return os.getxattr(file, name, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _ABSENT:
            return None
        raise


def mode_in(folder: Path) -> int:
    """Return the permissions of a new file: those of the group as on `folder`.

    Raises:
        OSError: `folder` cannot be read.
    """
    found = folder.stat()
    return 0o600 | found.st_mode & _FOR_THE_GROUP


def belong_to(fd: int, folder: Path) -> None:
    """Give a file that root has created to the owner of `folder`.

    Otherwise one command run as root would lock out the owner of the store.

    Raises:
        OSError: the owner cannot be changed.
    """
    if os.geteuid() != _ROOT:
        return
    found = folder.stat()
    if found.st_uid != _ROOT:
        os.fchown(fd, found.st_uid, found.st_gid)


def names_others(fd: int) -> bool:
    """Return whether an ACL gives access to users or groups beyond the mode.

    Raises:
        OSError: the ACL cannot be read.
    """
    acl = _attribute(fd, _ACL) or b""
    entries = list(_ENTRY.iter_unpack(acl[_ACL_HEADER_BYTES:]))
    mask = next((perms for tag, perms, _ in entries if tag == _MASK), 0)
    return any(tag in (_NAMED_USER, _NAMED_GROUP) and p & mask for tag, p, _ in entries)
