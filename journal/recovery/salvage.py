"""Bytes that a recovery or a repair took out of a journal, kept beside it.

What is kept is durable before anything is cut.  The name of what was torn says what was
done, so that a crash between the cut and the event that tells of it loses nothing:
``<job>.<offset>.<lost events>.<digest>``.  Behind that stands ``.damaged`` where a
person gave up what was acknowledged: there cut and event are one (`milepost.journal.repair.repair`),
so an event names such a file, or nothing was cut.
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

# More than the step in which a file system's times advance; some take 2 s.
_TIME_STEP_SECONDS = 3.0
_DAMAGED = ".damaged"
_NAME = re.compile(r"([^.]+)\.([0-9]+)\.([0-9]+)\.[0-9a-f]{16}(\.damaged)?", re.ASCII)


def job_name(name: str) -> str | None:
    """Return the file name of the job that a salvage file is of; None if it is none."""
    match = _NAME.fullmatch(name)
    return None if match is None else match[1]


def name_of(
    job: str, data: Data, offset: int, lost_events: int, *, is_damage: bool = False
) -> str:
    """Return the name under which these bytes are kept; the same bytes, the same."""
    digest = hashlib.sha256()
    for piece in _pieces_of(data):
        digest.update(piece)
    ending = f"{digest.hexdigest()[:16]}{_DAMAGED if is_damage else ''}"
    return f"{job}.{offset}.{lost_events}.{ending}"


def _pieces_of(data: Data) -> Iterable[bytes]:
    return (data,) if isinstance(data, bytes) else data()


class _Listing(NamedTuple):
    """The names in the folder, by job, as long as its inode and time stay the same."""

    inode: int
    changed_ns: int | None
    of_job: dict[str, list[str]]


class SalvageFolder:
    """The folder of all salvage files of a store, listed again only when it changed.

    Each job asks once, so a listing for each would be quadratic.  Safe for threads.
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
            is_old = _is_old(found)  # as it was before it is listed
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
    """Tell whether any change from now on gives the folder another time."""
    if found.changed_ns is None:
        return False
    return utc_now().timestamp() - found.changed_ns / 1e9 > _TIME_STEP_SECONDS


class SalvageFiles:
    """The salvage files of one job.

    Args:
        disk: the file operations.
        folder: where they are.
        name: the job's file name.
    """

    def __init__(self, disk: Disk, folder: SalvageFolder, name: str) -> None:
        self._disk = disk
        self._all = folder
        self._folder = folder.path
        self._name = name

    @property
    def temporary(self) -> Path:
        """What a process that died while it wrote one leaves behind."""
        return self._folder / f"{self._name}.tmp"

    def keep(
        self, data: Data, offset: int, lost_events: int, *, is_damage: bool = False
    ) -> str:
        """Make the bytes that will be cut durable in a file of their own.

        Args:
            data: the bytes, or what returns them in pieces.
            offset: where they begin in the journal.
            lost_events: how many acknowledged events go with them.
            is_damage: a person gives them up; they are not torn.

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
        """Return what the names of torn tails tell, as events would."""
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
        """Remove those of `names` that are this job's; gone ones are no error."""
        for name in names:
            path = self._folder / name
            if job_name(name) == self._name and self._disk.stat(path) is not None:
                self._disk.unlink(path)
