"""Stores of states beside this one, each at its best; and the floor, a bare append."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import orjson

from benchmarks.stores import JOB, STEP, unsynced
from milepost import CheckpointManager
from milepost.journal.storage.files.storage import FileStorage

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence
    from pathlib import Path

    from milepost import CheckpointInfo

# A log of 16 MB.  SQLite's default of 4 MB is copied into the database every 40 rows of
# 100 KB; a log that is never copied grows for ever, and is slower than one whose blocks
# are used again.
LOG_PAGES = 4_000
_PATIENCE_SECONDS = 60
_AT = "2026-11-23T05:00:00.123456Z"


class Peer(Protocol):
    """A store of one job's states, numbered from 1."""

    def save(self, state: dict[str, Any]) -> object:
        """Store the next state, durably unless it was opened otherwise."""

    def load(self, number: int) -> Any:
        """Return a state."""

    def latest(self) -> Any:
        """Return the newest state."""

    def list(self) -> Sequence[object]:
        """Describe every state, oldest first."""

    def close(self) -> None:
        """Close its files."""


@runtime_checkable
class Paged(Peer, Protocol):
    """One that can describe a part of its states."""

    def page(self, after: int, limit: int) -> Sequence[object]:
        """Describe up to `limit` states after number `after`."""


@runtime_checkable
class Removing(Peer, Protocol):
    """One that can delete states."""

    def keep_last(self, keep: int) -> None:
        """Delete all but the newest `keep`, durably, and give their space back."""


@runtime_checkable
class Logged(Peer, Protocol):
    """One that is faster once it has free space in its files."""

    def warm_up(self) -> None:
        """Bring its files to the size that they have in the long run."""


