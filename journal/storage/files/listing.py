"""The list of a store's jobs, from the names of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


class Listing:
    """The jobs in the folders of a store.

    Args:
        disk: the file operations.
        folders: those of the store.
    """

    def __init__(self, disk: Disk, folders: Folders) -> None:
        self._disk = disk
        self._folders = folders
        self._nameless: dict[str, str] = {}

    def jobs(self) -> dict[str, str]:
        """Return the name of each job's files, by job id, unordered.

        Raises:
            StorageFailed: the folders cannot be read.
        """
        try:
            journals = self._disk.names(self._folders.journals)
            heads = self._disk.names(self._folders.heads)
        except OSError as exc:
            raise failure(exc, f"cannot list {self._folders.root}") from exc
        heads = [name for name in heads if "." not in name]  # no temporary files
        names = {name[: -len(SUFFIX)] for name in journals if name.endswith(SUFFIX)}
        names |= {name for name in heads if name not in names and self._is_owed(name)}
        found = ((self._job_id_of(name), name) for name in names)
        return {job_id: name for job_id, name in found if job_id is not None}

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
            journal = self._disk.stat(self._folders.journals / (name + SUFFIX))
            head = self._disk.stat(self._folders.heads / name)
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
        if found.changed_ns is None or found.changed_ns > now_ns - _RECENT_NS:
            return None
        parts.append(f"{found.inode:x}.{found.size:x}.{found.changed_ns:x}")
    return " ".join(parts)


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
