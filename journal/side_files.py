"""Bytes that a recovery or a repair took out of a journal, kept beside it.

What is kept is durable before anything is cut.  The name of what was torn says what was
done, so that a crash between the cut and the event that tells of it loses nothing:
``<job>.<offset>.<lost events>.<digest>``.  Behind that stands ``.damaged`` where a
person gave up what was acknowledged: there cut and event are one (`journal.mending`),
so an event names such a file, or nothing was cut.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from journal import whole_file
from journal.disk import make_folder_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from journal.disk import Disk
    from journal.events import JobRepairedData

    Data = bytes | Callable[[], Iterable[bytes]]

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


class SalvageFiles:
    """The salvage files of one job.

    Args:
        disk: the file operations.
        folder: where they are.
        name: the job's file name.
    """

    def __init__(self, disk: Disk, folder: Path, name: str) -> None:
        self._disk = disk
        self._folder = folder
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
        for name in sorted(self._disk.names(self._folder)):
            match = _NAME.fullmatch(name)
            if match is None or match[1] != self._name or match[4]:
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
