"""What Milepost is measured beside, what each does not do, and those to install."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from benchmarks.peers import (
    LOG_PAGES,
    JsonFiles,
    Milepost,
    SqliteRows,
    key,
    reuse_log,
    set_pragmas,
)
from benchmarks.stores import JOB, checkpoints

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from benchmarks.peers import Peer
    from benchmarks.running import Run

OURS = "Milepost"
PLAIN = "Milepost, codec json"
SQLITE = "SQLite"
DBOS = "DBOS"
ABSURD = "Absurd"
_MAP_BYTES = 1 << 33
_SPACE_BYTES = 16 << 20
_PATIENCE_SECONDS = 60


class Contender(NamedTuple):
    """Another system.

    Attributes:
        opening: opens a store of states in a folder, as `Peer` says; None if it has
            only durable steps.
        how: how it is set up, if that is no default.
        lacks: what it does not do, in a short phrase.
        package: the distribution that must be installed; None for what Python has.
    """

    name: str
    opening: Callable[..., Peer] | None
    how: str
    lacks: str
    package: str | None = None


class LmdbRows:
    """One key for each state; the key has all that a list shows."""

    def __init__(
        self, folder: Path, job: str = JOB, *, is_durable: bool = True
    ) -> None:
        import lmdb

        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._lmdb, self._is_durable = folder, lmdb, is_durable
        self._db = self._opened()
        self._job = job

    @cached_property
    def _numbers(self) -> count[int]:
        return count(self._count() + 1)

    def _count(self) -> int:
        newest = self._newest()
        return int(newest[0].split(b"/")[1]) if newest else 0

    def _opened(self) -> Any:
        return self._lmdb.open(
            str(self._folder), map_size=_MAP_BYTES, sync=self._is_durable
        )

    def _newest(self) -> tuple[bytes, bytes] | None:
        with self._db.begin() as reading, reading.cursor() as cursor:
            # "0" follows "/": the first key after those of the job.
            behind = cursor.set_range(f"{self._job}0".encode())
            found = cursor.prev() if behind else cursor.last()
            return cursor.item() if found else None

    def warm_up(self) -> None:
        """See `Logged.warm_up`."""
        with self._db.begin(write=True) as writing:
            writing.put(b"space", bytes(_SPACE_BYTES))
        for _ in range(3):  # pages are used again two transactions later
            with self._db.begin(write=True) as writing:
                writing.delete(b"space")
                writing.put(b"space", b"")
        with self._db.begin(write=True) as writing:
            writing.delete(b"space")

    def save(self, state: dict[str, Any]) -> None:
        """See `Peer.save`."""
        name = key(self._job, next(self._numbers)).encode()
        with self._db.begin(write=True) as writing:
            writing.put(name, orjson.dumps(state))

    def load(self, number: int) -> Any:
        """See `Peer.load`."""
        with self._db.begin(buffers=True) as reading, reading.cursor() as cursor:
            cursor.set_range(f"{self._job}/{number:010d}".encode())
            return orjson.loads(cursor.value())

    def latest(self) -> Any:
        """See `Peer.latest`."""
        newest = self._newest()
        assert newest is not None
        return orjson.loads(newest[1])

    def list(self) -> builtins.list[list[str]]:
        """Return the parts of every key."""
        return self.page(0, 1 << 40)

    def page(self, after: int, limit: int) -> builtins.list[list[str]]:
        """See `Paged.page`."""
        found: list[list[str]] = []
        with self._db.begin() as reading, reading.cursor() as cursor:
            if cursor.set_range(f"{self._job}/{after + 1:010d}".encode()):
                for name in cursor.iternext(values=False):
                    parts = name.decode().split("/")
                    if len(found) == limit or parts[0] != self._job:
                        break
                    found.append(parts)
        return found

    def keep_last(self, keep: int) -> None:
        """See `Removing.keep_last`; only a copy of the file is shorter."""
        surplus = self._count() - keep
        with self._db.begin(write=True) as writing, writing.cursor() as cursor:
            cursor.set_range(f"{self._job}/".encode())
            for _ in range(surplus):
                cursor.delete()
        copied = self._folder / "copy"
        copied.mkdir()
        self._db.copy(str(copied), compact=True)
        self._db.close()
        (copied / "data.mdb").replace(self._folder / "data.mdb")
        copied.rmdir()
        self._db = self._opened()

    def close(self) -> None:
        """See `Peer.close`."""
        self._db.close()


class DiskCacheRows:
    """One item for each state.

    All are kept in its database, because its files for large items are never synced.
    """

    def __init__(
        self, folder: Path, job: str = JOB, *, is_durable: bool = True
    ) -> None:
        import diskcache

        self._cache = diskcache.Cache(
            str(folder),
            timeout=_PATIENCE_SECONDS,
            eviction_policy="none",
            cull_limit=0,
            disk_min_file_size=1 << 30,
            sqlite_synchronous=2 if is_durable else 0,
            sqlite_wal_autocheckpoint=LOG_PAGES,
        )
        self._job = job

    @cached_property
    def _numbers(self) -> count[int]:
        return count(len(self._cache) + 1)

    def warm_up(self) -> None:
        """See `Logged.warm_up`."""
        self._cache["space"] = bytes(_SPACE_BYTES)
        del self._cache["space"]

    def save(self, state: dict[str, Any]) -> None:
        """See `Peer.save`."""
        self._cache[self._key(next(self._numbers))] = orjson.dumps(state)

    def _key(self, number: int) -> str:
        return f"{self._job}/{number:010d}"

    def load(self, number: int) -> Any:
        """See `Peer.load`."""
        return orjson.loads(self._cache[self._key(number)])

    def latest(self) -> Any:
        """See `Peer.latest`."""
        return orjson.loads(self._cache.peekitem(last=True)[1])

    def list(self) -> builtins.list[str]:
        """Return every key."""
        return list(self._cache)

    def keep_last(self, keep: int) -> None:
        """See `Removing.keep_last`; its database shrinks by itself."""
        surplus = len(self._cache) - keep
        with self._cache.transact():
            for number in range(1, surplus + 1):
                del self._cache[self._key(number)]

    def close(self) -> None:
        """See `Peer.close`."""
        self._cache.close()


class StoredEvents:
    """One event for each state, through the recorder of eventsourcing for SQLite."""

    def __init__(
        self, folder: Path, job: str = JOB, *, is_durable: bool = True
    ) -> None:
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.sqlite import SQLiteAggregateRecorder, SQLiteDatastore

        folder.mkdir(parents=True, exist_ok=True)
        store = SQLiteDatastore(
            db_name=str(folder / "events.db"),
            lock_timeout=_PATIENCE_SECONDS,
            pool_size=1,
            max_overflow=0,
            originator_id_type="text",
        )
        self._recorder = SQLiteAggregateRecorder(store)
        self._recorder.create_table()
        with store.get_connection(commit=True) as connection:
            self._db = connection.cursor().sqlite_cursor.connection
            set_pragmas(self._db, is_durable=is_durable)
        self._event, self._job = StoredEvent, job

    @cached_property
    def _numbers(self) -> count[int]:
        newest = self._recorder.select_events(self._job, desc=True, limit=1)
        return count(newest[0].originator_version + 1 if newest else 1)

    def warm_up(self) -> None:
        """See `Logged.warm_up`."""
        reuse_log(self._db)

    def save(self, state: dict[str, Any]) -> None:
        """See `Peer.save`."""
        event = self._event(
            originator_id=self._job,
            originator_version=next(self._numbers),
            topic="extract",
            state=orjson.dumps(state),
        )
        self._recorder.insert_events([event])

    def load(self, number: int) -> Any:
        """See `Peer.load`."""
        (found,) = self._recorder.select_events(self._job, gt=number - 1, lte=number)
        return orjson.loads(found.state)

    def latest(self) -> Any:
        """See `Peer.latest`."""
        (found,) = self._recorder.select_events(self._job, desc=True, limit=1)
        return orjson.loads(found.state)

    def list(self) -> Any:
        """Return every event; it has no list without states."""
        return self._recorder.select_events(self._job)

    def page(self, after: int, limit: int) -> Any:
        """See `Paged.page`."""
        return self._recorder.select_events(self._job, gt=after, limit=limit)

    def close(self) -> None:
        """See `Peer.close`."""
        self._recorder.datastore.close()


class LangGraphRows:
    """One checkpoint of a thread for each state, through LangGraph's SqliteSaver."""

    def __init__(
        self, folder: Path, job: str = JOB, *, is_durable: bool = True
    ) -> None:
        from langgraph.checkpoint.sqlite import SqliteSaver

        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            folder / "threads.db", check_same_thread=False, timeout=_PATIENCE_SECONDS
        )
        self._saver = SqliteSaver(self._db)
        self._saver.setup()
        set_pragmas(self._db, is_durable=is_durable)
        self._job = job

    @cached_property
    def _numbers(self) -> count[int]:
        newest = self._saver.get_tuple(self._config())
        return count(int(newest.checkpoint["id"]) + 1 if newest else 1)

    def _config(self, number: int | None = None) -> dict[str, Any]:
        found = {"thread_id": self._job, "checkpoint_ns": ""}
        if number:
            found["checkpoint_id"] = f"{number:010d}"
        return {"configurable": found}

    def warm_up(self) -> None:
        """See `Logged.warm_up`."""
        reuse_log(self._db)

    def save(self, state: dict[str, Any]) -> None:
        """See `Peer.save`."""
        number = next(self._numbers)
        checkpoint = {
            "v": 4,
            "id": f"{number:010d}",
            "ts": "2026-11-23T05:00:00.123456+00:00",
            "channel_values": {"state": state},
            "channel_versions": {"state": number},
            "versions_seen": {},
            "updated_channels": ["state"],
        }
        metadata = {"source": "loop", "step": number, "parents": {}}
        self._saver.put(self._config(number - 1), checkpoint, metadata, {})

    def load(self, number: int) -> Any:
        """See `Peer.load`."""
        return self._state(number)

    def latest(self) -> Any:
        """See `Peer.latest`."""
        return self._state()

    def _state(self, number: int | None = None) -> Any:
        found = self._saver.get_tuple(self._config(number))
        return found.checkpoint["channel_values"]["state"]

    def list(self) -> builtins.list[Any]:
        """Return every checkpoint; it has no list without states."""
        return list(self._saver.list(self._config()))

    def close(self) -> None:
        """See `Peer.close`."""
        self._db.close()


