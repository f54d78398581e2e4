"""Recognise and read a folder with one JSON file per checkpoint.

The layout is ``<job>/<step>_<unix seconds>_<8 characters>.json``; each file is an
object with ``checkpoint_id``, ``job_id``, ``step_name``, ``state``, ``timestamp`` and
``workflow_version``.  Nothing here writes.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from milepost.journal import ids
from milepost.journal.clock import stamp
from milepost.journal.errors import InvalidArgument, MilepostError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from pathlib import Path

_NAME = re.compile(r".+_([0-9]{1,11})_[0-9A-Za-z]{8}\.json", re.DOTALL)
_KNOWN_FIELDS = frozenset(
    {
        *("checkpoint_id", "job_id", "step_name", "state", "timestamp"),
        *("workflow_version", "workflow_name", "metadata"),
    }
)
# White space can make a file far larger than its state.
_MAX_FILE_BYTES = 256 * 1024 * 1024
_MAX_LEVELS = 8
_LINK = "a symbolic link, which is not followed"
# Names of a store's own files, which may be in the same folder.
_FOLDERS_OF_JOBS = ("journals", "heads", "salvage")
_OWN_FOLDERS = frozenset({*_FOLDERS_OF_JOBS, "records", "snapshots", "worker"})


class Unusable(Exception):
    """A file cannot be imported; the text is the reason."""


class Folder(NamedTuple):
    """One folder with checkpoint files.

    Attributes:
        path: path of the folder.
        name: its path below the folder of all jobs, named after the job.
        files: the names of checkpoint files, sorted.
        others: other names, each with a reason why it is skipped.
    """

    path: Path
    name: str
    files: list[str]
    others: list[tuple[str, str]]


class CheckpointFile(NamedTuple):
    """The content of a checkpoint file.

    Attributes:
        saved_at: its time, in the form used by events.
        remark: differences from the file's content, empty if there are none.
    """

    checkpoint_id: str
    job_id: str
    step_name: str
    saved_at: str
    state: dict[str, Any]
    metadata: dict[str, Any]
    workflow_name: str | None
    workflow_version: str | None
    remark: str


def folders(
    root: Path, *, levels: int = _MAX_LEVELS, skipped: Container[str] = ()
) -> Iterator[Folder]:
    """Yield the folders at and below `root` with checkpoint files or other files.

    Symbolic links are not followed.  A store's own files are not reported, wherever
    the store is; checkpoint files in the same folder are found.

    Args:
        root: the folder of all jobs, or of a single one.
        levels: depth of the search below it.
        skipped: names of folders to skip.
    """
    stack = [(root, 0, False)]
    while stack:
        path, level, is_own = stack.pop()
        files, others, below = [], [], []
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as exc:
            entries = []
            others.append(("", str(exc.strerror)))
        is_store = any(entry.name == "store.json" for entry in entries)
        for entry in entries:
            inner = path / entry.name
            is_inner_own = is_own or (is_store and entry.name in _OWN_FOLDERS)
            if entry.is_dir(follow_symlinks=False):
                if level < levels:
                    below.append((inner, level + 1, is_inner_own))
            elif _NAME.fullmatch(entry.name):
                files.append(entry.name)
            elif is_inner_own:
                pass
            elif entry.is_symlink() and entry.is_dir():
                others.append((entry.name, _LINK))
            elif level > 0 and not is_store:  # the top folder may have foreign files
                others.append((entry.name, "not the name of a checkpoint file"))
        if is_own:
            others.clear()
        stack.extend(
            each
            for each in reversed(below)
            if each[0].relative_to(root).as_posix() not in skipped
        )
        if files or others:
            name = path.relative_to(root).as_posix() if level else path.resolve().name
            yield Folder(path, name, files, others)


def jobs_beside(root: Path, known: Iterable[str]) -> list[str]:
    """Return the jobs with checkpoint files in `root` that are not `known`, sorted."""
    found = set()
    own = _FOLDERS_OF_JOBS if (root / "store.json").exists() else ()
    if next(folders(root, levels=1, skipped=own), None) is None:
        return []  # as usual, and without a look at the known jobs
    known = {*known}
    skipped = {*known, *own}
    for folder in folders(root, levels=1, skipped=skipped):
        if folder.files and (job_id := _job_of(folder)) not in known:
            with suppress(InvalidArgument):
                found.add(ids.check_job_id(job_id))
    return sorted(found)


def has_job(root: Path, job_id: str) -> bool:
    """Return whether `root` has checkpoint files of a job."""
    for name in _names_of(job_id):
        path = root / name
        try:
            first = min(
                (e.name for e in os.scandir(path) if _NAME.fullmatch(e.name)),
                default=None,
            )
        except OSError:
            continue
        if first is not None and (name == job_id or _job_in(path / first) == job_id):
            return True
    return False


def read(folder: Folder, name: str) -> CheckpointFile:
    """Return the content of the file `name`.

    Raises:
        Unusable: it cannot be imported.
    """
    data = _object_in(folder.path / name)
    problem = "its {0!r} is missing or is not {1}"
    for field, kind, what in (
        ("checkpoint_id", str, "a string"),
        ("job_id", str, "a string"),
        ("step_name", str, "a string"),
        ("state", dict, "an object"),
    ):
        if not isinstance(data.get(field), kind):
            raise Unusable(problem.format(field, what))
    if data["checkpoint_id"] != name.removesuffix(".json"):
        raise Unusable(f"its checkpoint_id is {data['checkpoint_id']!r:.80}")
    if folder.name not in _names_of(data["job_id"]):
        raise Unusable(
            f"its job_id is {data['job_id']!r:.80}, but its folder is {folder.name!r}"
        )
    for field in ("workflow_name", "workflow_version"):
        if not isinstance(data.get(field), str | None):
            raise Unusable(f"its {field} is not a string: {data[field]!r:.40}")
    if not isinstance(data.get("metadata"), dict | None):
        raise Unusable("its metadata is not an object")
    try:
        ids.check_new_job_id(data["job_id"])
        ids.check_step_name(data["step_name"])
        ids.check_label("checkpoint_id", data["checkpoint_id"])
    except MilepostError as exc:
        raise Unusable(str(exc)) from exc
    saved_at, remark = _time_in(data.get("timestamp"), name)
    if unknown := sorted(data.keys() - _KNOWN_FIELDS):
        remark += f"{'; ' * bool(remark)}not imported: {', '.join(unknown)[:200]}"
    return CheckpointFile(
        data["checkpoint_id"],
        data["job_id"],
        data["step_name"],
        saved_at,
        data["state"],
        data.get("metadata") or {},
        data.get("workflow_name"),
        data.get("workflow_version"),
        remark,
    )


def _names_of(job_id: str) -> list[str]:
    """Return the possible names of a job's folder: its id, or a safe form of it."""
    is_safe = not {"", ".", ".."} & {*job_id.split("/")} and "\0" not in job_id
    replaced = (re.sub(r"[^\w.-]", safe, job_id) for safe in ("_", "-", ""))
    names = [*[job_id] * is_safe, *replaced, quote(job_id, safe="")]
    return [name for name in dict.fromkeys(names) if name not in {"", ".", ".."}]


