"""The alternatives: a bare append, a file for each state, SQLite."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson

if TYPE_CHECKING:
    from pathlib import Path

Care = Literal["not synced", "synced in place", "synced and renamed"]


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


class JsonFiles:
    """One JSON file per checkpoint."""

    def __init__(self, folder: Path, care: Care) -> None:
        self._folder = folder
        self._care = care
        self._numbers = count(1)

    def save(self, state: dict[str, Any]) -> None:
        """Write the next file, durably or not."""
        path = self._folder / f"checkpoint_{next(self._numbers):06d}.json"
        is_renamed = self._care == "synced and renamed"
        target = path.with_suffix(".tmp") if is_renamed else path
        with target.open("wb") as file:
            file.write(orjson.dumps(state))
            if self._care != "not synced":
                file.flush()
                os.fsync(file.fileno())
        if is_renamed:
            target.rename(path)
            # Without this the file, though synced, may have no name after a crash.
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def load(self, number: int) -> Any:  # as `orjson.loads` says
        """Return the state with this number, from 1."""
        path = self._folder / f"checkpoint_{number:06d}.json"
        return orjson.loads(path.read_bytes())

    def list(self) -> list[tuple[str, int]]:
        """Return name and size of each, in order."""
        with os.scandir(self._folder) as found:
            return sorted((entry.name, entry.stat().st_size) for entry in found)


# At SQLite's default of 1,000 pages, every 40th row of 100 KB pays for copying the log
# into the database.  Milepost never copies on a save, so that work is excluded here.
_LOG_PAGES = 1_000_000


class SqliteRows:
    """One row per checkpoint, in WAL mode, synced at every commit.

    A row has no digest, no hash chain and no check that the state can be read back.
    """

    def __init__(self, path: Path, *, is_durable: bool = True) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        if is_durable:
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        else:
            self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS checkpoints (seq INTEGER PRIMARY KEY, id TEXT,"
            " job TEXT, step TEXT, at TEXT, state BLOB)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def save(self, state: dict[str, Any]) -> None:
        """Insert a row in a transaction of its own."""
        row = (
            f"extract_1795410000_{os.urandom(4).hex()}",
            "orders",
            "extract",
            "2026-11-23T05:00:00.123456Z",
            orjson.dumps(state),
        )
        self._db.execute(
            "INSERT INTO checkpoints (id, job, step, at, state) VALUES (?,?,?,?,?)", row
        )

    def load(self, number: int) -> Any:  # as `orjson.loads` says
        """Return the state with this number, from 1."""
        row = self._db.execute(
            "SELECT state FROM checkpoints WHERE seq=?", (number,)
        ).fetchone()
        return orjson.loads(row[0])

    def list(self) -> list[tuple[Any, ...]]:  # a row holds what its columns hold
        """Return every row of the job without its state."""
        return self._db.execute(
            "SELECT seq, id, job, step, at FROM checkpoints WHERE job=? ORDER BY seq",
            ("orders",),
        ).fetchall()

    def latest(self) -> tuple[Any, ...]:  # the same
        """Return the newest row of the job without its state."""
        row: tuple[Any, ...] = self._db.execute(
            "SELECT seq, id, job, step, at FROM checkpoints WHERE job=?"
            " ORDER BY seq DESC LIMIT 1",
            ("orders",),
        ).fetchone()
        return row
