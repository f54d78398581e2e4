"""The store in a local folder, shared by the processes of one machine."""

from __future__ import annotations

import logging
import resource
import threading
import weakref
from bisect import bisect_right
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson

from milepost.journal import ids
from milepost.journal.clock import boot_seconds, utc_now
from milepost.journal.disk.disk import (
    PRIVATE_FOLDER,
    SHARED_FOLDER,
    Disk,
    PosixDisk,
    make_folder_like,
    within,
)
from milepost.journal.disk.whole_file import append_all
from milepost.journal.errors import (
    LockTimeout,
    MilepostError,
    NewerFormat,
    StorageFailed,
)
from milepost.journal.process import forks
from milepost.journal.process.mutex import Mutex
from milepost.journal.storage import changes
from milepost.journal.storage.contract import PAGE_JOBS
from milepost.journal.storage.files import cache
from milepost.journal.storage.files.cached_file import CachedFile
from milepost.journal.storage.files.expiring_lease_file import ExpiringLeaseFile
from milepost.journal.storage.files.failures import fail, failure
from milepost.journal.storage.files.file_job import FileJob
from milepost.journal.storage.files.folders import Durability, Folders, Place
from milepost.journal.storage.files.lease_file import LeaseFile
from milepost.journal.storage.files.listing import SMALL_BYTES, Listing
from milepost.journal.storage.files.record_file import RecordFile
from milepost.journal.storage.files.recovery import snapshot
from milepost.journal.storage.files.recovery.salvage import SalvageFolder
from milepost.journal.storage.leases import check_ttl
from milepost.journal.storage.records import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from milepost.journal.states.access import Vault
    from milepost.journal.storage.changes import Changes
    from milepost.journal.storage.files.recovery.snapshot import Evidence
    from milepost.journal.storage.files.repair.repair import FileRepairer
    from milepost.journal.storage.leases import Lease

_log = logging.getLogger("milepost.journal")

Sharing = Literal["private", "group"]

FORMAT = 1
# Journals keep at most a quarter of the process's descriptors open, two per journal.
_DESCRIPTORS_PER_JOURNAL = 8
_FEWEST_OPEN, _MOST_OPEN = 4, 1000


