"""Checks of the store directory: permissions, free space, stray files.

Changes nothing.  Damage inside journals is found by `CheckpointManager.diagnose`.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING, NamedTuple

import orjson

from milepost.journal import ids
from milepost.journal.disk.disk import (
    PRIVATE_FOLDER,
    SHARED_FOLDER,
    PosixDisk,
    filesystem_of,
)
from milepost.journal.errors import MilepostError, NotImported
from milepost.journal.events.codec import peek
from milepost.journal.importing import checkpoint_folder
from milepost.journal.storage.files import cache
from milepost.journal.storage.files.recovery.salvage import job_name
from milepost.journal.storage.files.storage import FORMAT, FileStorage
from milepost.journal.storage.removals import PREFIX
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDERS = ("journals", "heads", "salvage", "snapshots")
_COPIED = ("journals", "snapshots")
_ENDINGS = {"journals": "jsonl", "heads": "", "snapshots": ""}
_LEAST_FREE_BYTES = 64 * 1024 * 1024
_MAX_LISTED = 20
_MAX_FIRST_LINES = 100
_LINE_BYTES = 8192


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        code: stable, for programs.
        ok: whether the check passed.
        message: the finding, in one line.
        hint: what to do about it.
    """

    code: str
    ok: bool
    message: str
    hint: str | None = None


def inspect(root: Path) -> list[Finding]:
    """Check the folder of a store without changing it.

    Raises:
        OSError: a folder cannot be read.
    """
    return [
        _identity(root),
        _file_system(root),
        _room(root),
        *_access(root),
        *_not_imported(root),
        *_removed(root),
        *_strays(root),
    ]


def jobs_to_import(root: Path) -> list[str]:
    """Return the jobs with checkpoint files in `root`, but no journal."""
    journals = {*_names(root / "journals")}
    return [
        job_id
        for job_id in checkpoint_folder.jobs_beside(root, ())
        if f"{ids.file_name(job_id)}.jsonl" not in journals
    ]


def _not_imported(root: Path) -> Iterator[Finding]:
    if jobs := jobs_to_import(root):
        error = NotImported(jobs, root)
        yield Finding(error.code, False, str(error), error.hint)


def _removed(root: Path) -> Iterator[Finding]:
    count = sum(name.startswith(PREFIX) for name in _names(root / "records"))
    if count:
        were = "was" if count == 1 else "were"
        text = f"{counted(count, 'job')} {were} removed, as records say"
        yield Finding("removed_jobs", True, text)


def _identity(root: Path) -> Finding:
    path = root / "store.json"
    try:
        store_id = FileStorage(root).store_id
    except MilepostError as exc:
        return Finding(f"store_json_{exc.code}", False, str(exc), exc.hint)
    if store_id is not None:
        return Finding("store", True, f"format {FORMAT}, store {store_id}")
    known = _store_in_journals(root)
    if known is None:
        return Finding("store_json_missing", True, "nothing was saved yet")
    line = orjson.dumps({"format": FORMAT, "store": known}).decode()
    return Finding(
        "store_json_missing",
        False,
        f"{path} is missing, but there are journals",
        f"they belong to store {known}: write {line} to it",
    )


def _store_in_journals(root: Path) -> str | None:
    """Return the store id in a journal's first line."""
    for name in _names(root / "journals")[:_MAX_FIRST_LINES]:
        if not name.endswith(".jsonl") or not (root / "journals" / name).is_file():
            continue
        with (root / "journals" / name).open("rb") as file:
            event = peek(file.readline(_LINE_BYTES).rstrip(b"\n"))
        if event is not None and event["type"] == "job.opened":
            return str(event["data"].get("store"))
    return None


def _file_system(root: Path) -> Finding:
    kind = filesystem_of(root) or "unknown"
    try:
        PosixDisk().check_supported(root)
    except MilepostError as exc:
        return Finding(exc.code, False, str(exc), exc.hint)
    return Finding("file_system", True, f"a local file system: {kind}")


