"""The folders of a store, and the location of one job's files in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    from milepost.journal.disk.disk import Disk
    from milepost.journal.process.mutex import Mutex
    from milepost.journal.storage.files.file_job import FileJob
    from milepost.journal.storage.files.recovery.salvage import SalvageFolder
    from milepost.journal.storage.removals import Records

Durability = Literal["always", "interval", "never"]


class Folders(NamedTuple):
    """The folders of a store.

    Attributes:
        journals: one journal per job.
        heads: one head per job.
        salvage: bytes that recovery cut, kept until the trash period ends.
        records: records and leases of the store.
        snapshots: folds of jobs; can be removed.
    """

    root: Path
    journals: Path
    heads: Path
    salvage: Path
    records: Path
    snapshots: Path

    @classmethod
    def of(cls, root: Path) -> Folders:
        """Return those of the store in `root`."""
        names = ("journals", "heads", "salvage", "records", "snapshots")
        return cls(root, *(root / name for name in names))


class Place(NamedTuple):
    """The location of one job's files, and the settings of their writer.

    Attributes:
        salvage: the folder of the salvage files of all jobs.
        name: of the files, without ending.
        store_id: returns the store's id; None if it is unknown.
        lock_timeout_seconds: how long to wait for another writer.
        has_files_open: called before files are opened, unless the job is listed;
            returns whether it is listed now.
        writes: called before a write.
        store: has the store's records.
        removed: how often this process has removed a job, by id.
        preparing: of the store; see `JobLock.try_take`.
    """

    disk: Disk
    folders: Folders
    salvage: SalvageFolder
    name: str
    job_id: str
    store_id: Callable[[], str | None]
    durability: Durability
    lock_timeout_seconds: float
    has_files_open: Callable[[FileJob], bool]
    writes: Callable[[], None]
    store: Records
    removed: Counter[str]
    preparing: Mutex
