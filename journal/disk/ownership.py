"""Who may use a file: owner, group, permissions and ACL, kept across a rewrite.

A rewrite puts a new file in the place of an old one.  If the new one belonged to
somebody else, or were open to others, the next process could not use it, or the wrong
one could.  So the new file takes all of it over, or is not put in place.
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
    """Make the new file `fd` like the one whose place it is to take.

    Raises:
        ReadOnlyStore: this user cannot; says who can.
        OSError: `old` cannot be looked at.
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
    """Copy attributes that users set; a file without them is of use as well."""
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
    """Return the permissions of a new file in `folder`: as open to the group as it is.

    Raises:
        OSError: it cannot be looked at.
    """
    found = folder.stat()
    return 0o600 | found.st_mode & _FOR_THE_GROUP


def belong_to(fd: int, folder: Path) -> None:
    """Let what root has just made in `folder` belong to whoever owns the folder.

    Otherwise one command of root's would lock the owner of the store out of it.

    Raises:
        OSError: its owner cannot be changed.
    """
    if os.geteuid() != _ROOT:
        return
    found = folder.stat()
    if found.st_uid != _ROOT:
        os.fchown(fd, found.st_uid, found.st_gid)


def names_others(fd: int) -> bool:
    """Tell whether an ACL lets users or groups use a file that its mode does not name.

    Raises:
        OSError: it cannot be read.
    """
    acl = _attribute(fd, _ACL) or b""
    entries = list(_ENTRY.iter_unpack(acl[_ACL_HEADER_BYTES:]))
    mask = next((perms for tag, perms, _ in entries if tag == _MASK), 0)
    return any(tag in (_NAMED_USER, _NAMED_GROUP) and p & mask for tag, p, _ in entries)