class BareAppend:
    """The floor: one `write` and one `fdatasync`, and nothing else."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._data = os.urandom(size_bytes)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = os.open(path, flags, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def save(self) -> None:
        """Append the bytes, durably."""
        os.write(self._fd, self._data)
        os.fdatasync(self._fd)

    def save_checked(self, state: dict[str, Any]) -> None:
        """Do the least work of a save in Python that can be verified later."""
        hashlib.sha256(orjson.dumps(state)).digest()
        self.save()


class Milepost:
    """This project, through its public calls."""

    def __init__(
        self, folder: Path, job: str = JOB, *, is_durable: bool = True, **options: Any
    ) -> None:
        storage = FileStorage(folder) if is_durable else unsynced(folder)
        storage.make_root()
        self._manager = CheckpointManager(storage=storage, **options)
        self._job = job
        self._ids: list[str] = []

    def save(self, state: dict[str, Any]) -> object:
        """See `Peer.save`."""
        return self._manager.save(self._job, STEP, state)

    def look_up(self) -> None:
        """Read the ids, which callers of `load` would know."""
        self._ids = [info.checkpoint_id for info in self.list()]

    def load(self, number: int) -> Any:
        """See `Peer.load`; `look_up` comes first."""
        return self._manager.get(self._job, self._ids[number - 1]).state

    def latest(self) -> Any:
        """See `Peer.latest`."""
        newest = self._manager.latest(self._job, with_state=True)
        assert newest is not None
        return newest.state

    def list(self) -> builtins.list[CheckpointInfo]:
        """See `Peer.list`."""
        return self._manager.list(self._job)

    def page(self, after: int, limit: int) -> builtins.list[CheckpointInfo]:
        """See `Paged.page`; the first event opens the job."""
        return self._manager.page(self._job, limit=limit, after_seq=after + 1)

    def keep_last(self, keep: int) -> None:
        """See `Removing.keep_last`; what is removed can no longer be undeleted."""
        self._manager.trash_seconds = 0.0
        self._manager.cleanup(self._job, keep)
        self._manager.compact(self._job)

    def close(self) -> None:
        """See `Peer.close`."""
        self._manager.close()


class JsonFiles:
    """One JSON file for each state, written to another name, synced and renamed."""

    def __init__(
        self, folder: Path, job: str = JOB, *, is_durable: bool = True
    ) -> None:
        self._folder = folder / job
        self._folder.mkdir(parents=True, exist_ok=True)
        self._is_durable = is_durable

    @cached_property
    def _numbers(self) -> count[int]:
        return count(len(self._names()) + 1)

    def save(self, state: dict[str, Any]) -> None:
        """See `Peer.save`."""
        path = self._path(next(self._numbers))
        if not self._is_durable:
            path.write_bytes(orjson.dumps(state))
            return
        other = path.with_suffix(".tmp")
        with other.open("wb") as file:
            file.write(orjson.dumps(state))
            file.flush()
            os.fsync(file.fileno())
        other.rename(path)
        self._sync_names()

    def _names(self) -> builtins.list[str]:
        return os.listdir(self._folder)  # noqa: PTH208 - it is faster

    def _path(self, number: int) -> Path:
        return self._folder / f"checkpoint_{number:06d}.json"

    def _sync_names(self) -> None:
        """Make names durable: a synced file may have none after a crash."""
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def load(self, number: int) -> Any:
        """See `Peer.load`."""
        return orjson.loads(self._path(number).read_bytes())

    def latest(self) -> Any:
        """See `Peer.latest`."""
        return orjson.loads((self._folder / max(self._names())).read_bytes())

    def list(self) -> builtins.list[tuple[str, int]]:
        """Return name and size of each; no file is opened."""
        with os.scandir(self._folder) as found:
            return sorted((entry.name, entry.stat().st_size) for entry in found)

    def keep_last(self, keep: int) -> None:
        """See `Removing.keep_last`."""
        for name in sorted(self._names())[:-keep]:
            (self._folder / name).unlink()
        self._sync_names()

    def close(self) -> None:
        """Do nothing: no file stays open."""


def reuse_log(db: sqlite3.Connection) -> None:
    """Give a database in WAL mode a log of its full size, and free pages."""
    db.execute("CREATE TABLE space (bytes)")
    db.execute("INSERT INTO space VALUES (zeroblob(?))", (LOG_PAGES * 4096,))
    db.execute("DROP TABLE space")
    db.commit()
    db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()


def set_pragmas(db: sqlite3.Connection, *, is_durable: bool) -> None:
    """Set WAL mode, the synced mode FULL or none, and the length of the log."""
    db.execute("PRAGMA journal_mode=WAL").fetchall()
    db.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'OFF'}")
    db.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}").fetchall()


class SqliteRows:
    """One row for each state, in WAL mode, synced at every commit."""

    def __init__(
        self, folder: Path, job: str = JOB, *, is_durable: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            folder / "rows.db", isolation_level=None, timeout=_PATIENCE_SECONDS
        )
        set_pragmas(self._db, is_durable=is_durable)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS checkpoints (seq INTEGER PRIMARY KEY, id TEXT,"
            " job TEXT, step TEXT, at TEXT, state BLOB)"
        )
        self._job = job

    def warm_up(self) -> None:
        """See `Logged.warm_up`."""
        reuse_log(self._db)

    def save(self, state: dict[str, Any]) -> None:
        """See `Peer.save`; a transaction of its own."""
        self._db.execute(
            "INSERT INTO checkpoints (id, job, step, at, state) VALUES (?,?,?,?,?)",
            (new_id(), self._job, STEP, _AT, orjson.dumps(state)),
        )

    def load(self, number: int) -> Any:
        """See `Peer.load`."""
        row = self._db.execute(
            "SELECT state FROM checkpoints WHERE seq=?", (number,)
        ).fetchone()
        return orjson.loads(row[0])

    def latest(self) -> Any:
        """See `Peer.latest`."""
        row = self._db.execute(
            "SELECT state FROM checkpoints WHERE job=? ORDER BY seq DESC LIMIT 1",
            (self._job,),
        ).fetchone()
        return orjson.loads(row[0])

    def list(self) -> builtins.list[Any]:
        """Return every row without its state."""
        return self.page(0, -1)

    def page(self, after: int, limit: int) -> builtins.list[Any]:
        """See `Paged.page`."""
        return self._db.execute(
            "SELECT seq, id, job, step, at FROM checkpoints WHERE job=? AND seq>?"
            " ORDER BY seq LIMIT ?",
            (self._job, after, limit),
        ).fetchall()

    def keep_last(self, keep: int) -> None:
        """See `Removing.keep_last`."""
        self._db.execute(
            "DELETE FROM checkpoints WHERE seq <="
            " (SELECT max(seq) - ? FROM checkpoints WHERE job=?)",
            (keep, self._job),
        )
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """See `Peer.close`."""
        self._db.close()


def new_id() -> str:
    """Return an id as Milepost's are."""
    return f"{STEP}_1795410000_{os.urandom(4).hex()}"


def key(job: str, number: int) -> str:
    """Return a key that sorts by number and says what a list shows."""
    return f"{job}/{number:010d}/{new_id()}/{STEP}/{_AT}"
