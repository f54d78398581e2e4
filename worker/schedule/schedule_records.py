"""How far each schedule has come, in the record ``schedules`` of the store."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.storage.records import change

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from milepost.journal.storage.contract import Storage

FORMAT = 1


class Begun(NamedTuple):
    """An execution that a slot started."""

    slot: str
    job_id: str
    execution_id: str


class ScheduleRecord(NamedTuple):
    """The stored record of one schedule.

    Attributes:
        after: slots up to this one are done with; as a clock in `zone` shows it.
        zone: the time zone.
        last: the last execution.
        unfinished: executions that had not ended at the last look.
        started: how many slots were started.
        skipped: how many were not.
    """

    after: datetime
    zone: str
    last: Begun | None = None
    unfinished: tuple[Begun, ...] = ()
    started: int = 0
    skipped: int = 0


class UnreadableSchedules(ValueError):
    """The record is damaged, so it is unknown which slots are done with."""


class ScheduleRecords:
    """The records of the schedules of a store, by name."""

    def __init__(self, storage: Storage) -> None:
        self._record = storage.record("schedules")

    def read(self) -> dict[str, ScheduleRecord]:
        """Return the record of each schedule; empty in a new store.

        Raises:
            UnreadableSchedules: the record is damaged.
            OSError: it cannot be read.
        """
        found = self._record.get()
        return {} if found is None else _decoded(found.value)

    def write(self, name: str, record: ScheduleRecord) -> None:
        """Store the record of a schedule durably.

        Raises:
            OSError: it cannot be written; the previous content is unchanged.
        """

        def added(raw: bytes | None) -> bytes:
            known = {}
            with suppress(UnreadableSchedules):
                known = {} if raw is None else _decoded(raw)
            return _encoded({**known, name: record})

        change(self._record, added)

    def forget_others(self, names: Collection[str]) -> None:
        """Forget the schedules that are not configured any more.

        One that is added again later begins as a new one.

        Raises:
            OSError: the record cannot be written.
        """
        with suppress(UnreadableSchedules):
            if self.read().keys() <= {*names}:
                return

        def left(raw: bytes | None) -> bytes:
            known = {}
            with suppress(UnreadableSchedules):
                known = {} if raw is None else _decoded(raw)
            return _encoded({n: known[n] for n in known if n in names})

        change(self._record, left)


def _encoded(records: Mapping[str, ScheduleRecord]) -> bytes:
    found = {name: _fields(record) for name, record in records.items()}
    document = {"format": FORMAT, "schedules": found}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def _fields(record: ScheduleRecord) -> dict[str, Any]:
    return {
        **record._asdict(),
        "after": record.after.isoformat(timespec="seconds"),
        "last": None if record.last is None else [*record.last],
        "unfinished": [[*each] for each in record.unfinished],
    }


def _decoded(raw: bytes) -> dict[str, ScheduleRecord]:
    try:
        document = orjson.loads(raw)
        if document["format"] != FORMAT:
            raise UnreadableSchedules(f"schedules: format {document['format']!r}")
        return {name: _record(each) for name, each in document["schedules"].items()}
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise UnreadableSchedules(f"schedules: invalid content: {exc}") from exc


def _record(known: dict[str, Any]) -> ScheduleRecord:
    last = known["last"]
    return ScheduleRecord(
        datetime.fromisoformat(known["after"]),
        known["zone"],
        None if last is None else Begun(*last),
        tuple(Begun(*each) for each in known["unfinished"]),
        known["started"],
        known["skipped"],
    )