CONTENDERS = (
    Contender(
        SQLITE,
        SqliteRows,
        "a row for each state, WAL, synchronous=FULL, a log of 16 MB",
        "no digest of a state, no history of removals, no retention",
    ),
    Contender(
        "LMDB",
        LmdbRows,
        "synced at each commit; a list reads keys",
        "no digest, no history, no retention, no queries; its size has a fixed limit",
        "lmdb",
    ),
    Contender(
        "JSON files",
        JsonFiles,
        "a file for each state, synced, renamed, its folder synced",
        "no digest, no history, no retention, no order of writers",
    ),
    Contender(
        "diskcache",
        DiskCacheRows,
        "synchronous=FULL, no eviction, all values in the database",
        "not durable by default; no digest, no history, no list but of keys",
        "diskcache",
    ),
    Contender(
        "eventsourcing",
        StoredEvents,
        "the recorder for SQLite alone, WAL, synchronous=FULL",
        "no digest, no removal, no retention, no list without states",
        "eventsourcing",
    ),
    Contender(
        "LangGraph",
        LangGraphRows,
        "SqliteSaver, WAL, synchronous=FULL",
        "no digest, no removal but of a whole thread, no list without states",
        "langgraph-checkpoint-sqlite",
    ),
    Contender(
        DBOS,
        None,
        "its system database in SQLite, a full sync for each commit",
        "only durable steps; no digest, no history of changes",
        "dbos",
    ),
    Contender(
        ABSURD,
        None,
        "in PostgreSQL with its defaults, over a Unix socket",
        "only durable steps; no forks; needs a server and ABSURD_DATABASE_URL",
        "absurd-sdk",
    ),
)
NAMES = (OURS, *(contender.name for contender in CONTENDERS))


