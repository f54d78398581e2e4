"""Salvage files: bytes that a recovery or a repair removed from a journal.

They are durable before anything is cut.  The name of a torn tail's file,
``<job>.<offset>.<lost events>.<digest>``, describes the cut, so that a crash before its
``job.repaired`` event loses nothing.  The suffix ``.damaged`` marks bytes that a person
gave up.  There cut and event are one rename (see `Repairer`), so an event names the
file, or nothing was cut.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.clock import utc_now
from milepost.journal.disk import whole_file
from milepost.journal.disk.disk import make_folder_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, Stat
    from milepost.journal.events.vocabulary import JobRepairedData

    Data = bytes | Callable[[], Iterable[bytes]]

# More than the resolution of a file system's times; some have 2 s.
_TIME_STEP_SECONDS = 3.0
_DAMAGED = ".damaged"
_NAME = re.compile(r"([^.]+)\.([0-9]+)\.([0-9]+)\.[0-9a-f]{16}(\.damaged)?", re.ASCII)


def job_name(name: str) -> str | None:
    """Return the file name of a salvage file's job; None if it is no salvage file."""
    match = _NAME.fullmatch(name)
    return None if match is None else match[1]


def name_of(
    job: str, data: Data, offset: int, lost_events: int, *, is_damage: bool = False
) -> str:
    """Return the name of the salvage file of these bytes; deterministic."""
    digest = hashlib.sha256()
    for piece in _pieces_of(data):
        digest.update(piece)
    ending = f"{digest.hexdigest()[:16]}{_DAMAGED if is_damage else ''}"
    return f"{job}.{offset}.{lost_events}.{ending}"


def _pieces_of(data: Data) -> Iterable[bytes]:
    return (data,) if isinstance(data, bytes) else data()


class _Listing(NamedTuple):
    """The names in the folder by job, valid while its inode and ctime are the same."""

    inode: int
    changed_ns: int | None
    of_job: dict[str, list[str]]


class SalvageFolder:
    """The folder of all salvage files of a store, listed only after a change.

    Each job asks for its files, so a listing per job would be quadratic.  Safe for
    threads.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self.path = path
        self._disk = disk
        self._known: _Listing | None = None

    def names_of(self, job: str) -> list[str]:
        """Return the names of a job's salvage files, sorted."""
        found = self._disk.stat(self.path)
        if found is None:
            return []
        known = self._known
        if known is None or known[:2] != (found.inode, found.changed_ns):
            is_old = _is_old(found)  # by its status before the listing
            known = self._listing(found)
            self._known = known if is_old else None
        return known.of_job.get(job, [])

    def _listing(self, found: Stat) -> _Listing:
        of_job: dict[str, list[str]] = {}
        for name in sorted(self._disk.names(self.path)):
            if (job := job_name(name)) is not None:
                of_job.setdefault(job, []).append(name)
        return _Listing(found.inode, found.changed_ns, of_job)


def _is_old(found: Stat) -> bool:
    """Return whether every change from now on gives the folder another ctime."""
    if found.changed_ns is None:
        return False
    return utc_now().timestamp() - found.changed_ns / 1e9 > _TIME_STEP_SECONDS


class SalvageFiles:
    """The salvage files of one job.

    Args:
        disk: the file operations.
        folder: of all salvage files.
        name: the job's file name.
    """

    def __init__(self, disk: Disk, folder: SalvageFolder, name: str) -> None:
        self._disk = disk
        self._all = folder
        self._folder = folder.path
        self._name = name

    @property
    def temporary(self) -> Path:
        """The temporary file of an unfinished salvage file."""
        return self._folder / f"{self._name}.tmp"

    def keep(
        self, data: Data, offset: int, lost_events: int, *, is_damage: bool = False
    ) -> str:
        """Write the bytes that will be cut to a file of their own, durably.

        Args:
            data: the bytes, or a function that returns them in pieces.
            offset: their offset in the journal.
            lost_events: number of acknowledged events that are lost with them.
            is_damage: a person gives them up; they are not a torn tail.

        Returns:
            The file's name.
        """
        sibling = self._folder.parent / "journals"
        make_folder_like(self._disk, self._folder, sibling)
        self._disk.sync_folder(self._folder.parent)
        name = name_of(self._name, data, offset, lost_events, is_damage=is_damage)
        pieces = _pieces_of(data)
        whole_file.replace(self._disk, self.temporary, self._folder / name, pieces)
        return name

    def repairs(self) -> list[JobRepairedData]:
        """Return the repairs that the names of torn tails' files describe."""
        found: list[JobRepairedData] = []
        for name in self._all.names_of(self._name):
            match = _NAME.fullmatch(name)
            assert match is not None
            if match[4]:
                continue
            stat = self._disk.stat(self._folder / name)
            repair: JobRepairedData = {
                "reason": "torn_tail",
                "offset": int(match[2]),
                "cut_bytes": 0 if stat is None else stat.size,
                "salvage_file": name,
            }
            if match[3] != "0":
                repair["lost_events"] = int(match[3])
            found.append(repair)
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of `names` that are this job's; missing ones are ignored."""
        for name in names:
            path = self._folder / name
            if job_name(name) == self._name and self._disk.stat(path) is not None:
                self._disk.unlink(path)