def _job_of(folder: Folder) -> str:
    """Return the job of a folder's checkpoints: that of the first usable file."""
    found = (_job_in(folder.path / name) for name in folder.files)
    return next((job_id for job_id in found if job_id is not None), folder.name)


def _job_in(path: Path) -> str | None:
    try:
        job_id = _object_in(path).get("job_id")
    except Unusable:
        return None
    return job_id if isinstance(job_id, str) else None


def _object_in(path: Path) -> dict[str, Any]:
    try:
        # Opening a FIFO must not block, and a link may point anywhere.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a descriptor
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unusable("not a regular file")
            if found.st_size > _MAX_FILE_BYTES:
                raise Unusable(f"it has more than {_MAX_FILE_BYTES} bytes")
            text = file.read(_MAX_FILE_BYTES)
    except OSError as exc:
        raise Unusable(_LINK if path.is_symlink() else str(exc.strerror)) from exc
    import json  # imported late: rarely needed

    try:
        # Not orjson, which rounds integers beyond 64 bits; a save refuses those.
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise Unusable(f"no valid JSON: {exc}"[:200]) from exc
    if not isinstance(data, dict):
        raise Unusable("no JSON object")
    return data


def _time_in(text: object, name: str) -> tuple[str, str]:
    """Return when a checkpoint was saved, and a remark if the time is doubtful."""
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]  # caught below
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return stamp(aware), ""
    except (TypeError, ValueError, OverflowError):
        pass
    found = _NAME.fullmatch(name)
    assert found is not None
    try:
        moment = datetime.fromtimestamp(int(found[1]), UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise Unusable(f"its timestamp is {text!r:.60}, not a time") from exc
    return stamp(moment), f"its timestamp is {text!r:.60}; its name says {moment}"