def installed(contender: Contender) -> str | None:
    """Return the version of a contender, "" for what Python has, None if missing."""
    if contender.package is None:
        return sqlite3.sqlite_version if contender.name == SQLITE else ""
    try:
        return version(contender.package)
    except PackageNotFoundError:
        return None


def stores_of_states() -> dict[str, Callable[..., Peer]]:
    """Return how to open Milepost and each installed store of states."""
    return {OURS: Milepost} | {
        contender.name: contender.opening
        for contender in CONTENDERS
        if contender.opening is not None and installed(contender) is not None
    }


def opened(folder: Path, *, is_durable: bool = True) -> Iterator[tuple[str, Peer]]:
    """Open each installed store of states in a folder of its own."""
    for name, opening in stores_of_states().items():
        yield name, opening(folder / name, is_durable=is_durable)


def filled(run: Run, count: int, *, without: Collection[str] = ()) -> dict[str, Path]:
    """Return the folder of a store of `count` small states of each; made once a run."""
    found = {OURS: checkpoints(run, count)}
    for name, opening in stores_of_states().items():
        folder = run.folder / f"filled-{count}" / name
        if name in without or name == OURS:
            continue
        found[name] = folder
        if not folder.exists():
            with closing(opening(folder, is_durable=False)) as peer:
                for number in range(count):
                    peer.save({"done": number})
    return found
