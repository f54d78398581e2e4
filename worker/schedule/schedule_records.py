"""How far each schedule has come, in the record ``schedules`` of the store."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.worker.schedule.table import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


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


class ScheduleRecords(Table[ScheduleRecord]):
    """The records of the schedules of a store, by name."""

    name = "schedules"
    key = "schedules"
    format = 1
    unreadable = UnreadableSchedules

    def forget_others(self, names: Collection[str]) -> None:
        """Forget the schedules that are not configured any more.

        One that is added again later begins as a new one.

        Raises:
            OSError: the record cannot be written.
        """
        with suppress(UnreadableSchedules):
            if self.read().keys() <= {*names}:
                return
        self._edit(lambda known: {name: known[name] for name in known if name in names})

    @staticmethod
    def fields(entry: ScheduleRecord) -> dict[str, Any]:
        """See `Table.fields`."""
        return {
            **entry._asdict(),
            "after": entry.after.isoformat(timespec="seconds"),
            "last": None if entry.last is None else [*entry.last],
            "unfinished": [[*each] for each in entry.unfinished],
        }

    @staticmethod
    def entry(fields: Mapping[str, Any]) -> ScheduleRecord:
        """See `Table.entry`."""
        last = fields["last"]
        return ScheduleRecord(
            datetime.fromisoformat(fields["after"]),
            fields["zone"],
            None if last is None else Begun(*last),
            tuple(Begun(*each) for each in fields["unfinished"]),
            fields["started"],
            fields["skipped"],
        )