def _room(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    text = f"{free / 1e9:,.1f} GB free"
    if free < _LEAST_FREE_BYTES:
        return Finding("no_space", False, text, "free some space")
    return Finding("free_space", True, text)


def _access(root: Path) -> Iterator[Finding]:
    is_fine = True
    for path in (root, *(root / name for name in _FOLDERS)):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(mode) and path != root:
            is_fine = False
            yield Finding(
                "symlink",
                False,
                f"{path} is a symbolic link",
                "put the folder itself there",
            )
            continue
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            is_fine = False
            yield Finding(
                "not_writable",
                False,
                f"this user may not write to {path}",
                "run as its owner, or make it writable",
            )
        if mode & ~_allowed(root) & 0o077 and path != root:
            is_fine = False
            yield Finding(
                "open_to_others",
                False,
                f"{path} is open to other users (mode {stat.S_IMODE(mode):o})",
                f"chmod {_allowed(root):o} {path}",
            )
    if is_fine:
        is_shared = _allowed(root) == SHARED_FOLDER
        whom = "its owner and group" if is_shared else "this user only"
        yield Finding("access", True, f"writable, and open to {whom}")


def _allowed(root: Path) -> int:
    """Return the permission bits of this store's folders: those of journals/."""
    found = PosixDisk().stat(root / "journals")
    is_shared = found is not None and found.mode & stat.S_IWGRP
    return SHARED_FOLDER if is_shared else PRIVATE_FOLDER


def _strays(root: Path) -> Iterator[Finding]:
    """Yield a finding for each kind of stray file."""
    found: dict[str, list[str]] = {}
    for code, path in _stray_paths(root):
        found.setdefault(code, []).append(str(path.relative_to(root)))
    for code, paths in found.items():
        more = len(paths) - _MAX_LISTED
        listed = ", ".join(paths[:_MAX_LISTED]) + (f" and {more} more" * (more > 0))
        what, is_fine, hint = _KINDS[code]
        yield Finding(code, is_fine, f"{what}: {listed}", hint)


_KINDS = {
    "symlink": ("symbolic links, which are not followed", False, "put the file there"),
    "leftover": (
        "left over from a crashed process, or in use",
        True,
        "the next write to the job removes it",
    ),
    "headless_salvage_file": (
        "bytes cut from a job that does not exist here",
        True,
        "move them away if they are not needed",
    ),
    "unknown_file": (
        "not Milepost's",
        True,
        "move them away if they do not belong here",
    ),
}


def _stray_paths(root: Path) -> Iterator[tuple[str, Path]]:
    known = {"store.json", "records", "worker", cache.NAME, *_FOLDERS}
    known |= {f.path.name for f in checkpoint_folder.folders(root, levels=1) if f.files}
    for name in _names(root):
        path = root / name
        if name not in known:
            is_ours = name.startswith(("store.", "jobs.")) and name.endswith(".tmp")
            yield ("leftover" if is_ours else "unknown_file"), path
    jobs = {
        name.removesuffix(".jsonl")
        for name in _names(root / "journals")
        if name.endswith(".jsonl")
    } | set(_names(root / "heads"))
    for folder in _FOLDERS:
        for name in _names(root / folder):
            path = root / folder / name
            code = "symlink" if path.is_symlink() else _stray(folder, name, jobs)
            if code is not None:
                yield code, path


def _stray(folder: str, name: str, jobs: set[str]) -> str | None:
    stem, _, suffix = name.partition(".")
    if suffix == "tmp" or (suffix == "copy" and folder in _COPIED):
        return "leftover"
    if folder == "salvage" and (job := job_name(name)) is not None:
        return None if job in jobs else "headless_salvage_file"
    is_named_well = ids.job_of(stem) is not None or "~" in stem
    is_ours = suffix == _ENDINGS.get(folder)
    return None if is_ours and is_named_well else "unknown_file"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