class FileStorage:
    """A `Storage` in a folder of the local disk.

    Args:
        root: the folder; created by `make_root` or the first save, never by a read.
        durability: ``always`` syncs before each acknowledgement; ``interval`` syncs in
            the background; ``never`` leaves it to the operating system until `close`.
        interval_seconds: how long an acknowledged write may stay unsynced under
            ``interval``.
        lock_timeout_seconds: how long to wait for another process's write.
        shared: access to a store that is created here: ``private`` for its owner,
            ``group`` for the group of its folder too.  Existing stores are unchanged.
        disk: the file operations; tests replace it.
        steady: the clock of the deadlines of leases; tests replace it.
    """

    def __init__(
        self,
        root: Path,
        *,
        durability: Durability = "always",
        interval_seconds: float = 0.2,
        lock_timeout_seconds: float = 30.0,
        shared: Sharing = "private",
        disk: Disk | None = None,
        steady: Callable[[], float] = boot_seconds,
    ) -> None:
        self.root = root
        self._steady = steady
        self._folder_mode = SHARED_FOLDER if shared == "group" else PRIVATE_FOLDER
        self._folders = Folders.of(root)
        self._durability: Durability = durability
        self._interval_seconds = interval_seconds
        self._lock_timeout_seconds = lock_timeout_seconds
        self._disk: Disk = PosixDisk() if disk is None else disk
        self._salvage = SalvageFolder(self._disk, self._folders.salvage)
        self._listing = Listing(self._disk, self._folders)
        path = root / "store.json"
        parse = partial(_store_id_in, path)
        self._store_file = CachedFile(self._disk, path, SMALL_BYTES, parse)
        self._records: weakref.WeakSet[RecordFile] = weakref.WeakSet()
        # Those with open files, the longest open first; dicts keep their order.
        self._files: dict[str, FileJob] = {}
        self._removed = Counter[str]()
        self._guard = Mutex()
        self._preparing = Mutex()
        self._durable_id: str | None = None  # of the store whose folders are synced
        self._flusher: threading.Thread | None = None
        self._stop_flusher = threading.Event()
        forks.watch(self)

    # -- the store ---------------------------------------------------------------

    @property
    def store_id(self) -> str | None:
        """See `Storage.store_id`."""
        # The folder may be removed and another store created in its place.
        try:
            return self._store_file.get()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise failure(exc, f"cannot read {self.root / 'store.json'}") from exc

    def make_root(self) -> None:
        """Create the folder and sync its name; if that fails, `create` raises later."""
        with suppress(OSError):
            self._make_root()

    def _make_root(self) -> None:
        missing = [p for p in self._ancestors() if self._disk.stat(p) is None]
        self._disk.make_folder(self.root, mode=self._folder_mode)
        for folder in missing:
            self._disk.sync_folder(folder.parent)

    def _known_id(self) -> str | None:
        try:
            return self.store_id
        except MilepostError:
            return None  # reported by other calls; the hash chain does not need it

    def create(self) -> str:
        """See `Storage.create`."""
        try:
            known = self.store_id
            if known is not None and known == self._durable_id:
                return known
            found = self._create() if known is None else known
            self._disk.make_folder(self._folders.journals, mode=self._folder_mode)
            make_folder_like(self._disk, self._folders.heads, self._folders.journals)
            # Their creator may have crashed before it synced their names.  Once they
            # are durable, a power cut cannot take `heads` and leave a journal.
            for folder in (self.root, self.root.parent):
                self._disk.sync_folder(folder)
        except OSError as exc:
            fail(exc, f"cannot make a store in {self.root}")
        self._durable_id = found
        return found

    def _create(self) -> str:
        self._make_root()
        self._disk.check_supported(self.root)
        path = self.root / "store.json"
        if self._disk.names(self._folders.journals):
            if self.store_id is not None:  # another process has just created it
                return self.store_id
            raise StorageFailed(
                f"{path} is missing, but the store has journals",
                hint="restore it from a backup; the first line of every journal has "
                'the store id for it: {"format":1,"store":"…"}',
            )
        # Created first, because all other files take their permissions from it.
        self._disk.make_folder(self._folders.journals, mode=self._folder_mode)
        temporary = self.root / f"store.{ids.new_nonce()}.tmp"
        file = self._disk.open(
            temporary, "append", create=True, like=self._folders.journals
        )
        try:
            mine = orjson.dumps({"format": FORMAT, "store": ids.new_nonce()}) + b"\n"
            append_all(file, mine, path)
            file.sync(metadata=True)
            try:
                self._disk.link(temporary, path)
            except FileExistsError:
                _log.debug("another process created %s first", path)
            self._disk.sync_folder(self.root)
        finally:
            file.close()
            self._disk.unlink(temporary)
        found = self.store_id
        assert found is not None
        return found

    def _ancestors(self) -> list[Path]:
        root = self.root.absolute()
        return [root, *root.parents]

    def record(self, name: str) -> RecordFile:
        """See `Storage.record`."""
        check_name(name)
        made = RecordFile(self._disk, self._folders, name, self._lock_timeout_seconds)
        self._records.add(made)
        return made

    def lease(self, name: str, ttl_seconds: float | None = None) -> Lease:
        """See `Storage.lease`."""
        check_name(name)
        disk, folders, ttl = self._disk, self._folders, check_ttl(ttl_seconds)
        if ttl is None:
            return LeaseFile(disk, folders, name, self._lock_timeout_seconds)
        return ExpiringLeaseFile(disk, folders, name, ttl, self._steady)

    def wait_for_writers(self) -> None:
        """See `Storage.wait_for_writers`."""
        try:
            # All heads, not all jobs: the first write to a job may be in progress.
            for name in self._disk.names(self._folders.heads):
                self._wait_for_writer(self._folders.heads / name)
        except OSError as exc:
            fail(exc, f"cannot lock the jobs of {self.root}")

    def _wait_for_writer(self, path: Path) -> None:
        found = self._disk.stat(path)
        while found is not None:
            try:
                file = self._disk.open(path, "read")
            except FileNotFoundError:
                return
            try:
                if not within(self._lock_timeout_seconds, file.try_lock):
                    raise LockTimeout(f"{path} stayed locked by a writer")
                found = self._disk.stat(path)
                if found is not None and found.inode == file.stat().inode:
                    return
            finally:
                file.close()

    def jobs(self, after: str = "", limit: int = PAGE_JOBS) -> list[str]:
        """See `Storage.jobs`: the folders are listed again after a change of names."""
        found = [*self._listing.jobs(_now_ns())]
        first = bisect_right(found, after)
        return found[first : first + limit]

    def changed(self, cursor: str | None) -> Changes:
        """See `Storage.changed`: two `stat` per job."""
        now_ns = _now_ns()
        names = self._listing.jobs(now_ns)
        marks = {job: self._listing.fingerprint(n, now_ns) for job, n in names.items()}
        return changes.since(cursor, self._known_id(), marks)

    # -- one job -----------------------------------------------------------------

    def job(self, job_id: str) -> FileJob:
        """See `Storage.job`."""
        found = self._files.get(job_id)
        if found is not None:
            return found
        place = Place(
            self._disk,
            self._folders,
            self._salvage,
            self._listing.name_of(job_id),
            job_id,
            self._known_id,
            self._durability,
            self._lock_timeout_seconds,
            self._has_files_open,
            self._writes,
            self,
            self._removed,
            self._preparing,
        )
        return self._listed(FileJob(place))

    def recall(self) -> bytes | None:
        """See `Storage.recall`."""
        return cache.load(self._disk, self._folders)

    def keep(self, value: bytes) -> None:
        """See `Storage.keep`."""
        cache.keep(self._disk, self._folders, value)

    def _has_files_open(self, file: FileJob) -> bool:
        return self._listed(file) is file

    def _listed(self, file: FileJob) -> FileJob:
        """Return the listed files of a job; the number of open ones is bounded."""
        found = self._files.setdefault(file.job_id, file)
        surplus = len(self._files) - _most_open()
        for job_id in list(self._files)[: max(surplus, 0)]:
            oldest = self._files.get(job_id)
            # `retire` may sync, and wait for another process's write.
            if oldest is not None and oldest is not file and oldest.retire():
                self._files.pop(job_id, None)
        return found

    def _writes(self) -> None:
        if self._durability == "interval" and self._flusher is None:
            self._start_flusher()

    def repairer(
        self, vault: Vault, clock: Callable[[], datetime], actor: str
    ) -> FileRepairer:
        """See `Storage.repairer`."""
        from milepost.journal.storage.files.repair.repair import (
            FileRepairer,  # imported late: rarely needed
        )

        return FileRepairer(self, vault, clock, actor)

    @contextmanager
    def evidence(self, job_id: str) -> Iterator[Evidence]:
        """Take a read-only snapshot of a job's files, without recovery.

        Raises:
            StorageFailed: they cannot be read.
        """
        try:
            with snapshot.of_files(
                self._disk, self._salvage, self._listing.name_of(job_id)
            ) as found:
                yield found
        except OSError as exc:
            fail(exc, f"cannot read the files of job {job_id!r}")

    # -- durability = interval ---------------------------------------------------

    def _start_flusher(self) -> None:
        self._guard.hold(self._start_one_flusher)

    def _start_one_flusher(self) -> None:
        if self._flusher is None:
            flusher = threading.Thread(
                target=_flush_regularly,
                args=(weakref.ref(self), self._stop_flusher, self._interval_seconds),
                name="milepost-flusher",
                daemon=True,
            )
            flusher.start()
            self._flusher = flusher

    def flush(self) -> None:
        """See `Storage.flush`."""
        failed: MilepostError | None = None
        for file in list(self._files.values()):
            try:
                file.flush()
            except MilepostError as exc:  # one job's failure must not stop the others
                failed = failed or exc
        if failed is not None:
            raise failed

    def close(self) -> None:
        """See `Storage.close`."""
        self._stop_flusher.set()
        self._store_file.close()
        for record in list(self._records):
            record.close()
        if self._flusher is not None:
            self._flusher.join()
            self._flusher = None
            self._stop_flusher = threading.Event()
        try:
            self.flush()
        except MilepostError:
            if self._durability != "never":
                raise
            _log.warning("%s: cannot sync on close", self.root, exc_info=True)
        finally:
            for job_id, file in list(self._files.items()):
                file.close()  # waits for a write in progress
                self._files.pop(job_id, None)

    def after_fork(self) -> None:
        """Release, in a forked child, the files of the parent.

        The child shares the parent's locks.  Closing a descriptor keeps them; an unlock
        would release them, so nothing is unlocked here.
        """
        files = list(self._files.values())
        self._guard = Mutex()
        self._preparing = Mutex()
        self._files = {}
        self._flusher = None
        self._stop_flusher = threading.Event()
        for file in files:
            file.after_fork()


def _now_ns() -> int:
    return int(utc_now().timestamp() * 1e9)


def _most_open() -> int:
    """Return how many journals may stay open, given the process's descriptor limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_OPEN
    return min(max(soft // _DESCRIPTORS_PER_JOURNAL, _FEWEST_OPEN), _MOST_OPEN)


def _store_id_in(path: Path, raw: bytes) -> str:
    try:
        values = orjson.loads(raw)
        format_, store_id = values["format"], values["store"]
    except (ValueError, KeyError, TypeError) as exc:
        raise StorageFailed(
            f"{path} is not a valid store file",
            hint="restore it from a backup; the first line of every journal has the "
            'store id for it: {"format":1,"store":"…"}',
        ) from exc
    if format_ != FORMAT:
        raise NewerFormat(f"{path} has format {format_}, this version knows {FORMAT}")
    return str(store_id)


def _flush_regularly(
    storage: weakref.ref[FileStorage], stop: threading.Event, seconds: float
) -> None:
    while not stop.wait(seconds):
        alive = storage()
        if alive is None:
            return
        try:
            alive.flush()
        except MilepostError:
            # The head has the poison mark now, so the next save reports it too.
            _log.exception("a background sync failed")
        del alive
