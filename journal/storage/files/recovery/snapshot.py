"""A read-only snapshot of a job's files, before any recovery."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.elsewhere import Neighbour
from milepost.journal.storage.removals import record_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from milepost.journal.disk.disk import Disk, File
    from milepost.journal.storage.files.recovery.salvage import SalvageFolder


class Evidence(NamedTuple):
    """A job's files at one moment.

    Attributes:
        name: the job's file name.
        head: the bytes of its head; None if the file is missing.
        size: of the journal; None if the file is missing.
        inode: of the journal.
        read: returns bytes of the journal, by offset and size.
        salvage_files: names of the job's salvage files.
        leftovers: temporary files of crashed processes.
        is_still: no process could write at that moment.
        neighbours: returns files in the journal's folder that are named after it.
        is_removed: returns whether the removal of a job is recorded, by its origin.
    """

    name: str
    head: bytes | None
    size: int | None
    inode: int
    read: Callable[[int, int], bytes]
    salvage_files: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    is_still: bool = True
    neighbours: Callable[[], Iterable[Neighbour]] = tuple
    is_removed: Callable[[str], bool] = bool


def has_tombstone(disk: Disk, root: Path, origin: str) -> bool:
    """Return whether the removal of a job is recorded in the store in `root`.

    Raises:
        OSError: it cannot be found out.
    """
    return disk.stat(root / "records" / record_name(origin)) is not None


def _nothing(offset: int, size: int) -> bytes:
    del offset, size
    return b""


@contextmanager
def of_files(
    disk: Disk, salvage: SalvageFolder, name: str, *, is_held: bool = False
) -> Iterator[Evidence]:
    """Take a snapshot of a job's files.

    If the lock is free, it is taken while the head is read and the journal measured, so
    that a write in progress does not look like a torn tail.  It is never waited for.

    Args:
        disk: the file operations.
        salvage: the store's salvage files.
        name: the job's file name.
        is_held: the caller has the lock.  The journal is then read from the medium, not
            from memory, because a repair relies on it.

    Raises:
        OSError: a file cannot be opened or read.
    """
    root = salvage.path.parent
    head = _open_if(disk, root / "heads" / name)
    journal: File | None = None
    try:
        is_still = is_held or head is None or head.try_lock()
        try:
            raw = None if head is None else head.read(0, head_codec.READ_BYTES)
            journal = _open_if(disk, root / "journals" / f"{name}.jsonl")
            if journal is not None and is_held:
                journal.drop_cache()
            found = None if journal is None else journal.stat()
        finally:
            if head is not None and is_still and not is_held:
                head.unlock()
        yield Evidence(
            name,
            raw,
            None if found is None else found.size,
            0 if found is None else found.inode,
            _nothing if journal is None else journal.read,
            tuple(salvage.names_of(name)),
            tuple(_leftovers(disk, root, name)),
            is_still,
            partial(_neighbours, disk, root, name),
            partial(has_tombstone, disk, root),
        )
    finally:
        for file in (head, journal):
            if file is not None:
                file.close()


def _open_if(disk: Disk, path: Path) -> File | None:
    try:
        return disk.open(path, "read")
    except FileNotFoundError:
        return None


def _neighbours(disk: Disk, root: Path, name: str) -> Iterator[Neighbour]:
    journal = f"{name}.jsonl"
    for found in sorted(disk.names(root / "journals")):
        if not found.startswith(journal) or found == journal:
            continue
        try:
            file = disk.open(root / "journals" / found, "read")
        except OSError:
            continue  # not a regular file, or removed meanwhile
        try:
            yield Neighbour(f"journals/{found}", file.stat().size, file.read)
        except OSError:
            continue
        finally:
            file.close()


def _leftovers(disk: Disk, root: Path, name: str) -> Iterator[str]:
    for folder, suffix in (
        ("journals", "tmp"),
        ("journals", "copy"),
        ("salvage", "tmp"),
    ):
        path = root / folder / f"{name}.{suffix}"
        if disk.stat(path) is not None:
            yield f"{folder}/{path.name}"
