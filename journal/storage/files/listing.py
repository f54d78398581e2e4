"""The list of a store's jobs, from the names of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost.journal import ids
from milepost.journal.errors import NewerFormat
from milepost.journal.events.codec import peek
from milepost.journal.storage.files.failures import failure
from milepost.journal.storage.files.recovery import head as head_codec

if TYPE_CHECKING:
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, Stat
    from milepost.journal.storage.files.folders import Folders

SUFFIX = ".jsonl"
SMALL_BYTES = 8192  # enough for store.json, a head, and a first line
# Two writes within the granularity of a file system's times leave the same time.
_RECENT_NS = 3_000_000_000


class _Listed(NamedTuple):
    """The jobs that were in the folders, as long as these stay the same.

    Attributes:
        stamps: the identity and time of each folder; None: a change could leave both
            the same.
        jobs: the name of each job's files, by job id; sorted by id.
    """

    stamps: list[Stat] | None
    jobs: dict[str, str]


class Listing:
    """The jobs in the folders of a store.  Safe for threads.

    Args:
        disk: the file operations.
        folders: those of the store.
    """

    def __init__(self, disk: Disk, folders: Folders) -> None:
        self._disk = disk
        self._folders = folders
        self._nameless: dict[str, str] = {}
        self._known: dict[str, str | None] = {}  # job ids, by the name of their files
        self._listed = _Listed(None, {})

    def jobs(self, now_ns: int) -> dict[str, str]:
        """Return the name of each job's files, by job id, sorted; not to be changed.

        Two `stat` if no name came or went since the last call.

        Args:
            now_ns: the current time.

        Raises:
            StorageFailed: the folders cannot be read.
        """
        try:
            stamps = self._stamps(now_ns)
            listed = self._listed
            if stamps is None or listed.stamps != stamps:
                listed = self._listed = self._list(stamps)
        except OSError as exc:
            raise failure(exc, f"cannot list {self._folders.root}") from exc
        return listed.jobs

    def _stamps(self, now_ns: int) -> list[Stat] | None:
        """Return what differs after each change of a name in the two folders.

        None: their times are too recent for that, or unknown.
        """
        folders = self._folders.journals, self._folders.heads
        found = [self._disk.stat_folder(folder) for folder in folders]
        stamps = [each for each in found if each is not None]
        is_old = [_is_old(each, now_ns) for each in stamps] == [True, True]
        return stamps if is_old else None

    def _list(self, stamps: list[Stat] | None) -> _Listed:
        journals = self._disk.names(self._folders.journals)
        heads = self._disk.names(self._folders.heads)
        names = {name[: -len(SUFFIX)] for name in journals if name.endswith(SUFFIX)}
        lone = {name for name in heads if "." not in name} - names  # no temporary files
        names |= {name for name in lone if self._is_owed(name)}
        ids_of = {
            name: self._known.get(name) or self._job_id_of(name) for name in names
        }
        jobs = {job_id: name for name, job_id in ids_of.items() if job_id is not None}
        nameless = [
            name
            for name, job_id in ids_of.items()
            if name in self._nameless and job_id == name
        ]
        for name in nameless:
            del ids_of[name]
        self._known = ids_of
        # What a head without a journal owes and an id that cannot be read may change
        # while the folders stay the same.
        is_final = not lone and not nameless
        return _Listed(stamps if is_final else None, dict(sorted(jobs.items())))

    def name_of(self, job_id: str) -> str:
        """Return the name of a job's files."""
        return self._nameless.get(job_id) or ids.file_name(job_id)

    def fingerprint(self, name: str, now_ns: int) -> str | None:
        """Return a text that differs after each change of a job's two files.

        A write in place keeps the size of a head, so its time must tell.  None: the
        time is too recent for that, or in the future because the clock was set back.

        Raises:
            StorageFailed: they cannot be read.
        """
        try:
            # Text: of 10,000 jobs, making paths takes as long as all the rest.
            journal = self._disk.stat(f"{self._folders.journals}/{name}{SUFFIX}")
            head = self._disk.stat(f"{self._folders.heads}/{name}")
        except OSError as exc:
            raise failure(exc, f"cannot read the files {name} of a job") from exc
        return fingerprint(journal, head, now_ns)

    def _is_owed(self, name: str) -> bool:
        """Return whether a head without a journal acknowledges events."""
        try:
            head = head_codec.decode(self._read(self._folders.heads / name))
        except NewerFormat:
            return True
        except OSError:
            return False
        return head is not None and head.shown.seq > 0

    def _job_id_of(self, name: str) -> str | None:
        job_id = ids.job_of(name)
        if job_id is not None or "~" not in name:
            return job_id
        job_id = self._first_line_says(self._folders.journals / (name + SUFFIX))
        if job_id is not None and ids.file_name(job_id) == name:
            return job_id
        # Its id cannot be read, but the job must not vanish from the lists.  It is
        # listed by its file's name until it is repaired.
        self._nameless[name] = name
        return name

    def _first_line_says(self, path: Path) -> str | None:
        try:
            line, _, _ = self._read(path).partition(b"\n")
        except OSError:
            return None
        event = peek(line)
        if event is None or event["type"] != "job.opened":
            return None
        data: object = event["data"]
        job_id = data.get("job") if isinstance(data, dict) else None
        return job_id if isinstance(job_id, str) else None

    def _read(self, path: Path) -> bytes:
        return read_small(self._disk, path)


def fingerprint(journal: Stat | None, head: Stat | None, now_ns: int) -> str | None:
    """See `Listing.fingerprint`."""
    parts = []
    for found in (journal, head):
        if found is None:
            parts.append("-")
            continue
        if not _is_old(found, now_ns):
            return None
        parts.append(f"{found.inode:x}.{found.size:x}.{found.changed_ns:x}")
    return " ".join(parts)


def _is_old(found: Stat, now_ns: int) -> bool:
    """Return whether a change from now on would leave another time."""
    return found.changed_ns is not None and found.changed_ns <= now_ns - _RECENT_NS


def read_small(disk: Disk, path: Path) -> bytes:
    """Return the first `SMALL_BYTES` of a file.

    Raises:
        OSError: it cannot be read.
    """
    file = disk.open(path, "read")
    try:
        return file.read(0, SMALL_BYTES)
    finally:
        file.close()
