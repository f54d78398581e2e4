"""The databases of LangGraph's own savers, read to be imported."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

import orjson
import ormsgpack
from langgraph.checkpoint.base import writes_sort_key
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from milepost.journal.errors import InvalidArgument, StorageFailed
from milepost.journal.threads import Put, Written
from milepost.langgraph.translation import as_put

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from milepost.journal.threads import Blob

_SQLITE = "sqlite:"
_POSTGRES = ("postgresql:", "postgres:")
_serde = JsonPlusSerializer()


class Found(NamedTuple):
    """A checkpoint of a source, with its writes in the order of LangGraph."""

    put: Put
    writes: tuple[Written, ...]


class Source(Protocol):
    """The threads of a database.

    Its methods raise `InvalidArgument` if it has no threads of LangGraph in a form that
    is known, and `StorageFailed` if it cannot be read.
    """

    def thread_ids(self) -> list[str]:
        """Return the ids of all threads, sorted."""

    def checkpoints(self, thread_id: str) -> Iterator[Found]:
        """Yield the checkpoints of a thread by id, one in memory at a time."""


def opened(address: str) -> AbstractContextManager[Source]:
    """Open the source of an address, to read it.

    Args:
        address: ``sqlite:PATH`` or ``postgresql://…``.

    Raises:
        InvalidArgument: it is neither, or it cannot be opened.
    """
    if address.startswith(_SQLITE):
        return _sqlite(Path(address.removeprefix(_SQLITE)))
    if address.startswith(_POSTGRES):
        return _postgres(address)
    raise InvalidArgument(f"{address!r} is neither sqlite:PATH nor postgresql://…")


@contextmanager
def _sqlite(path: Path) -> Iterator[Source]:
    if not path.is_file():
        raise InvalidArgument(f"{path} is not a file")
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        ) as connection:
            yield _Sqlite(connection)
    except sqlite3.Error as exc:
        raise InvalidArgument(f"{path} has no threads of LangGraph: {exc}") from exc


class _Sqlite:
    """The tables of `SqliteSaver` and `AsyncSqliteSaver`.

    Values are taken as they are stored: no object in them is made, and no class has to
    be importable.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        columns = connection.execute("PRAGMA table_info(writes)")
        # A database that no saver has opened since 2025 lacks the column.
        has_path = any(column[1] == "task_path" for column in columns)
        self._path = "task_path" if has_path else "''"

    def thread_ids(self) -> list[str]:
        found = self._connection.execute("SELECT DISTINCT thread_id FROM checkpoints")
        return sorted(str(row[0]) for row in found)

    def checkpoints(self, thread_id: str) -> Iterator[Found]:
        for (
            ns,
            checkpoint_id,
            parent_id,
            kind,
            data,
            metadata,
        ) in self._connection.execute(
            "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,"
            " checkpoint, metadata FROM checkpoints WHERE thread_id = ?"
            " ORDER BY checkpoint_id",
            (thread_id,),
        ):
            value = (kind, data)
            writes = self._connection.execute(
                # The column's name, or an empty string, is not of the user.
                f"SELECT task_id, {self._path}, idx, channel, type, value"  # noqa: S608
                " FROM writes WHERE thread_id = ? AND checkpoint_ns = ?"
                " AND checkpoint_id = ?",
                (thread_id, ns, checkpoint_id),
            )
            known = json.loads(metadata) if metadata else {}
            yield Found(
                _put(ns, checkpoint_id, parent_id, value, known), _writes(writes)
            )


@contextmanager
def _postgres(address: str) -> Iterator[Source]:
    try:
        import psycopg
        from langgraph.checkpoint.postgres import PostgresSaver
    except ModuleNotFoundError as exc:
        raise InvalidArgument(
            f"{exc.name} is not installed",
            hint="pip install langgraph-checkpoint-postgres 'psycopg[binary]'",
        ) from exc
    try:
        with PostgresSaver.from_conn_string(address) as saver:
            yield _Postgres(saver)
    except psycopg.OperationalError as exc:
        raise StorageFailed(" ".join(str(exc).split())) from exc
    except psycopg.Error as exc:
        problem = " ".join(str(exc).split())
        raise InvalidArgument(f"no threads of LangGraph: {problem}") from exc


class _Postgres:
    """The tables of `PostgresSaver` and its async twin.

    They keep each channel on its own, so the saver makes the objects of a checkpoint,
    whose classes should be importable, and they are serialized again.
    """

    def __init__(self, saver: Any) -> None:
        self._saver = saver

    def _rows(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        with self._saver.conn.cursor() as cursor:
            found = cursor.execute(query, values).fetchall()
        return (tuple(row.values()) for row in found)

    def thread_ids(self) -> list[str]:
        rows = self._rows("SELECT DISTINCT thread_id FROM checkpoints")
        return sorted(str(thread_id) for (thread_id,) in rows)

    def checkpoints(self, thread_id: str) -> Iterator[Found]:
        for ns, checkpoint_id, parent_id in self._rows(
            "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id"
            ' FROM checkpoints WHERE thread_id = %s ORDER BY checkpoint_id COLLATE "C"',
            thread_id,
        ):
            names = {"checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
            found = self._saver.get_tuple(
                {"configurable": {"thread_id": thread_id, **names}}
            )
            if found is None:  # deleted since
                continue
            value = _serde.dumps_typed(found.checkpoint)
            if _serde.loads_typed(value) != found.checkpoint:
                raise InvalidArgument(
                    f"thread {thread_id!r}: checkpoint {checkpoint_id} does not read"
                    " back equal",
                    hint="run the import where the modules of the graph are importable",
                )
            writes = self._rows(
                "SELECT task_id, task_path, idx, channel, type, blob"
                " FROM checkpoint_writes WHERE thread_id = %s AND checkpoint_ns = %s"
                " AND checkpoint_id = %s",
                *(thread_id, ns, checkpoint_id),
            )
            yield Found(
                _put(ns, checkpoint_id, parent_id, value, found.metadata),
                _writes(writes),
            )


def _put(
    ns: str,
    checkpoint_id: str,
    parent_id: str | None,
    value: Blob,
    metadata: Mapping[str, Any],
) -> Put:
    return as_put(
        ns, checkpoint_id, parent_id, value, metadata, _outline(value), _serde
    )


def _writes(rows: Iterator[tuple[Any, ...]] | sqlite3.Cursor) -> tuple[Written, ...]:
    found = [
        Written(task_id, task_path or "", index, channel, (kind, bytes(data or b"")))
        for task_id, task_path, index, channel, kind, data in rows
    ]
    found.sort(key=lambda w: writes_sort_key(w.task_path, w.task_id, w.idx))
    return tuple(found)


def _outline(value: Blob) -> dict[str, Any] | None:
    """Return a checkpoint without its objects; None if it is encrypted or pickled."""
    kind, data = value
    if kind == "json":
        found: dict[str, Any] = orjson.loads(data)
        return found
    if kind != "msgpack":
        return None
    outline: dict[str, Any] = ormsgpack.unpackb(
        data, ext_hook=lambda *_: None, option=ormsgpack.OPT_NON_STR_KEYS
    )
    return outline
